"""Checkpoints that take turns at the same work: how fast each is, and how sure it is that one is faster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from optimum_grail.checkpoints.loading import Loading, load_skeleton, usable_device
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import ConfigError
from optimum_grail.evaluation.speed.ratios import Ratio, realised
from optimum_grail.evaluation.speed.worker import Worker
from optimum_grail.evaluation.speed.workload import KINDS, Candidate, Workload, kind_of, workload_of
from optimum_grail.evaluation.stopwatch import Timing
from optimum_grail.report.environment import hardware, versions
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.report.speed_view import WRITTEN_BY

BATCHES, REPEATS = (1, 8), 10
"""Batch sizes and rounds where none are asked for."""
TURN = 0.2
"""Seconds that a turn of the quickest model takes at least."""
PASSES = 50
"""Most passes of a turn."""
LOADING = 20.0
"""Seconds that loading one model again and again takes about; twice at least."""


class Contestant(Protocol):
    """What takes turns: a :class:`Worker`, in a process of its own."""

    def ask(self, method: str, **arguments: int) -> dict[str, Any]:
        """See :meth:`Worker.ask`."""


@dataclass(frozen=True)
class SpeedTest:
    """What shall be compared. Nothing is read before :meth:`prepare`.

    Args:
        models: folders or Hub ids, at least two; ratios are to the first. One may be there twice: what then differs is
            the noise of the machine.
        batch_sizes: samples per pass, each measured by itself.
        prompt_tokens: of a prompt; of a sequence for encoders, where the model takes so many. Default 256.
        new_tokens: that causal language models generate after it, at least 2. Default 64.
        repeats: rounds in which every model has a turn; from six on, intervals hold with 95 %.
        seed: of the random inputs.
        loading: how models are loaded; ``auto`` keeps each checkpoint's own dtype.

    Raises:
        ConfigError: fewer than two models, a batch size below 1, or fewer than two rounds.
    """

    models: Sequence[str | Path]
    batch_sizes: Sequence[int] = BATCHES
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    repeats: int = REPEATS
    seed: int = 42
    loading: Loading = field(default_factory=Loading)

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ConfigError(
                f"A speed test of {len(self.models)} model compares nothing: name the dense model and a compressed "
                "one, each with -m. One model twice shows the noise of the machine."
            )
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(f"Batch sizes are {list(self.batch_sizes)}; expected whole numbers >= 1, such as 1 8.")
        if self.repeats < 2:
            raise ConfigError(f"Repeats are {self.repeats}; expected at least 2, and 6 for intervals of 95 %.")

    def prepare(self) -> Prepared:
        """Look at everything but the weights.

        Raises:
            CheckpointError: a model is missing, out of reach, or its config cannot be used.
            ArchitectureError: its class is unknown, or of a kind that is not measured.
            ConfigError: the models do different work, the prompt does not fit a model's context, or the device is not
                there.
        """
        usable_device(self.loading.device)
        candidates = [self._candidate(str(path)) for path in self.models]
        workload = workload_of(candidates, self.prompt_tokens, self.new_tokens, self.seed)
        sizes = tuple(dict.fromkeys(self.batch_sizes))
        counted, notes = [], []
        for candidate in candidates:
            flops, note = _counted(candidate.skeleton, workload, sizes)
            counted.append(flops)
            notes += [f"{candidate.path}: {note}"] if note else []
        return Prepared(self, workload, sizes, tuple(counted), tuple(notes))

    def _candidate(self, path: str) -> Candidate:
        trusted = self.loading.trust_remote_code
        skeleton = load_skeleton(path, trusted).eval()
        name = (getattr(skeleton.config, "architectures", None) or [type(skeleton).__name__])[0]
        processors = load_processors(path, trusted)
        return Candidate(path, kind_of(skeleton, name), skeleton, skeleton.config, *processors)


def _counted(skeleton: nn.Module, workload: Workload, sizes: Sequence[int]) -> tuple[dict[tuple[str, int], float], str]:
    """Operations by part and batch size, and what to note where they cannot be counted."""
    try:
        return {(part, size): flops for size in sizes for part, flops in workload.flops(skeleton, size).items()}, ""
    except Exception as error:  # a forward pass may do anything that has no meaning without values
        reason = str(error).strip().partition("\n")[0][:200]
        return {}, f"operations could not be counted ({type(error).__name__}: {reason}), so there is no ideal"


@dataclass(frozen=True)
class Prepared:
    """A test that can begin.

    Args:
        test: what was asked.
        workload: what a pass computes.
        sizes: batch sizes, each once.
        flops: of every model, operations by part and batch size; empty where they could not be counted.
        notes: what a reader should know.
    """

    test: SpeedTest
    workload: Workload
    sizes: tuple[int, ...]
    flops: tuple[dict[tuple[str, int], float], ...]
    notes: tuple[str, ...]

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Load all models, each in a process of its own, and let them take turns.

        Args:
            progress: told how far it is; silent by default.

        Returns:
            JSON values: ``settings``, ``models`` (one row each), ``rows`` (one per part, batch size and model),
            ``notes``, versions and hardware.

        Raises:
            GrailError: a model cannot be loaded, or its process ended.
        """
        progress = progress or Silent()
        with ExitStack() as stack:
            workers = [
                stack.enter_context(Worker(str(path), self.test.loading, self.workload)) for path in self.test.models
            ]
            try:
                return self.measure(workers, progress)
            finally:
                progress.finish()

    def measure(self, contestants: Sequence[Contestant], progress: Progress) -> dict[str, Any]:
        """The same with what takes turns given."""
        names = names_of([str(path) for path in self.test.models])
        loads = self._loads(contestants, names, progress)
        facts = [contestant.ask("facts") for contestant in contestants]
        models = [
            {"name": name, "path": str(path), **fact, "load_peak_memory": max_of(load["peak_memory"] for load in rows)}
            for name, path, fact, rows in zip(names, self.test.models, facts, loads, strict=True)
        ]
        seconds = [[load["seconds"] for load in rows[1:]] for rows in loads]  # a first load does not count
        rows = [
            {"part": "load", "batch": None, "unit": "loads", "model": name, **compared(seconds[0], spent, 1)}
            for name, spent in zip(names, seconds, strict=True)
        ]
        for size in self.sizes:
            rows += self._rows(contestants, names, size, progress)
        return {
            "written_by": WRITTEN_BY,
            "kind": KINDS[self.workload.kind],
            "settings": {**self._settings(), "inputs": f"random, from seed {self.test.seed}"},
            "models": models,
            "rows": rows,
            "notes": [*self.notes, *_notes(models, self.test.repeats)],
            "versions": versions(),
            "hardware": hardware(facts[0]["device"]),
            "threads": facts[0]["threads"],
        }

    def _settings(self) -> dict[str, Any]:
        asked = {"batch_sizes": list(self.sizes), "repeats": self.test.repeats}
        loading = {name: value if isinstance(value, bool | None) else str(value) for name, value in _loading(self.test)}
        return {**asdict(self.workload), "image": list(self.workload.image), **asked, **loading}

    def _loads(
        self, contestants: Sequence[Contestant], names: Sequence[str], progress: Progress
    ) -> list[list[dict[str, Any]]]:
        """Load all in turns: a first time, which does not count, and then as often as there is time for.

        Between the first and the others comes a pass, which makes the libraries load what they use: it shall not count
        as memory of the model.
        """
        found: list[list[dict[str, Any]]] = [[] for _ in contestants]
        for name, contestant, rows in zip(names, contestants, found, strict=True):
            progress.message(f"Loading {name}")
            rows.append(contestant.ask("load"))
            contestant.ask("turn", batch=min(self.sizes), passes=1)
        slowest = max(rows[0]["seconds"] for rows in found)
        rounds = max(2, min(self.test.repeats, int(LOADING / slowest)))
        progress.start(rounds * len(names), "loading again")
        for turn in range(rounds):
            for index in _order(len(names), turn):
                found[index].append(contestants[index].ask("load"))
                progress.update(1, "loading again")
        return found

    def _rows(
        self, contestants: Sequence[Contestant], names: Sequence[str], size: int, progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """Rows of one batch size: one per part and model."""
        what, count = f"batches of {size}", len(names)
        progress.start((self.test.repeats + 2) * count, what)
        peaks, warm = [], []
        for contestant in contestants:
            peaks.append(contestant.ask("peak", batch=size)["peak_memory"])
            warm.append(sum(spent for (spent,) in contestant.ask("turn", batch=size, passes=1).values()))
            progress.update(2, what)
        passes = max(1, min(PASSES, math.ceil(TURN / min(warm))))
        times: list[dict[str, list[float]]] = [{part: [] for part in self.workload.parts} for _ in names]
        for turn in range(self.test.repeats):
            for index in _order(count, turn):
                for part, spent in contestants[index].ask("turn", batch=size, passes=passes).items():
                    times[index][part].append(sum(spent) / passes)
                progress.update(1, what)
        for part in self.workload.parts:
            amount = self.workload.amount(part, size)
            for index, name in enumerate(names):
                flops = [counted.get((part, size)) for counted in self.flops]
                row = {"part": part, "batch": size, "unit": self.workload.unit(part), "model": name}
                cells = compared(times[0][part], times[index][part], amount, flops[0], flops[index])
                yield {**row, **cells, "passes_per_turn": passes, "peak_memory": peaks[index], "flops": flops[index]}


def compared(
    first: Sequence[float],
    second: Sequence[float],
    amount: int,
    first_flops: float | None = None,
    second_flops: float | None = None,
) -> dict[str, Any]:
    """How fast the second model is, and against the first.

    Args:
        first: seconds of the first model, round by round.
        second: of the second.
        amount: what was handled in that time.
        first_flops: operations of the first model, if known.
        second_flops: of the second.
    """
    timing, ratio = Timing.of(second), Ratio.of(first, second)
    ideal = first_flops / second_flops if first_flops and second_flops else None
    return {
        "per_second": amount / timing.seconds,
        "spread": amount / timing.seconds * timing.spread / timing.seconds,
        "seconds": list(second),
        "speedup": asdict(ratio),
        "within_noise": ratio.within_noise,
        "ideal": ideal,
        "realised": None if ideal is None else realised(ratio.median, ideal),
    }


def names_of(paths: Sequence[str]) -> list[str]:
    """A short name for each: the last part of its path where that is enough, numbered where it is there twice."""
    last = [path.rstrip("/").rpartition("/")[2] or path for path in paths]
    short = [name if last.count(name) == paths.count(path) else path for name, path in zip(last, paths, strict=True)]
    seen = [short[:index].count(name) + 1 for index, name in enumerate(short)]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(short, seen, strict=True)]


def max_of(values: Iterator[int | None]) -> int | None:
    """The largest of those that are known."""
    return max((value for value in values if value is not None), default=None)


def _order(count: int, turn: int) -> list[int]:
    """Who goes first alternates, so that a machine that slows down steadily favours nobody."""
    order = list(range(count))
    return order if turn % 2 == 0 else order[::-1]


def _loading(test: SpeedTest) -> Iterator[tuple[str, Any]]:
    yield from asdict(test.loading).items()


def _notes(models: Sequence[dict[str, Any]], repeats: int) -> list[str]:
    """What makes the comparison less than it seems."""
    notes = []
    if len({model["dtype"] for model in models}) > 1:
        types = ", ".join(f"{model['name']} in {model['dtype']}" for model in models)
        notes.append(f"The types of the weights differ ({types}): --dtype makes them alike.")
    if repeats < 6:
        notes.append(f"Intervals of {repeats} repeats hold with less than 95 %; six are enough for that.")
    return notes
