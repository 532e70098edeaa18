"""How commands end: exit codes, messages, JSON."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from argparse import Namespace

import pytest

from optimum_grail.commands._shared import NOISE, session
from optimum_grail.errors import DataError


def run(body, json_wanted=False, debug=False):
    with session(Namespace(json=json_wanted, debug=debug)) as out:
        body(out)


def raises(error):
    def body(out):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("rows.txt is empty."), 2, "Error: rows.txt is empty.\n"),
        (RuntimeError("odd"), 1, "Error: RuntimeError: odd (--debug shows where)\n"),
        (ValueError("odd"), 1, "Error: ValueError: odd (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "Error: interrupted; no output folder was written or changed.\n"),
    ],
)
def test_errors_become_one_line_and_a_code(capsys, error, code, message):
    with pytest.raises(SystemExit) as end:
        run(raises(error))
    assert end.value.code == code
    assert capsys.readouterr() == ("", message)


def test_debug_shows_the_traceback_and_keeps_the_code(capsys):
    with pytest.raises(SystemExit) as end:
        run(raises(DataError("empty")), debug=True)
    assert end.value.code == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def speak(out):
    out.console.print("for people")
    sys.stdout.write("a library's chatter\n")
    out.result = {"answer": 42}


def test_json_is_alone_on_standard_output(capsys):
    run(speak, json_wanted=True)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"answer": 42}
    assert "for people" in shown.err and "chatter" in shown.err


def test_people_read_standard_output(capsys):
    run(speak)
    assert "for people" in capsys.readouterr().out


def test_failure_prints_no_json(capsys):
    with pytest.raises(SystemExit):
        run(raises(DataError("empty")), json_wanted=True)
    assert capsys.readouterr().out == ""


def test_warnings_for_users_are_one_line(capsys):
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run(lambda out: warnings.warn("calibration is evaluation", UserWarning, stacklevel=1))
    assert capsys.readouterr().err == "Warning: calibration is evaluation\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(("name", "noise"), NOISE.items())
def test_only_the_noise_of_a_library_is_kept_quiet(caplog, name, noise):
    logger = logging.getLogger(name)
    run(lambda out: (logger.warning(noise + "x", *(["x"] * noise.count("%s"))), logger.warning("Out of paper.")))
    logger.warning("Afterwards.")
    assert [record.message for record in caplog.records] == ["Out of paper.", "Afterwards."]
