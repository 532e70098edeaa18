"""A compressed model's logits drawn towards the dense model's: the loss, and what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.data.batches import Batch
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.resolve import resolve
from optimum_grail.recovery.recipe import Recipe
from optimum_grail.streams.outputs import divergences

Sample = Mapping[str, Tensor]
Learner: TypeAlias = PreTrainedModel | PeftModel


def divergence(teacher: Tensor, student: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``KL(teacher ‖ student)`` over samples or unpadded tokens, nats.

    Args:
        teacher: logits, ``[B, C]`` or ``[B, T, C]``.
        student: logits of the same shape.
        mask: ``[B, T]``, non-zero on real tokens; ``None``: all are.
    """
    return divergences(teacher.float(), student.float(), mask).mean()


def learner(student: PreTrainedModel, recipe: Recipe) -> Learner:
    """``student`` with what the recipe trains: all weights, or LoRA factors on every layer that is compressed.

    Raises:
        ArchitectureError: no map fits the model.
    """
    if recipe.weights == "full":
        return student.requires_grad_(True)
    groups = resolve(student).groups
    paths = dict.fromkeys(port.module for group in groups for port in (*group.producers, group.consumer))
    targets = [path for path in paths if isinstance(student.get_submodule(path), nn.Linear | nn.Conv2d)]
    factors = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, lora_dropout=0.0, target_modules=targets)
    return get_peft_model(student, factors)


def merged(trained: Learner) -> PreTrainedModel:
    """The model that the training ends with: factors in their layers, all weights free, in eval mode."""
    model: PreTrainedModel = trained.merge_and_unload() if isinstance(trained, PeftModel) else trained
    return model.eval().requires_grad_(True)


def samples_of(batches: Sequence[Batch], held: bool) -> list[Sample]:
    """The single samples of the held-out batches, or of the others."""
    return [
        {name: tensor[index] for name, tensor in batch.inputs.items()}
        for batch in batches
        if (batch.split == "held") == held
        for index in range(batch.size)
    ]


@torch.inference_mode()
def mean_divergence(teacher: nn.Module, student: nn.Module, batches: Sequence[Batch]) -> float:
    """``KL(teacher ‖ student)`` on the held-out batches, mean over samples; both models in eval mode afterwards.

    Raises:
        ArchitectureError: the models give no logits.
    """
    device = next(student.parameters()).device
    total, count = 0.0, 0
    for batch in batches:
        if batch.split != "held":
            continue
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        found = [logits_of(model.eval(), inputs) for model in (teacher, student)]
        size = len(found[0])
        total += size * float(divergence(found[0], found[1], inputs.get("attention_mask")))
        count += size
    return total / max(count, 1)


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of ``model``.

    Raises:
        ArchitectureError: its output has none.
    """
    logits = getattr(model(**inputs), "logits", None)
    if logits is None:
        raise ArchitectureError(
            f"{type(model).__name__} gives no logits to learn from. Recovery needs a model with a head, such as "
            "ForCausalLM or ForImageClassification."
        )
    return logits
