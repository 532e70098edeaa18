"""One calibration, every size: a dense model compressed by several methods to several sizes, each measured.

The calibration data is read (or written by the model) once, the dense model measured once, and what does not depend on
the sparsity (error curves, removal orders, sensitivities, gradients) is measured once per kind.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from optimum_grail.checkpoints.single_files import write_file
from optimum_grail.config.config import GrailConfig
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.data.batches import CalibrationData
from optimum_grail.data.content import content_key
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.errors import ConfigError, OutputError
from optimum_grail.models.intact import evaluating, refuse_half_compressed
from optimum_grail.models.precision import float32_on_cpu
from optimum_grail.models.residence import is_offloaded
from optimum_grail.models.resolve import resolve
from optimum_grail.models.size import Size
from optimum_grail.models.stock import refuse_compressed
from optimum_grail.pipeline.folders import Folders
from optimum_grail.pipeline.run import Run, compress_
from optimum_grail.pipeline.setup import Setup, Unwatched
from optimum_grail.report.curve import knees
from optimum_grail.report.environment import hardware, versions
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.report.sweep_view import SWEEP_FILE
from optimum_grail.survey.cache import StatisticsCache

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, Processor, Tokenizer

Measure = Callable[[nn.Module], Mapping[str, Any]]
"""``model -> results``; the figure to compare is under the sweep's ``headline``."""
Corpora = Callable[[CalibrationData | None], Mapping[str, str | None]]
"""Calibration data to a mark per evaluation set, see :func:`optimum_grail.evaluation.corpus.relation`."""
FILE = SWEEP_FILE


@dataclass(frozen=True)
class Cell:
    """One compression of a sweep.

    Args:
        method: what to call the method: a preset's name, or anything.
        size: what to call the size.
        config: configuration fields, budget included.
    """

    method: str
    size: str
    config: Mapping[str, Any]


def cells(presets: Sequence[str], sparsities: Sequence[float], base: Mapping[str, Any]) -> list[Cell]:
    """Every preset at every sparsity, sizes ascending within a preset; ``base`` holds fields of all of them.

    Raises:
        ConfigError, UnknownNameError: a value or name that no run takes.
    """
    found = [
        Cell(preset, f"{sparsity:g}", {**base, "preset": preset, "sparsity": sparsity})
        for preset in presets
        for sparsity in sorted(sparsities)
    ]
    for cell in found:
        GrailConfig(**cell.config).methods()
    return found


