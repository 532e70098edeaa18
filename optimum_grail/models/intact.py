"""Restore a model after a run: every submodule's mode; after a failure its weights, or mark it as half compressed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from optimum_grail.errors import CheckpointError
from optimum_grail.models.precision import Precision
from optimum_grail.models.residence import Holdings, retie_

MARK = "_grail_half_compressed"
"""Attribute of a model that a failed run has changed; only this file reads and writes it. Copies have it too."""


def refuse_half_compressed(model: nn.Module) -> None:
    """Raise if an earlier run broke off while it changed ``model``.

    Raises:
        CheckpointError: it did; no size or weight of such a model means anything.
    """
    if MARK in vars(model):
        raise CheckpointError(
            f"This {type(model).__name__} is half compressed: an earlier run failed or was interrupted on the way. "
            "Load the dense model again."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every submodule has its own mode back, and new ones have the model's."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module in model.modules():
            module.training = modes.get(module, modes[model])


@contextmanager
def kept_intact_(model: nn.Module, *, always: bool = False) -> Iterator[ExitStack]:
    """Let the body change ``model``, in eval mode. If it fails before a weight has been replaced, the model is as it
    was; after that it is marked, so that :func:`refuse_half_compressed` tells. Dtypes are given back in both cases.

    Args:
        model: a model that no failed run has changed.
        always: give back what there was also where the body succeeds: for looks at a model.

    Yields:
        what takes the steps that undo harmless changes, such as biases of zero.

    Raises:
        CheckpointError: as :func:`refuse_half_compressed`.
    """
    refuse_half_compressed(model)
    precision = Precision.of(model)
    weights = Holdings.of(model)
    undo = ExitStack()
    with evaluating(model):
        try:
            yield undo
        except BaseException:
            _give_back_(model, weights, precision, undo)
            raise
        if always:
            _give_back_(model, weights, precision, undo)
        retie_(model)


def _give_back_(model: nn.Module, weights: Holdings, precision: Precision, undo: ExitStack) -> None:
    if weights.unchanged(model):
        undo.close()
    else:
        vars(model)[MARK] = True
    precision.restore_(model)
