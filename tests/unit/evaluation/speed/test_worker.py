"""The two sides of a process."""

from __future__ import annotations

import io
import json
import warnings

import pytest

from optimum_grail.checkpoints.loading import Loading
from optimum_grail.errors import CheckpointError
from optimum_grail.evaluation.speed.worker import ERRORS, Worker, serve
from optimum_grail.evaluation.speed.workload import Workload


def answers(path, *requests):
    first = {"path": path, "loading": {"device": "cpu"}, "workload": {"kind": "images", "image": [3, 16, 16]}}
    lines = [first, *({"method": name, "arguments": given} for name, given in requests)]
    replies = io.StringIO()
    serve(io.StringIO("\n".join(map(json.dumps, lines)) + "\n"), replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_every_request_is_answered_by_a_line(folders):
    load, facts, turn = answers(folders["vit"], ("load", {}), ("facts", {}), ("turn", {"batch": 2, "passes": 2}))
    assert load["result"]["seconds"] > 0 and load["warnings"] == []
    assert facts["result"]["class"] == "ViTForImageClassification"
    assert len(turn["result"]["forward"]) == 2


def test_errors_and_warnings_are_told(monkeypatch):
    def load(self, path):
        warnings.warn("random pooler", stacklevel=1)
        raise CheckpointError("no weights") if path == "a" else KeyError(path)

    monkeypatch.setattr(Loading, "load", load)
    (ours,), (other,) = answers("a", ("load", {})), answers("b", ("load", {}))
    assert (ours["error"], ours["kind"], ours["warnings"]) == ("no weights", "CheckpointError", ["random pooler"])
    assert (other["error"], other["kind"]) == ("KeyError: 'b'", "KeyError")
    assert "Traceback" in ours["trace"] and ours["kind"] in ERRORS


@pytest.fixture
def worker():
    """A process that has nothing to load."""
    with Worker("./nowhere", Loading(), Workload("images", image=(3, 16, 16))) as worker:
        yield worker
    assert worker._process.poll() is not None, "gone with its context"


def test_a_process_raises_what_its_model_raises(worker):
    with pytest.raises(CheckpointError, match=r"'\./nowhere' does not exist") as raised:
        worker.ask("load")
    assert "Traceback" in raised.value.__notes__[0]
    with pytest.raises(RuntimeError, match="AttributeError"):
        worker.ask("facts")


def test_a_process_that_is_killed_is_told(worker):
    worker._process.kill()
    with pytest.raises(CheckpointError, match=r"ended with signal 9\. If the system stopped it, memory was short"):
        worker.ask("load")
