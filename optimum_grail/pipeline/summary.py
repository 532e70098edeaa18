"""From a finished run to its :class:`Report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optimum_grail.checkpoints.identity import commit_of, hub_id
from optimum_grail.core.plan import Plan
from optimum_grail.data.batches import CalibrationData
from optimum_grail.models.layout import Layout
from optimum_grail.report.environment import hardware, peak_memory, versions
from optimum_grail.report.report import Calibration, GroupRow, Report
from optimum_grail.widths.allocate import Widths


@dataclass(frozen=True)
class Size:
    """Size of a model at one moment.

    Args:
        parameters: of the whole model, tied ones once.
        blocks: inside the repeated blocks.
        bytes: of all parameters in the checkpoint's dtype.
    """

    parameters: int
    blocks: int
    bytes: int

    @classmethod
    def of(cls, model: nn.Module, layout: Layout, dtype: torch.dtype) -> Size:
        """Measure ``model``, whose blocks are where ``layout`` says."""
        inside = {id(p): p for s in layout.stacks for path in s.blocks for p in model.get_submodule(path).parameters()}
        parameters = sum(parameter.numel() for parameter in model.parameters())
        width = torch.empty(0, dtype=dtype).element_size()
        return cls(parameters, sum(parameter.numel() for parameter in inside.values()), parameters * width)


@dataclass(frozen=True)
class Outcome:
    """Everything the report of a run is made from.

    Args:
        source: where the model came from.
        base_model: its Hub id, if the source is none.
        revision: its commit, if known.
        config: resolved configuration, JSON.
        layout: the layout before compression.
        before: size of the dense model.
        after: size of the compressed model.
        plan: what was done.
        widths: what the allocation decided and predicted.
        data: calibration data, or ``None``.
        evaluation: results, dense and compressed.
        forward: one forward pass, dense and compressed.
        standalone: whether plain transformers loads the result.
        notes: what the user should know.
        seconds: wall time per stage.
    """

    source: str
    base_model: str | None
    revision: str | None
    config: Mapping[str, Any]
    layout: Layout
    before: Size
    after: Size
    plan: Plan
    widths: Widths
    data: CalibrationData | None
    evaluation: Sequence[Mapping[str, Any]]
    forward: Mapping[str, Any]
    standalone: bool
    notes: Sequence[str]
    seconds: Mapping[str, float]

    def report(self, model: nn.Module) -> Report:
        """The report; ``model`` tells its class, type and device."""
        asked = ("sparsity", "ffn_sparsity", "head_sparsity", "channel_sparsity")
        return Report(
            model=self.source,
            model_type=getattr(getattr(model, "config", None), "model_type", "") or "",
            model_class=type(model).__name__,
            base_model=self.base_model or hub_id(self.source),
            revision=commit_of(self.source, self.revision) if hub_id(self.source) else self.revision,
            asked={key: self.config[key] for key in asked if self.config.get(key) is not None},
            budget=self.widths.budget,
            budget_removed=self.widths.removed,
            parameters_before=self.before.parameters,
            parameters_after=self.after.parameters,
            block_parameters_before=self.before.blocks,
            block_parameters_after=self.after.blocks,
            bytes_before=self.before.bytes,
            bytes_after=self.after.bytes,
            groups=self._groups(),
            calibration=self._calibration(),
            config=self.config,
            standalone=self.standalone,
            free_width_gain=self._gain(),
            forward=self.forward,
            datasets=self._datasets(),
            evaluation=tuple(self.evaluation),
            seconds=dict(self.seconds),
            peak_memory=peak_memory(),
            versions=versions(),
            hardware=hardware(str(next(model.parameters()).device)),
            warnings=tuple(self.notes),
            command=_command(),
        )

    def _groups(self) -> tuple[GroupRow, ...]:
        rows = []
        for group in self.layout.groups:
            item = self.plan.get(group.name)
            diagnostics = {} if item is None else item.diagnostics
            kept = 0 if group.block in self.widths.dropped else self.widths.kept[group.name]
            rows.append(GroupRow.of(group.name, group.kind, group.units, kept, diagnostics))
        for item in self.plan.values():
            if item.group.kind == "classifier":
                units = item.group.units
                rows.append(GroupRow.of(item.group.name, "classifier", units, units, item.diagnostics))
        return tuple(rows)

    def _datasets(self) -> tuple[str, ...]:
        """Hub ids of the data; now is when a path is told from an id."""
        sources = [*([self.data.source] if self.data else []), *(str(row.get("dataset")) for row in self.evaluation)]
        return tuple(dict.fromkeys(source for source in sources if hub_id(source)))

    def _calibration(self) -> Calibration | None:
        data = self.data
        if data is None:
            return None
        return Calibration(data.source, data.sha256, data.samples, data.tokens, data.seqlen, data.notes)

    def _gain(self) -> float | None:
        """Share of the predicted damage that free widths per layer would save."""
        ours, free = self.widths.predicted, self.widths.predicted_free
        return None if ours is None or free is None or ours <= 0 else max(0.0, 1 - free / ours)


def _command() -> str:
    """The command line that started this process, if it was optimum-cli."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    return shlex.join([program, *sys.argv[1:]]) if program == "optimum-cli" else ""
