"""A :class:`Runner` in a process of its own, so that load time, threads and memory are one model's alone.

The two sides write lines of JSON to each other. Started as a module, this file is the process; :class:`Worker` is the
other side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType, TracebackType
from typing import IO, Any

from optimum_grail import errors
from optimum_grail.checkpoints.loading import Loading
from optimum_grail.errors import GrailError
from optimum_grail.evaluation.speed.runner import Runner
from optimum_grail.evaluation.speed.workload import Workload

ERRORS: Mapping[str, type[GrailError]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            *(errors.ArchitectureError, errors.CheckpointError, errors.ConfigError, errors.DataError),
            *(errors.StatisticsError, errors.UnknownNameError),
        )
    }
)
"""What a process may raise, by name."""
SAID = 4000
"""Most characters of a dead process's standard error that ``--debug`` shows."""


class Worker:
    """The side that asks. Use it as a context: at its end the process ends, whatever it is doing.

    Args:
        path: folder or Hub id.
        loading: how the model is loaded; its dtype and device are told by their names.
        workload: what a pass computes.
    """

    def __init__(self, path: str, loading: Loading, workload: Workload) -> None:
        self.path = path
        places = {name: _named(value) for name, value in asdict(loading).items()}
        found = os.pathsep.join(path or os.getcwd() for path in sys.path)  # what is imported there is what was here
        environment = os.environ | {"PYTHONPATH": found}
        command = [sys.executable, "-P", "-m", __name__]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # what libraries log is for --debug only
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the side that asks
        )
        self._write({"path": path, "loading": places, "workload": asdict(workload)})

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def ask(self, method: str, **arguments: int) -> dict[str, Any]:
        """What the method of :class:`Runner` returns; its warnings are raised here again.

        Raises:
            GrailError: what the method raised, or the process ended.
            RuntimeError: it raised something else.
        """
        self._write({"method": method, "arguments": arguments})
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise self._ended()
        reply = json.loads(line)
        for text in reply["warnings"]:
            warnings.warn(text, stacklevel=3)
        if "error" in reply:
            error = ERRORS.get(reply["kind"], RuntimeError)(reply["error"])
            error.add_note(f"In the process of {self.path}:\n{reply['trace']}")
            raise error
        return dict(reply["result"])

    def _write(self, message: Mapping[str, Any]) -> None:
        try:
            pipe = _pipe(self._process.stdin)
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> GrailError:
        code = self._process.wait()
        error = errors.CheckpointError(
            f"The process that ran {self.path!r} ended with {f'signal {-code}' if code < 0 else f'code {code}'}. If "
            "the system stopped it, memory was short: all models are loaded at once. Try a smaller --batch-size, or "
            "fewer models."
        )
        self._said.seek(0)
        error.add_note(self._said.read().decode(errors="replace")[-SAID:])
        return error


def _named(value: object) -> bool | str | None:
    """A field of :class:`Loading` as JSON has it."""
    return value if value is None or isinstance(value, bool) else str(value).removeprefix("torch.")


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("The process was started without pipes.")
    return stream


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answer until there are no more requests.

    Args:
        requests: first the arguments of a :class:`Runner`, then one method and its arguments a line.
        replies: gets a line for each: its result, or its error.
    """
    first = json.loads(requests.readline())
    image = tuple(first["workload"].pop("image"))
    runner = Runner(first["path"], Loading(**first["loading"]), Workload(**first["workload"], image=image))
    methods: dict[str, Callable[..., object]] = {
        "load": runner.load,
        "facts": runner.facts,
        "peak": runner.peak,
        "turn": runner.turn,
    }
    for line in requests:
        request, reply = json.loads(line), dict[str, Any]()
        with warnings.catch_warnings(record=True) as told:
            try:
                reply["result"] = methods[request["method"]](**request["arguments"])
            except Exception as error:  # told to the other side, whatever it is
                text = str(error) if isinstance(error, GrailError) else f"{type(error).__name__}: {error}"
                reply |= {"error": text, "kind": type(error).__name__, "trace": traceback.format_exc()}
        reply["warnings"] = list(dict.fromkeys(str(item.message) for item in told if item.category is UserWarning))
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """Serve on standard input and output; what others print goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
