"""``Report``: everything that one run asked, did and measured, as a value; JSON both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.report import fields

REPORT_FILE = "grail_report.json"


@dataclass(frozen=True)
class GroupRow:
    """What happened to one group. Errors are squared, relative to the target's variance; ``None``: not measured.

    Args:
        name: the group's name.
        kind: ``"mlp"``, ``"heads"`` or ``"conv"``; ``"classifier"`` for a layer after the blocks that was refitted.
        units_before: units of the dense model.
        units_after: units kept.
        plain_error: error of plain pruning on all calibration rows.
        fit_error: error of the chosen readout on all calibration rows.
        plain_held_error: error of plain pruning on the held-out rows.
        held_error: error of the choice on the held-out rows, as it was fitted on the others.
        ridge: the ridge used, relative.
        tau: the share of the stream's drift that was corrected.
        producers: share of the held-out error that refitting the producers took away, where that was done.
        per_unit: for heads: what the config counts, by its fields, and how many of it one unit is.
        rerouted: share of the router's choices that had been of experts that went.
        chosen: which candidate won: ``"fit"``, ``"batch-norm"`` (fitted, BatchNorm re-estimated) or ``"plain"``.
    """

    name: str
    kind: fields.Word
    units_before: int
    units_after: int
    plain_error: fields.Measured | None = None
    fit_error: fields.Measured | None = None
    plain_held_error: fields.Measured | None = None
    held_error: fields.Measured | None = None
    ridge: fields.Measured | None = None
    tau: fields.Measured | None = None
    chosen: fields.Word | None = None
    producers: fields.Measured | None = None
    rerouted: fields.Measured | None = None
    per_unit: Mapping[fields.Word, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, kind: str, before: int, after: int, diagnostics: Mapping[str, Any]) -> GroupRow:
        """Build a row from a plan's diagnostics; what a row has no field for is left out."""
        known = {item.name for item in dataclasses.fields(cls)} - {"name", "kind", "units_before", "units_after"}
        return cls(name, kind, before, after, **{key: diagnostics[key] for key in known & set(diagnostics)})

    @property
    def shrinks(self) -> bool:
        """Whether units of it can go at all: not of a layer after the blocks."""
        return self.kind != "classifier"

    @property
    def gated(self) -> bool:
        """Whether the held-out gate kept plain pruning, because no fit was better."""
        return self.chosen == "plain"


@dataclass(frozen=True)
class SourceRows:
    """What one source gave to the calibration data.

    Args:
        name: the source and how it was read, as the user wrote it.
        weight: the weight that was asked for.
        samples: how many samples it gave.
        tokens: their unpadded text tokens; 0 for images.
        sha256: hash of them as the model saw them.
    """

    name: str
    weight: float = 1.0
    samples: int = 0
    tokens: int = 0
    sha256: fields.Digest = ""