@dataclass
class Sweep:
    """Everything the runs of one dense model share.

    Args:
        model: the dense model; every run gets a copy.
        measure: what to measure; ``None``: only sizes are told.
        headline: key of the figure to compare in the results of ``measure``.
        higher_is_better: of that figure.
        corpora: which evaluation sets are of the corpus that was calibrated on; rows then say so.
        dataset: calibration data in any form; ``None``: the configuration's, or the model's own text.
        spec: the architecture map; by default the registered one of the model's type.
        tokenizer: for text calibration data.
        processor: for image calibration data.
        source: where the model came from.
        stats_cache: folder that keeps what does not depend on the sparsity.
        progress: told what is going on.

    Raises:
        ConfigError: the weights of the model are offloaded.
        CheckpointError: the model is compressed already, or a failed run has left it half compressed.
        OutputError: ``stats_cache`` cannot be made.
    """

    model: nn.Module
    measure: Measure | None = None
    headline: str = ""
    higher_is_better: bool = False
    corpora: Corpora | None = None
    dataset: DataSource | None = None
    spec: ArchitectureSpec | None = None
    tokenizer: Tokenizer | None = None
    processor: Processor | None = None
    source: str = ""
    stats_cache: str | Path | None = None
    progress: Progress = field(default_factory=Silent)
    _data: dict[str | None, tuple[Any, CalibrationData]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_half_compressed(self.model)
        if is_offloaded(self.model):
            raise ConfigError("A sweep compresses copies of a model in memory. Load it without disk or cpu offload.")
        refuse_compressed(self.model, self.source or type(self.model).__name__)
        self._cache = StatisticsCache.of(self.model, self.stats_cache)

    def run(
        self,
        planned: Sequence[Cell],
        folder: str | Path | None = None,
        *,
        overwrite: bool = False,
        name: str = FILE,
        save: Folders | None = None,
    ) -> dict[str, Any]:
        """Compress and measure every cell.

        Args:
            planned: the cells.
            folder: where ``sweep.json`` goes, complete after every cell; cells that it holds already are not run again.
            overwrite: start anew where ``folder`` holds the sweep of another model, data or metric.
            name: of the file, instead of ``sweep.json``.
            save: where every compressed model is written as well; a cell whose folder is missing is run again.

        Returns:
            what ``sweep.json`` holds: the model, the dense result, a row per cell, and by method the size at the knee
            of its curve, see :mod:`optimum_grail.report.curve`.

        Raises:
            OutputError: the folder cannot be written, or holds another sweep.
            GrailError: a cell is refused; those before it are kept.
        """
        path = None if folder is None else Path(folder) / name
        if save is not None:
            save.check([(cell.method, cell.size) for cell in planned])
        identity: dict[str, Any] = {"model": self._cache.model, "source": self.source, "metric": self.headline}
        identity |= {} if self.corpora is None else {"evaluated": sorted(self.corpora(None))}
        found = _stored(path, identity, overwrite)
        rows = {_key(row): row for row in found.get("rows", [])}
        result = {**identity, "higher_is_better": self.higher_is_better, "versions": versions(), "rows": []}
        result["hardware"] = hardware(str(next(self.model.parameters()).device))
        result["dense"] = found.get("dense") or self._dense()
        recipient = Recipient.of(self.model, resolve(self.model, self.spec), self.tokenizer, self.processor)
        for number, cell in enumerate(planned, start=1):
            setup, request, head = self._asked(cell, recipient)
            known = {_key(head), _key({**head, "data": None})} & rows.keys()  # older files do not name the data
            if not known or (save is not None and not save.has(cell.method, cell.size)):
                self.progress.message(f"{number} of {len(planned)}: {cell.method}, {cell.size}")
                row = {**head, **self._outcome(setup, request, _Kept(head, result["dense"]["result"], save))}
                rows = {key: kept for key, kept in rows.items() if key not in known} | {_key(head): row}
            result["rows"] = list(rows.values())
            result["knees"] = knees(result)
            _write(path, result)
        return result

    def _asked(self, cell: Cell, recipient: Recipient) -> tuple[Setup, DataRequest, dict[str, Any]]:
        """What a cell means, and what identifies its row."""
        config = GrailConfig(**cell.config).resolved()
        setup = Setup(config, self.spec, self.tokenizer, self.processor, self.progress, self._cache)
        request = DataRequest.of(config, self.dataset).filled(recipient)
        data = content_key(request) if setup.methods.needs_data else None
        return setup, request, {"method": cell.method, "size": cell.size, "config": _decisive(config), "data": data}

    def _dense(self) -> dict[str, Any]:
        size = Size.of(self.model, resolve(self.model, self.spec))
        with evaluating(self.model), float32_on_cpu(self.model):
            return {"parameters": size.parameters, "bytes": size.bytes, "result": self._measured(self.model)}

    def _outcome(self, setup: Setup, request: DataRequest, kept: _Kept) -> dict[str, Any]:
        """Compress a copy, measure it, save it; the same data is read once."""
        start, key = time.perf_counter(), kept.head["data"]
        _, known = self._data.get(key, (None, None))
        watch, model = _Result(self._measured), copy.deepcopy(self.model)
        run = compress_(model, setup, known or request.dataset, watch)
        if run.data is not None:
            self._data[key] = (request.dataset, run.data)
        return {
            **kept.written(model, setup.config, run, watch.result),
            "parameters": run.after.parameters,
            "bytes": run.after.bytes,
            "sparsity": 1 - run.after.blocks / max(run.before.blocks, 1),
            "result": watch.result,
            "corpus": {} if self.corpora is None else dict(self.corpora(run.data)),
            "calibration": None if run.data is None else {"sha256": run.data.sha256, "tokens": run.data.tokens},
            "standalone": run.standalone,
            "dropped": list(run.widths.dropped),
            "notes": list(run.notes),
            "stage_seconds": dict(run.seconds),
            "seconds": time.perf_counter() - start,
        }

    def _measured(self, model: nn.Module) -> dict[str, Any]:
        return {} if self.measure is None else dict(self.measure(model))


@dataclass(frozen=True)
class _Kept:
    """What becomes of a compressed model: nothing, or a checkpoint.

    Args:
        head: method, size, and what else identifies the row.
        dense: what was measured of the dense model.
        save: where it goes.
    """

    head: Mapping[str, Any]
    dense: Mapping[str, Any]
    save: Folders | None

    def written(self, model: nn.Module, config: GrailConfig, run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write it; what the row says of that."""
        if self.save is None:
            return {}
        cell = self.head["method"], self.head["size"]
        return {"folder": self.save.write(model, cell, config, run, (self.dense, result))}


@dataclass
class _Result(Unwatched):
    """Keeps what was measured of the compressed model; the dense one is measured once for all cells."""

    measure: Callable[[nn.Module], dict[str, Any]]
    result: Mapping[str, Any] = field(default_factory=dict)

    def compressed(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure."""
        self.result = self.measure(model)


def _decisive(config: GrailConfig) -> dict[str, Any]:
    """What of a resolved configuration decides a cell's outcome: where weights and streams are kept does not."""
    aside = {"low_memory", "offload_streams"} | ({"refit"} if config.refit == "none" else set())  # older files lack it
    return {key: value for key, value in config.to_dict().items() if value is not None and key not in aside}


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, str | None]:
    return row["method"], row["size"], json.dumps(row["config"], sort_keys=True), row.get("data")


def _stored(path: Path | None, identity: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
    """What an earlier run left in ``path``.

    Raises:
        OutputError: it is no sweep, or another one, and may not be replaced.
    """
    if path is None or not path.exists() or overwrite:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {"evaluated": identity.get("evaluated"), **found}  # older files do not name the sets
        ours = all(known[key] == value for key, value in identity.items()) and isinstance(found["rows"], list)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} is no sweep that could be continued ({error!r}). Pass --overwrite.") from error
    if not ours:
        raise OutputError(
            f"{path} holds the sweep of another model, metric or evaluation set ({found['source']!r}, "
            f"{found['metric']!r}). Name another folder, or pass --overwrite."
        )
    return dict(found)


def _write(path: Path | None, result: Mapping[str, Any]) -> None:
    if path is not None:
        write_file(path, (json.dumps(result, indent=1) + "\n").encode())
