"""What a method may ask the calibration for: a few needs of the fit, and the names of the signals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimum_grail.errors import UnknownNameError
from optimum_grail.registry import Registry

Need = str
"""What a method asks for: a selector or a compensator the fit (one of :data:`FIT_NEEDS`), an allocation the survey of
the dense model (the name of a signal)."""
FIT_NEEDS: frozenset[Need] = frozenset(
    {"gram", "held-out", "sources", "drift", "dense", "mask-gradients", "block-gradients", "routing"}
)
"""Second moments, their held-out part, the sources apart instead of it where there are several, the residual stream's
drift, the dense consumer output, gradients of the dense model's loss by a mask on the units, gradients of the block's
own output by the consumer's weight, and, of experts, how often the router chose them and how much they put out."""
SIGNALS: Registry[Any] = Registry(
    "signal", "optimum_grail.signals", "A new one is a file of its own: see ARCHITECTURE.md, 'How to add'."
)
"""The signals, classes of :class:`optimum_grail.signals._signal.Signal`. The registry stands here, where methods can be
checked; the signals themselves know models and streams, and are imported by name when they are asked for."""


def check_needs(part: str, name: str, needs: Iterable[Need]) -> None:
    """Refuse needs that nothing would meet.

    Args:
        part: the kind of method.
        name: of the method.
        needs: what it asks for.

    Raises:
        UnknownNameError: an unknown need; the message names the method and the nearest need.
    """
    known = SIGNALS.names() if part == "allocation" else FIT_NEEDS
    for need in sorted(set(needs).difference(known)):
        remedy = f"The {part} {name!r} asks for it: correct its needs, or add a signal of that name."
        raise UnknownNameError.among(f"need of {part}s", need, known, remedy)