@dataclass(frozen=True)
class Calibration:
    """The data the statistics came from.

    Args:
        source: path, Hub id, ``"self"`` or a description of the live object; of several sources their summary.
        sha256: hash of the samples as the model saw them.
        samples: how many.
        tokens: rows that entered the statistics (tokens, patches or positions, without padding).
        seqlen: tokens per sample, where there are tokens.
        notes: what a reader should know, for example that streams ran in a reduced dtype.
        sources: what each source gave.
    """

    source: str
    sha256: fields.Digest = ""
    samples: int = 0
    tokens: int = 0
    seqlen: int | None = None
    notes: tuple[str, ...] = ()
    sources: tuple[SourceRows, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run.

    Args:
        model: what was compressed: a Hub id, a folder's name or a class name.
        model_type: the config's ``model_type``; empty for a module of the user's own.
        model_class: name of the model's class, for example ``"LlamaForCausalLM"``.
        base_model: Hub id of the dense model, if it has one.
        revision: its commit, if known.
        asked: the request: ``{"sparsity": 0.5}``, a size such as ``{"target_bytes": 60000000}``, or the fractions of
            units per kind.
        budget: what ``sparsity`` is a fraction of: parameters, FLOPs, key-value cache, or latency.
        budget_removed: fraction of it that went, by the survey's measurements; ``None`` for parameters.
        parameters_before, parameters_after: parameters of the whole model, dense and compressed.
        block_parameters_before, block_parameters_after: parameters inside the repeated blocks, dense and compressed.
        bytes_before, bytes_after: bytes of all parameters in the dtypes of the checkpoint, dense and compressed.
        groups: one row per group, in the order of the model.
        calibration: the data; ``None`` for data-free methods.
        config: the resolved configuration.
        standalone: whether plain transformers loads the result without this package.
        head_size: dimensions of a head, dense and compressed; empty where none went.
        cache_bytes: keys and values of one token, dense and compressed; empty where the map does not tell.
        half_damage: predicted damage if half as much had gone, as a share of this size's; ``None``: not predicted.
        free_width_gain: predicted share of the damage that free widths per layer would save; ``None``: not predicted.
        forward: one forward pass, dense and compressed, as :func:`optimum_grail.evaluation.stopwatch.compare_forward`
            gives it: shapes of inputs and outputs, latency, and memory where the device counts it.
        datasets: Hub ids of the data sets used.
        evaluation: results, one per metric, data set and perturbation: ``metric``, ``dataset``, ``dense``,
            ``compressed``, where measured ``plain`` (pruned without compensation), and what else is in
            :class:`optimum_grail.report.fields.Result`.
        recovery: settings of a short training after the compression, and what it changed: ``kl_before`` and
            ``kl_after`` (divergence from the dense model, nats), and ``evaluation`` with ``dense``, ``before`` and
            ``after``; empty where there was none.
        derived: models made from this one, such as its quantized twin: results, ``bytes``, and ``seconds`` of a pass.
        seconds: wall time per stage.
        peak_memory: bytes, highest resident memory of the process.
        versions, hardware: of Python and the libraries; processor, cores, memory, device.
        warnings: what the run warned about.
        command: the command line, if there was one.
        extra: keys of a report file that this version does not know.
    """

    model: str
    model_type: fields.Word = ""
    model_class: fields.Identifier = ""
    base_model: fields.HubId | None = None
    revision: fields.Revision | None = None
    asked: Mapping[fields.Word, float] = field(default_factory=dict)
    budget: fields.Word = "parameters"
    budget_removed: float | None = None
    parameters_before: int
    parameters_after: int
    block_parameters_before: int
    block_parameters_after: int
    bytes_before: int
    bytes_after: int
    groups: tuple[GroupRow, ...] = ()
    calibration: Calibration | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    standalone: bool = True
    head_size: tuple[int, ...] = ()
    cache_bytes: tuple[int, ...] = ()
    half_damage: float | None = None
    free_width_gain: float | None = None
    forward: Annotated[Mapping[str, Any], fields.Shape(fields.ForwardPass, optional=True)] = field(default_factory=dict)
    datasets: tuple[fields.HubId, ...] = ()
    evaluation: tuple[Annotated[Mapping[str, Any], fields.Shape(fields.Result)], ...] = ()
    recovery: Annotated[Mapping[str, Any], fields.Shape(fields.Recovery, optional=True)] = field(default_factory=dict)
    derived: tuple[Annotated[Mapping[str, Any], fields.Shape(fields.Derived)], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Annotated[Mapping[str, Any], fields.Shape(fields.Hardware)] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    command: fields.Command = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call the model in public: its Hub id or its folder's name, never a path of the author's disk."""
        return self.base_model or Path(self.model).name

    @property
    def achieved(self) -> float:
        """Fraction of the blocks' parameters that went."""
        return _gone(self.block_parameters_before, self.block_parameters_after)

    @property
    def achieved_budget(self) -> float:
        """Fraction of the budget that went: what ``sparsity`` asks for."""
        return self.achieved if self.budget_removed is None else self.budget_removed

    @property
    def achieved_model(self) -> float:
        """Fraction of the whole model's parameters that went."""
        return _gone(self.parameters_before, self.parameters_after)

    @property
    def achieved_units(self) -> dict[str, float]:
        """Fraction of the units that went, per kind."""
        kinds = dict.fromkeys(row.kind for row in self.groups if row.shrinks)
        return {
            kind: _gone(
                sum(row.units_before for row in self.groups if row.kind == kind),
                sum(row.units_after for row in self.groups if row.kind == kind),
            )
            for kind in kinds
        }

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of the groups that lost nothing."""
        return tuple(row.name for row in self.groups if row.shrinks and row.units_after == row.units_before)

    def evaluated(self, *results: Mapping[str, Any]) -> Report:
        """The same report with more evaluation results."""
        return dataclasses.replace(self, evaluation=(*self.evaluation, *results))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the achieved fractions; non-finite numbers become ``"inf"``, ``"-inf"``, ``"nan"``."""
        values = dataclasses.asdict(self)
        extra = values.pop("extra")
        achieved = {"blocks": self.achieved, "model": self.achieved_model, "units": self.achieved_units}
        return dict(fields.finite({**values, "achieved": achieved, **extra}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Inverse of :meth:`to_dict`; unknown keys go to ``extra``.

        Raises:
            CheckpointError: a key is missing or its value is of another type, see :mod:`optimum_grail.report.fields`.
        """
        known = {item.name for item in dataclasses.fields(cls)} - {"extra"}
        data = {key: value for key, value in values.items() if key in known}
        extra = {key: value for key, value in values.items() if key not in known and key != "achieved"}
        return cast(Report, fields.read({**data, "extra": extra}, cls, "the report"))

    def to_json(self) -> str:
        """Indented JSON that every parser reads."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Inverse of :meth:`to_json`.

        Raises:
            CheckpointError: it is no JSON object, or no report.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, or nested too deep
            raise CheckpointError(f"The report is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"The report is a {type(values).__name__}; expected a JSON object.")
        return cls.from_dict(values)

    def save(self, folder: str | Path) -> Path:
        """Write ``grail_report.json`` into ``folder`` and return its path.

        Raises:
            OutputError: it cannot be written there.
        """
        path = Path(folder) / REPORT_FILE
        try:
            path.write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"The report {str(path)!r} cannot be written: {error.strerror}.") from error
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read ``grail_report.json`` from ``folder``.

        Raises:
            CheckpointError: there is none, or it is corrupt.
        """
        path = Path(folder) / REPORT_FILE
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            told = f"Cannot read the report {str(path)!r}: {error}. Name the folder of a compressed checkpoint."
            raise CheckpointError(told) from error


def _gone(before: int, after: int) -> float:
    return 1 - after / before if before else 0.0
