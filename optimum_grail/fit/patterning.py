"""A pattern of zeros in all linear layers of the blocks, fitted block by block on what the student feeds them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from optimum_grail.core.groups import IN_BANKS
from optimum_grail.core.pattern import Pattern, PatternSelector
from optimum_grail.data.portion import Portion
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.report.progress import Progress
from optimum_grail.streams.blocks import Batches, advance
from optimum_grail.streams.capture import Captured, capture, order_of
from optimum_grail.streams.linears import Pair, linear_at, linear_stages, problems_of


@dataclass(frozen=True)
class Patterned:
    """What a pattern did.

    Args:
        zeros: weights that are zero, by path of the layer.
        weights: all weights, by path of the layer.
    """

    zeros: Mapping[str, int]
    weights: Mapping[str, int]

    def note(self, pattern: str, selector: str) -> str:
        """What the user should know."""
        share = sum(self.zeros.values()) / sum(self.weights.values())
        return (
            f"{share:.1%} of the weights of {len(self.weights)} linear layers are zeros in the pattern {pattern} "
            f"({selector}). The file is no smaller and dense engines run it no faster; engines with kernels for the "
            "pattern do."
        )


@dataclass(frozen=True)
class PatternRun:
    """Everything that laying a pattern reads.

    Args:
        model: in eval mode, computing in float32; :meth:`run_` changes it in place.
        layout: its stacks.
        pattern, selector: what stays, and by which method.
        batches: calibration batches.
        progress: told once per block.
        dropped: paths of blocks that are about to go.
        offload: keep the streams in files.
    """

    model: nn.Module
    layout: Layout
    pattern: Pattern
    selector: PatternSelector
    batches: Portion
    progress: Progress
    dropped: Sequence[str] = ()
    offload: bool = False

    def run_(self) -> Patterned:
        """Mask the layers, and return what became of them.

        Raises:
            ArchitectureError: :func:`check_patternable`; or the blocks have no linear layers.
            StatisticsError: what enters a layer is not finite.
        """
        zeros, weights = dict[str, int](), dict[str, int]()
        blocks = {stack.name: stack.blocks for stack in self.layout.stacks}
        found = capture(self.model, blocks, self.batches, offload=self.offload)
        for stack in self.layout.stacks:
            self._stack_(stack, found.pop(stack.name), zeros, weights)
        if not weights:
            raise ArchitectureError(
                "The blocks of this model have no linear layers, and a pattern is of their weights. Leave pattern out."
            )
        return Patterned(zeros, weights)

    def _stack_(self, stack: Stack, seen: Captured, zeros: dict[str, int], weights: dict[str, int]) -> None:
        masks = Batches.of(self.batches, stack.mask).masks
        student, dense = seen.hidden, seen.hidden.copy()
        for path in stack.blocks:
            if path in self.dropped:
                continue
            block, calls = self.model.get_submodule(path), seen.calls[path]
            pair = Pair(path, block, copy.deepcopy(block), calls, student, dense)
            for paths in linear_stages(pair):
                for problem, name in zip(problems_of(pair, paths, self.batches, masks), paths, strict=True):
                    problem.check()
                    left = self.selector(problem, self.pattern)
                    with torch.no_grad():
                        linear_at(block, name).weight.copy_(left)
                    zeros[problem.name], weights[problem.name] = int((left == 0).sum()), left.numel()
            if path != stack.blocks[-1]:
                advance(block, calls, student)
                advance(pair.dense, calls, dense)
            self.progress.update(1, path)


def check_patternable(model: nn.Module, layout: Layout, whole: Layout, batches: Portion | None, shared: bool) -> None:
    """Refuse models that no pattern can be laid on.

    Args:
        model: in eval mode.
        layout: its stacks.
        whole: the same with the experts of mixtures.
        batches: calibration batches; ``None``: not known yet.
        shared: whether processes share the run.

    Raises:
        ArchitectureError: experts, stacks that are fed by others, weights on disk, or several processes.
    """
    why = ""
    if shared:
        why = "processes share the run"
    elif any(group.kind in IN_BANKS for group in whole.groups):
        why = "the model is a mixture of experts"
    elif any(parameter.is_meta for parameter in model.parameters()):
        why = "the weights are left on disk (--low-memory)"
    elif batches is not None and order_of(model, {s.name: s.blocks for s in layout.stacks}, batches.sample).fed:
        why = "one of its stacks is fed by another (an encoder and a decoder, images and text)"
    if why:
        raise ArchitectureError(f"A pattern is not laid where {why}: that is not built. Leave pattern out.")
