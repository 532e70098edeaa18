"""One file per compensator; a compensator computes the consumer's new weight."""

from __future__ import annotations

from optimum_grail.core.contracts import Compensator
from optimum_grail.registry import Registry

COMPENSATORS: Registry[type[Compensator]] = Registry(
    "compensator", __name__, "`optimum-cli grail list compensators` describes them."
)
