"""One calibration, every size: a dense model compressed by several methods to several sizes, each measured.

The calibration data is read (or written by the model) once, the dense model measured once, and what does not depend on
the sparsity (error curves, removal orders, sensitivities, gradients) is measured once per kind.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from optimum_grail.config.config import GrailConfig
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.data.batches import CalibrationData
from optimum_grail.errors import GrailError, OutputError
from optimum_grail.fit.methods import Methods
from optimum_grail.models.precision import Precision, float32_on_cpu
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import refuse_compressed
from optimum_grail.pipeline.job import Job
from optimum_grail.pipeline.summary import Size
from optimum_grail.report.environment import hardware, versions
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.survey.cache import StatisticsCache

Measure = Callable[[nn.Module], Mapping[str, Any]]
"""``model -> results``; the figure to compare is under the sweep's ``headline``."""
FILE = "sweep.json"


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
        dataset: calibration data in any form; ``None``: the configuration's, or the model's own text.
        spec: the architecture map; by default the registered one of the model's type.
        tokenizer: for text calibration data.
        processor: for image calibration data.
        source: where the model came from.
        stats_cache: folder that keeps what does not depend on the sparsity.
        progress: told what is going on.

    Raises:
        CheckpointError: the model is compressed already.
        OutputError: ``stats_cache`` cannot be made.
    """

    model: nn.Module
    measure: Measure | None = None
    headline: str = ""
    higher_is_better: bool = False
    dataset: Any = None
    spec: ArchitectureSpec | None = None
    tokenizer: Any = None
    processor: Any = None
    source: str = ""
    stats_cache: str | Path | None = None
    progress: Progress = field(default_factory=Silent)
    _data: dict[str, CalibrationData] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_compressed(self.model, self.source or type(self.model).__name__)
        self._cache = StatisticsCache.of(self.model, self.stats_cache)

    def run(
        self,
        planned: Sequence[Cell],
        folder: str | Path | None = None,
        *,
        overwrite: bool = False,
        name: str = FILE,
    ) -> dict[str, Any]:
        """Compress and measure every cell.

        Args:
            planned: the cells.
            folder: where ``sweep.json`` goes, complete after every cell; cells that it holds already are not run again.
            overwrite: start anew where ``folder`` holds the sweep of another model, data or metric.
            name: of the file, instead of ``sweep.json``.

        Returns:
            what ``sweep.json`` holds: the model, the dense result, a row per cell.

        Raises:
            OutputError: the folder cannot be written, or holds another sweep.
            GrailError: a cell is refused; those before it are kept.
        """
        path = None if folder is None else Path(folder) / name
        identity = {"model": self._cache.model, "source": self.source, "metric": self.headline}
        found = _stored(path, identity, overwrite)
        rows = {_key(row): row for row in found.get("rows", [])}
        result = {**identity, "higher_is_better": self.higher_is_better, "versions": versions(), "rows": []}
        result["hardware"] = hardware(str(next(self.model.parameters()).device))
        result["dense"] = found.get("dense") or self._dense()
        for number, cell in enumerate(planned, start=1):
            key = (cell.method, cell.size, json.dumps(_resolved(cell), sort_keys=True))
            if key not in rows:
                self.progress.message(f"{number} of {len(planned)}: {cell.method}, {cell.size}")
                rows[key] = {**self._row(cell), "config": _resolved(cell)}
            result["rows"] = list(rows.values())
            _write(path, result)
        return result

    def _dense(self) -> dict[str, Any]:
        size = Size.of(self.model, resolve(self.model, self.spec), Precision.of(self.model).main)
        return {"parameters": size.parameters, "bytes": size.bytes, "result": self._measured(self.model.eval())}

    def _job(self, config: GrailConfig, model: nn.Module) -> Job:
        settings = config.resolved().to_dict()
        methods = Methods(*config.methods(), within_block=settings["within_block"])
        return Job(model, methods, settings, self.progress, self.spec, self.tokenizer, self.processor, self._cache)

    def _row(self, cell: Cell) -> dict[str, Any]:
        """Compress a copy, measure it."""
        start = time.perf_counter()
        config = GrailConfig(**cell.config)
        job = self._job(config, copy.deepcopy(self.model))
        layout = job.prepare_()
        data = self._calibration(job, config, layout)
        widths = job.allocate(layout, data, job.survey(layout, data))
        job.fit_(layout, data, widths)
        left, standalone = job.finish_(layout, widths.dropped)
        after = Size.of(job.model, left, job.precision.main)
        return {
            "method": cell.method,
            "size": cell.size,
            "parameters": after.parameters,
            "bytes": after.bytes,
            "sparsity": 1 - after.blocks / max(job.before.blocks, 1),
            "result": self._measured(job.model),
            "calibration": None if data is None else {"sha256": data.sha256, "tokens": data.tokens},
            "standalone": standalone,
            "dropped": list(widths.dropped),
            "notes": [*job.notes, *widths.notes],
            "stage_seconds": dict(job.seconds),
            "seconds": time.perf_counter() - start,
        }

    def _calibration(self, job: Job, config: GrailConfig, layout: Any) -> CalibrationData | None:
        """The data, read for the first cell that asks for it."""
        columns = ("text_column", "image_column", "label_column")
        fields = ("dataset", "dataset_config_name", "split", *columns, "num_samples", "seqlen", "batch_size", "seed")
        key = repr([getattr(config, name) for name in fields])
        source = self._data.get(key, config.dataset if self.dataset is None else self.dataset)
        data = job.calibration(layout, source)
        if data is not None:
            self._data[key] = data
        return data

    def _measured(self, model: nn.Module) -> dict[str, Any]:
        if self.measure is None:
            return {}
        with float32_on_cpu(model):
            return dict(self.measure(model))


def damage(result: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """What a row lost: ``ln(perplexity / dense)``, or the lost fraction of a figure that is better when higher."""
    headline = result["metric"]
    dense, value = (float(item["result"].get(headline, math.nan)) for item in (result["dense"], row))
    return 1 - value / dense if result["higher_is_better"] else math.log(value / dense)


def _resolved(cell: Cell) -> dict[str, Any]:
    """What decides a cell's outcome: where streams are kept does not."""
    settings = GrailConfig(**cell.config).resolved().to_dict()
    return {key: value for key, value in settings.items() if value is not None and key != "offload_streams"}


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["method"], row["size"], json.dumps(row["config"], sort_keys=True)


def _stored(path: Path | None, identity: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
    """What an earlier run left in ``path``.

    Raises:
        OutputError: it is no sweep, or another one, and may not be replaced.
    """
    if path is None or not path.exists() or overwrite:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ours = all(found[key] == value for key, value in identity.items()) and isinstance(found["rows"], list)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} is no sweep that could be continued ({error!r}). Pass --overwrite.") from error
    if not ours:
        raise OutputError(
            f"{path} holds the sweep of another model or metric ({found['source']!r}, {found['metric']!r}). Name "
            "another folder, or pass --overwrite."
        )
    return dict(found)


def _write(path: Path | None, result: Mapping[str, Any]) -> None:
    if path is None:
        return
    draft = path.with_suffix(".json.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise GrailError(f"Cannot write {str(path)!r}: {error}. Name another --output.") from error
