"""Two neighbouring layers of a LLaMA as one of twice the width, which the ordinary fit narrows back to one.

The merged layer adds to its input what both attentions make of it, then what both feed-forward layers make of that:
heads and channels side by side, the gains of the norms folded into the projections. Its readouts are fitted to the
dense stream behind both layers, first at twice the width, so that units are chosen by what they do there, then at one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan
from optimum_grail.fit.fit import FitRun
from optimum_grail.streams.blocks import Batches, BlockRun, Calls, Streams, Targets
from optimum_grail.streams.calls import Call
from optimum_grail.streams.hooks import first, hooked
from optimum_grail.streams.probe import Probe, Record

Pair = tuple[nn.Module, nn.Module]


class Passing(nn.Module):
    """Passes its hidden state on."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The hidden state as it is."""
        return hidden


@torch.no_grad()
def side_by_side(one: Any, other: Any) -> Any:
    """One layer of twice the width that does to its input what ``one`` does, plus what ``other`` would do to it."""
    config = copy.copy(one.self_attn.config)
    config.num_attention_heads *= 2
    config.num_key_value_heads *= 2
    config.intermediate_size *= 2
    wide = type(one)(config, one.self_attn.layer_idx).eval()
    for name in ("q_proj", "k_proj", "v_proj"):
        rows = [getattr(layer.self_attn, name).weight * layer.input_layernorm.weight for layer in (one, other)]
        getattr(wide.self_attn, name).weight.copy_(torch.cat(rows))
    for name in ("gate_proj", "up_proj"):
        rows = [getattr(layer.mlp, name).weight * layer.post_attention_layernorm.weight for layer in (one, other)]
        getattr(wide.mlp, name).weight.copy_(torch.cat(rows))
    wide.self_attn.o_proj.weight.copy_(torch.cat([one.self_attn.o_proj.weight, other.self_attn.o_proj.weight], 1))
    wide.mlp.down_proj.weight.copy_(torch.cat([one.mlp.down_proj.weight, other.mlp.down_proj.weight], 1))
    return wide


def merge_(model: Any, firsts: Sequence[int]) -> dict[str, Pair]:
    """Put a merged layer in the place of every pair that begins at one of ``firsts``, positions in the dense model.

    Returns:
        the dense layers of each pair, by the path of the merged one.
    """
    layers, kept, pairs = list(model.model.layers), list[nn.Module](), dict[str, Pair]()
    seconds = {index + 1 for index in firsts}
    for index, layer in enumerate(layers):
        if index in seconds:
            continue
        if index in firsts:
            pairs[f"model.layers.{len(kept)}"] = (layer, layers[index + 1])
            layer = side_by_side(layer, layers[index + 1])
        kept.append(layer)
    model.model.layers = nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    return pairs


@dataclass
class PairProbe(Probe):
    """What the dense layers of a pair show: the merged attention is to add what both add, its output to be theirs.

    Args:
        pair: the dense layers.
    """

    pair: Pair = field(default_factory=lambda: (nn.Identity(), nn.Identity()))

    def run(self, call: Call, hidden: Tensor) -> Tensor:
        """Run both dense layers, and return what leaves the second."""
        added: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            """Keep what an attention adds."""
            added.append(first(output).clone())

        with hooked(before=[], after=[(layer.get_submodule("self_attn"), keep) for layer in self.pair]):
            output = call.run(self.pair[1], call.run(self.pair[0], hidden.clone()))
        self.records = {group.name: Record() for group in self.groups}
        for group in self.groups:
            if group.kind == "heads":
                self.records[group.name].stream = hidden + added[0] + added[1]
        return output


@dataclass(frozen=True)
class MergingRun(FitRun):
    """A fit in which some blocks, of twice the width, stand for two dense ones.

    Args:
        merged: those dense layers, by the block's path.
    """

    merged: Mapping[str, Pair] = field(default_factory=dict)

    def _block_(
        self,
        path: str,
        groups: list[ChannelGroup],
        calls: Calls,
        streams: Streams,
        batches: Batches,
        last: bool,
    ) -> list[GroupPlan]:
        if path not in self.merged or streams.dense is None:
            return super()._block_(path, groups, calls, streams, batches, last)
        streams.part()
        wanted, block = self.methods.wanted, self.model.get_submodule(path)
        for widths in ({group.name: group.units for group in groups}, self.widths):
            probe = PairProbe(block, path, groups, wanted, pair=self.merged[path])
            targets = Targets(probe, calls.dense, streams.dense.copy(), [(Passing(), calls.dense)])
            run, fit = BlockRun(block, path, calls.student, streams, batches, targets), replace(self, widths=widths)
            plans = [plan for stage in self.methods.stages(groups) for plan in fit._stage_(run, stage, wanted)]
        streams.dense = targets.hidden
        if not last:
            run.advance()
        return plans
