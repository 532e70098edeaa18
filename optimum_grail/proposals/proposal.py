"""A proposal: maps, and what they leave out."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ArchitectureError


@dataclass(frozen=True)
class LeftOut:
    """What of a model is not in a proposal.

    Args:
        where: path of the module or of the blocks.
        why: one sentence for users.
    """

    where: str
    why: str


@dataclass(frozen=True)
class Proposal:
    """Maps that keep all laws, and what they leave out.

    Args:
        specs: one per model type, in the order in which their blocks run; none if nothing was found.
        left_out: what looked like something that shrinks and is in none of them.
        model_class: name of the model's class.
    """

    specs: tuple[ArchitectureSpec, ...]
    left_out: tuple[LeftOut, ...]
    model_class: str

    @property
    def spec(self) -> ArchitectureSpec:
        """The only map.

        Raises:
            ArchitectureError: there is none, or one for each of several parts of the model.
        """
        if len(self.specs) == 1:
            return self.specs[0]
        reasons = "; ".join(f"{item.where}: {item.why}" for item in self.left_out) or "no repeated blocks were found"
        raise ArchitectureError(
            f"{len(self.specs)} maps are proposed for {self.model_class}, expected one. "
            + ("Register each of specs." if self.specs else f"Write one by hand; {reasons}.")
        )
