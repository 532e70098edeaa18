"""Ctrl-C in the first seconds: one line and exit code 130, whatever is being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from optimum_grail.commands._interrupt import NOTHING_WRITTEN, interruptible

START = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests with &
sys.argv = ["optimum-cli", "grail", "list"]
from argparse import Namespace
from optimum.commands.base import RootOptimumCLICommand
from optimum_grail.commands._shared import session
from optimum_grail.commands.grail import GrailCommand

def wait():
    print("ready", flush=True)
    time.sleep(60)

root = RootOptimumCLICommand("optimum-cli")
GrailCommand(root.subparsers)
args = Namespace(json=False, debug=False)
"""
MOMENTS = {
    "before a session": "wait()",
    "in a session": "with session(args): wait()",
    "in what turns it into another error": """
with session(args):
    try:
        wait()
    except BaseException as error:
        raise ImportError("half imported") from error
""",
}


def interrupt(code: str) -> tuple[int, str]:
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", START + code], text=True, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    return process.wait(60), process.communicate()[1]


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_line(moment: str) -> None:
    assert interrupt(MOMENTS[moment]) == (130, f"Error: {NOTHING_WRITTEN}\n")


def test_what_was_said_of_the_moment_is_kept() -> None:
    code = """
with session(args):
    try:
        wait()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; it is in doubt.")
"""
    assert interrupt(code) == (130, "Error: interrupted; it is in doubt.\n")


def test_after_a_session_nothing_is_claimed() -> None:
    assert interrupt("with session(args): pass\nwait()") == (-signal.SIGINT, "")


def test_other_programs_keep_their_handlers() -> None:
    def mine(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGINT, mine)
    try:
        with interruptible() as pressed:
            assert signal.getsignal(signal.SIGINT) is mine and not pressed()
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
