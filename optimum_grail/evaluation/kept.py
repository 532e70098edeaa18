"""What a metric found out about the dense model, as tensors that outlive the process, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.errors import CheckpointError
from optimum_grail.evaluation.agreement import Answers, Classes, Embeddings, NextTokens
from optimum_grail.evaluation.metrics import Measured
from optimum_grail.models.residence import device_of
from optimum_grail.streams.language_head import LanguageHead

SHORT = 16
"""Most ids of the sample that a head is asked with."""


def to_tensors(found: Sequence[Measured]) -> dict[str, Tensor]:
    """The results, as the bytes of JSON, and the answers."""
    tensors: dict[str, Tensor] = {}
    for number, item in enumerate(found):
        tensors[f"{number}/result"] = torch.tensor(list(json.dumps(item.result).encode()), dtype=torch.uint8)
        tensors |= {f"{number}/{name}": tensor for name, tensor in _parts(item.answers).items()}
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], headlines: Sequence[str], model: nn.Module) -> tuple[Measured, ...]:
    """What :func:`to_tensors` was given.

    Args:
        tensors: as they were kept; anyone may have written them.
        headlines: of every comparison, the name of its main figure.
        model: the dense model, or what becomes of it.

    Raises:
        CheckpointError: they are no results of these comparisons.
    """
    try:
        return tuple(_measured(tensors, number, headline, model) for number, headline in enumerate(headlines))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"What an interrupted run measured of the dense model is damaged: {error}. Delete its state's folder."
        ) from error


def _measured(tensors: Mapping[str, Tensor], number: int, headline: str, model: nn.Module) -> Measured:
    result = json.loads(bytes(tensors[f"{number}/result"].to(torch.uint8).flatten().tolist()))
    if not isinstance(result, dict) or not all(isinstance(value, str | int | float) for value in result.values()):
        raise ValueError("a result is no number")
    if isinstance(result[headline], str):
        raise ValueError(f"{headline} is no number")
    own = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{number}/")}
    return Measured(result, _answers(own, model))


def _parts(answers: Answers | None) -> dict[str, Tensor]:
    if isinstance(answers, Classes):
        return {"classes": answers.numbers}
    if isinstance(answers, Embeddings):
        return {"vectors": answers.vectors}
    if isinstance(answers, NextTokens):
        return {"hidden": answers.hidden, "said": answers.said, "ids": answers.head.sample["input_ids"].cpu()}
    return {}


def _answers(own: Mapping[str, Tensor], model: nn.Module) -> Answers | None:
    if "classes" in own:
        return Classes(own["classes"])
    if "vectors" in own:
        return Embeddings(own["vectors"])
    if "hidden" not in own:
        return None
    hidden, said, ids = (own[name] for name in ("hidden", "said", "ids"))
    words = len(model.get_input_embeddings().weight) if isinstance(model, PreTrainedModel) else 0
    if (
        ids.dtype != torch.int64
        or ids.dim() != 2
        or ids.numel() > SHORT
        or not bool(((ids >= 0) & (ids < words)).all())
    ):
        raise ValueError("the ids of a sample are none")
    head = LanguageHead.of(model, {"input_ids": ids.to(device_of(model)), "use_cache": False})
    if (
        head is None
        or hidden.dim() != 2
        or said.dim() != 2
        or hidden.shape[1] != head.module.get_parameter("weight").shape[1]
    ):
        raise ValueError("hidden states do not fit the model's head")
    return NextTokens(head, hidden, said)
