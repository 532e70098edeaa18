"""How far a compressed model answers as its dense model does, whatever the right answers are.

A metric such as accuracy counts right answers; two models that are right equally often may differ in every second
answer. What a model answered on an evaluation set is kept as a small value, so that the dense model may be gone when
the compressed one is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.errors import StatisticsError
from optimum_grail.models.residence import device_of, no_gradients
from optimum_grail.streams.hooks import hooked
from optimum_grail.streams.tail import divergences

POSITIONS = 2048
"""Most positions of running text whose answers are kept: the first ones of the evaluation windows."""
LOGITS_BYTES = 2**26
"""Most bytes of one model's logits (float32) at once: 341 positions of 49,152 tokens, 64 of 262,144."""
_PROBE = 4
"""Positions at which it is checked that a head still says what it said."""


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
    vocabulary of 262,144 tokens would take 2 GiB. The logits are computed from them again in slices, by the model's own
    forward with the head's input replaced, so that whatever the model does behind its head (caps, scales) is done. A
    run compresses its model in place, so the dense model's head is then the compressed model's. The blocks alone are
    compressed and it should say the same; that is checked at a few positions, not assumed.

    Args:
        model: the model; after its compression, the compressed one.
        hidden: ``[positions, features]``, on the CPU.
        said: the model's logits at the first positions, float32 ``[up to 4, vocabulary]``, from the same computation.
    """

    model: PreTrainedModel
    hidden: Tensor
    said: Tensor

    def agreement(self, dense: Self) -> dict[str, float]:
        """``kl``: ``KL(dense ‖ these)``, nats per token; ``same_token``: share of positions with the same most likely
        token; ``positions``: over how many. Sums are in float64.

        Raises:
            StatisticsError: the dense model's head is not what it was.
        """
        again = _logits(dense.model, dense.hidden[:_PROBE])
        if not torch.allclose(again, dense.said, rtol=1e-3, atol=1e-3 * float(dense.said.abs().max())):
            raise StatisticsError(
                "Compression changed the model's head, so its agreement with the dense model is not told. "
                "Measure the saved checkpoint with `optimum-cli grail evaluate --reference`."
            )
        divergence = torch.zeros((), dtype=torch.float64)
        same = 0
        size = max(1, LOGITS_BYTES // (4 * self.said.shape[1]))
        for ours, theirs in zip(self.hidden.split(size), dense.hidden.split(size), strict=True):
            found, wanted = _logits(self.model, ours), _logits(dense.model, theirs)
            divergence += divergences(wanted, found, None).sum(dtype=torch.float64)
            same += int((found.argmax(dim=-1) == wanted.argmax(dim=-1)).sum())
        count = len(self.hidden)
        return {"kl": float(divergence) / count, "same_token": same / count, "positions": count}


@dataclass
class Listener:
    """Keeps what a model's head reads while windows go through the model.

    Args:
        model: a causal language model with a head, or anything else, of which nothing is kept.
        parts: what was read so far, ``[positions, features]`` each.
    """

    model: nn.Module
    parts: list[Tensor] = field(default_factory=list)

    @property
    def head(self) -> nn.Module | None:
        """The module that makes logits of hidden states, if the model says which."""
        return self.model.get_output_embeddings() if isinstance(self.model, PreTrainedModel) else None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the first :data:`POSITIONS` positions that go by; the last of every window predicts nothing of it."""
        head = self.head

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Note the head's input."""
            missing = POSITIONS - sum(map(len, self.parts))
            if missing > 0 and args:
                rows = args[0][:, :-1].flatten(0, 1)[:missing]
                self.parts.append(rows.to("cpu", copy=True))

        with hooked(before=[] if head is None else [(head, keep)]):
            yield

    def answers(self) -> NextTokens | None:
        """What was heard; ``None`` of a model without a head."""
        if not self.parts or not isinstance(self.model, PreTrainedModel):
            return None
        hidden = torch.cat(self.parts)
        return NextTokens(self.model, hidden, _logits(self.model, hidden[:_PROBE]))


def _logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The logits that ``model`` makes of ``[N, features]``: float32 ``[N, vocabulary]``, on the CPU.

    Its blocks see a single token, since all that they give to the head is replaced.
    """
    head = model.get_output_embeddings()

    def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Other hidden states for the head."""
        return (hidden[None].to(args[0]), *args[1:]), kwargs

    token = torch.zeros(1, 1, dtype=torch.int64, device=device_of(model))
    with no_gradients(model), hooked(before=[(head, replace)]):
        logits: Tensor = model(input_ids=token, use_cache=False).logits
    return logits[0].float().cpu()
