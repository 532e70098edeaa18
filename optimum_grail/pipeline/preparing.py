"""What comes before the first stage: a look at the model and at what was asked for."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from torch import nn

from optimum_grail.core.groups import IN_MIXTURES
from optimum_grail.fit.agreement import check_shareable
from optimum_grail.models.biases import add_biases_
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import owns_bias
from optimum_grail.models.precision import Precision
from optimum_grail.models.resolve import resolve
from optimum_grail.models.rotary import check_head_size
from optimum_grail.models.size import Size
from optimum_grail.models.surgery import check_weights
from optimum_grail.pipeline import agreement
from optimum_grail.pipeline.patterning import check_pattern
from optimum_grail.pipeline.setup import Journal, Setup
from optimum_grail.pipeline.stages import Prepared
from optimum_grail.widths.allocate import check_request


def _layout(model: nn.Module, setup: Setup) -> Layout:
    """The layout, with those groups inside mixtures of experts of which units are asked to go."""
    asked = setup.methods.in_mixtures
    return resolve(model, setup.spec, bool(asked)).without(IN_MIXTURES - asked)


def prepare_(model: nn.Module, setup: Setup, undo: ExitStack) -> Prepared:
    """Check the weights and the request, and add biases if a fitted one could not be stored otherwise.

    Args:
        model: in eval mode.
        setup: what the run is told.
        undo: given what takes the biases out again.

    Raises:
        GrailError: no map fits, weights are not finite, or the request cannot be reached.
    """
    check_shareable(setup.methods, setup.ranks)
    agreement.check_request(setup.ranks, setup.config, sum(item.numel() for item in model.parameters()))
    precision, layout = Precision.of(model), _layout(model, setup)
    check_weights(model, layout.groups)
    before = Size.of(model, layout)
    if setup.methods.compensator.wants_bias and not all(owns_bias(model, group) for group in layout.groups):
        undo.callback(add_biases_(model, layout).remove_)
        layout = _layout(model, setup)
    if setup.methods.inside:
        check_head_size(model, layout)
    check_pattern(model, layout, setup)
    journal = Journal() if setup.state is None else Journal(dict(setup.state.header.seconds))
    if setup.state is not None:
        setup.state.clock = journal.so_far
    ready = Prepared(model, setup, layout, before, precision, journal)
    return replace(ready, classes=check_request(layout, *ready.request))
