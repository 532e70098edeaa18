"""How far a compressed model answers as its dense model does, whatever the right answers are.

A metric such as accuracy counts right answers; two models that are right equally often may differ in every second
answer. What a model answered on an evaluation set is kept as a small value, so that the dense model may be gone when
the compressed one is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from optimum_grail.errors import StatisticsError
from optimum_grail.streams.language_head import PROBED, LanguageHead, alike
from optimum_grail.streams.outputs import divergences

POSITIONS = 2048
"""Most positions of running text whose answers are kept: the first ones of the evaluation windows."""


class Answers(ABC):
    """What a model answered on an evaluation set, in the order of its rows."""

    @abstractmethod
    def agreement(self, dense: Self) -> dict[str, float]:
        """How far these answers are those of ``dense``, by name.

        Raises:
            StatisticsError: it cannot be told; the message says why.
        """


@dataclass(frozen=True, eq=False)
class Classes(Answers):
    """The class of every row.

    Args:
        numbers: int64 ``[rows]``.
    """

    numbers: Tensor

    def agreement(self, dense: Self) -> dict[str, float]:
        """``same_class``: share of rows put into the class that the dense model puts them into."""
        return {"same_class": float((self.numbers == dense.numbers).double().mean())}


@dataclass(frozen=True, eq=False)
class Embeddings(Answers):
    """The embedding of every row.

    Args:
        vectors: float32 ``[rows, features]``.
    """

    vectors: Tensor

    def agreement(self, dense: Self) -> dict[str, float]:
        """``cosine``: mean over the rows of the cosine between a row's two embeddings."""
        return {"cosine": float(nn.functional.cosine_similarity(self.vectors, dense.vectors).double().mean())}


@dataclass(frozen=True, eq=False)
class NextTokens(Answers):
    """What the head of a causal language model read at the first positions of the windows.

    Kept are hidden states, not logits: of 2,048 positions they take 16 MB at 2,048 features, where the logits of a
    vocabulary of 262,144 tokens would take 2 GiB. A run compresses its model in place, so the dense model's head is
    then the compressed model's. The blocks alone are compressed and it should say the same; that is checked at a few
    positions, not assumed.

    Args:
        head: the model's; after its compression, the compressed one's.
        hidden: ``[positions, features]``, on the CPU.
        said: the model's logits at the first positions, float32 ``[up to 4, vocabulary]``.
    """

    head: LanguageHead
    hidden: Tensor
    said: Tensor

    @torch.no_grad()
    def agreement(self, dense: Self) -> dict[str, float]:
        """``kl``: ``KL(dense ‖ these)``, nats per token; ``same_token``: share of positions with the same most likely
        token; ``positions``: over how many. Sums are in float64.

        Raises:
            StatisticsError: the dense model's head is not what it was.
        """
        if not alike(dense.head.logits(dense.hidden[:PROBED]).cpu(), dense.said):
            raise StatisticsError(
                "Compression changed the model's head, so its agreement with the dense model is not told. "
                "Measure the saved checkpoint with `optimum-cli grail evaluate --reference`."
            )
        divergence = torch.zeros((), dtype=torch.float64)
        same = 0
        for ours, theirs in self.head.slices(self.hidden, dense.hidden):
            found, wanted = self.head.logits(ours), dense.head.logits(theirs)
            divergence += divergences(wanted, found, None).sum(dtype=torch.float64).cpu()
            same += int((found.argmax(dim=-1) == wanted.argmax(dim=-1)).sum())
        count = len(self.hidden)
        return {"kl": float(divergence) / count, "same_token": same / count, "positions": count}


@dataclass
class Listener:
    """Keeps what a model's head reads while windows go through the model.

    Args:
        head: of a causal language model; ``None``: nothing is kept.
        parts: what was read so far, ``[positions, features]`` each.
    """

    head: LanguageHead | None
    parts: list[Tensor] = field(default_factory=list)

    def hear(self, rows: Tensor) -> None:
        """Keep what enters the head, ``[N, features]``, up to :data:`POSITIONS` positions in all."""
        missing = POSITIONS - sum(map(len, self.parts))
        if missing > 0:
            self.parts.append(rows[:missing].to("cpu", copy=True))

    def answers(self) -> NextTokens | None:
        """What was heard; ``None`` of a model without a head."""
        if not self.parts or self.head is None:
            return None
        hidden = torch.cat(self.parts)
        return NextTokens(self.head, hidden, self.head.logits(hidden[:PROBED]).cpu())
