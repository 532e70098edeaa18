"""From a finished run to its :class:`Report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from optimum_grail.checkpoints.identity import commit_of, hub_id
from optimum_grail.config.config import GrailConfig
from optimum_grail.config.source import is_general
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.models.residence import device_of
from optimum_grail.pipeline.run import Run
from optimum_grail.report.environment import hardware, peak_memory, versions
from optimum_grail.report.report import Calibration, GroupRow, Report


@dataclass(frozen=True)
class Outcome:
    """Everything the report of a run is made from.

    Args:
        source: where the model came from.
        base_model: its Hub id, if the source is none.
        revision: its commit, if known.
        config: the resolved configuration.
        run: what was done.
        notes: what the user should know beside what the run noted.
        evaluation: results, dense and compressed.
        forward: one forward pass, dense and compressed.
    """

    source: str
    base_model: str | None
    revision: str | None
    config: GrailConfig
    run: Run
    notes: Sequence[str]
    evaluation: Sequence[Mapping[str, Any]]
    forward: Mapping[str, Any]

    def report(self, model: nn.Module) -> Report:
        """The report; ``model`` tells its class, type and device."""
        run, before, after = self.run, self.run.before, self.run.after
        return Report(
            model=self.source,
            model_type=getattr(getattr(model, "config", None), "model_type", "") or "",
            model_class=type(model).__name__,
            base_model=self.base_model or hub_id(self.source),
            revision=commit_of(self.source, self.revision) if hub_id(self.source) else self.revision,
            asked=self._asked(),
            budget=run.widths.budget,
            budget_removed=run.widths.removed,
            parameters_before=before.parameters,
            parameters_after=after.parameters,
            block_parameters_before=before.blocks,
            block_parameters_after=after.blocks,
            bytes_before=before.bytes,
            bytes_after=after.bytes,
            groups=self._groups(),
            calibration=self._calibration(),
            config=self.config.to_dict(),
            standalone=run.standalone,
            head_size=self._head_size(),
            cache_bytes=self._cache(model),
            half_damage=self._half(),
            free_width_gain=self._gain(),
            forward=self.forward,
            datasets=self._datasets(),
            evaluation=tuple(self.evaluation),
            seconds=dict(run.seconds),
            peak_memory=peak_memory(),
            versions=versions(),
            hardware=hardware(str(device_of(model))),
            warnings=(*run.notes, *self.notes),
            command=_command(),
        )

    def _asked(self) -> dict[str, float]:
        config = self.config
        sizes = {
            "sparsity": config.sparsity,
            "target_parameters": config.target_parameters,
            "target_bytes": config.target_bytes,
            "ffn_sparsity": config.ffn_sparsity,
            "head_sparsity": config.head_sparsity,
            "head_dim_sparsity": config.head_dim_sparsity,
            "channel_sparsity": config.channel_sparsity,
            "expert_sparsity": config.expert_sparsity,
            "experts": config.experts,
            "expert_ffn_sparsity": config.expert_ffn_sparsity,
        }
        return {key: value for key, value in sizes.items() if value is not None}

    def _head_size(self) -> tuple[int, ...]:
        sizes = [group.inside.size for group in self.run.layout.groups if group.inside is not None]
        kept = [2 * len(pairs) for pairs in self.run.widths.pairs.values()]
        return (sizes[0], kept[0]) if sizes and kept else ()

    def _cache(self, model: nn.Module) -> tuple[int, ...]:
        """Bytes of one token's keys and values, before and after; empty where no text is made or nothing is known."""
        heads = [group for group in self.run.layout.groups if group.kind == "heads"]
        makes = isinstance(model, PreTrainedModel) and model.can_generate()
        if not makes or any(not group.cached and group.inside is None for group in heads):
            return ()
        before = after = 0
        for group in heads:
            kept = 0 if group.block in self.run.widths.dropped else self.run.widths.kept[group.name]
            pairs, bytes_each = self.run.widths.pairs.get(group.owner), self._bytes_of(group)
            before += _cached(group, group.units) * bytes_each
            after += _cached(group if pairs is None else group.resized(2 * len(pairs)), kept) * bytes_each
        return before, after

    def _bytes_of(self, group: ChannelGroup) -> int:
        return self.run.layout.weights[group.consumer.module].itemsize

    def _groups(self) -> tuple[GroupRow, ...]:
        rows = []
        for group in self.run.layout.groups:
            item = self.run.plan.get(group.name)
            diagnostics = {} if item is None else item.diagnostics
            kept = 0 if group.block in self.run.widths.dropped else self.run.widths.kept[group.name]
            counts = {"per_unit": dict(group.fields)} if group.kind == "heads" else {}
            rows.append(GroupRow.of(group.name, group.kind, group.units, kept, {**diagnostics, **counts}))
        for item in self.run.plan.values():
            if item.group.kind == "classifier":
                units = item.group.units
                rows.append(GroupRow.of(item.group.name, "classifier", units, units, item.diagnostics))
        return tuple(rows)

    def _datasets(self) -> tuple[str, ...]:
        parts = () if self.run.data is None else self.run.data.sources
        evaluated = (str(row.get("source") or row.get("dataset")) for row in self.evaluation)
        return hub_data([*(part.name for part in parts), *evaluated])

    def _calibration(self) -> Calibration | None:
        data = self.run.data
        if data is None:
            return None
        return Calibration(data.source, data.sha256, data.samples, data.tokens, data.seqlen, data.notes, data.sources)

    def _half(self) -> float | None:
        """Predicted damage of half the size, as a share of this size's."""
        ours, half = self.run.widths.predicted, self.run.widths.predicted_half
        return None if ours is None or half is None or not 0 <= half <= ours or ours <= 0 else half / ours

    def _gain(self) -> float | None:
        """Share of the predicted damage that free widths per layer would save."""
        ours, free = self.run.widths.predicted, self.run.widths.predicted_free
        return None if ours is None or free is None or ours <= 0 else max(0.0, 1 - free / ours)


def _cached(group: ChannelGroup, units: int) -> int:
    """Elements of one token's keys and values where ``units`` are left; query heads may share one key and value."""
    alone = 2 * group.inside.size if group.inside is not None and units else 0
    return group.cached * units or alone


def hub_data(sources: Sequence[str]) -> tuple[str, ...]:
    """The data sets of the Hub among ``sources``, without their options; now is when a path is told from an id."""
    names = (source.partition(":")[0] for source in sources if not is_general(source))
    return tuple(dict.fromkeys(name for name in names if hub_id(name)))


def _command() -> str:
    """The command line that makes this result, if optimum-cli did: that of this process, or of one before that a
    ``--resume`` went on with."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join([program, *words]) if program == "optimum-cli" else ""
