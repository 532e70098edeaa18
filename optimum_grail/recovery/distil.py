"""LoRA trained towards the dense model's logits, with transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from optimum_grail.data.batches import Batch, collate
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.resolve import resolve
from optimum_grail.recovery.recipe import Recipe
from optimum_grail.report.progress import Progress
from optimum_grail.streams.outputs import divergences

Sample = Mapping[str, Tensor]


def divergence(teacher: Tensor, student: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``KL(teacher ‖ student)`` over samples or unpadded tokens, nats.

    Args:
        teacher: logits, ``[B, C]`` or ``[B, T, C]``.
        student: logits of the same shape.
        mask: ``[B, T]``, non-zero on real tokens; ``None``: all are.
    """
    return divergences(teacher.float(), student.float(), mask).mean()


def adapted(student: PreTrainedModel, rank: int) -> PeftModel:
    """``student`` with LoRA factors on every layer that the compression touches.

    Raises:
        ArchitectureError: no map fits the model.
    """
    groups = resolve(student).groups
    paths = dict.fromkeys(port.module for group in groups for port in (*group.producers, group.consumer))
    targets = [path for path in paths if isinstance(student.get_submodule(path), nn.Linear | nn.Conv2d)]
    return get_peft_model(student, LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets))


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


class DistilTrainer(Trainer):
    """A Trainer whose loss is the divergence from the dense model.

    Args:
        teacher: the dense model, in eval mode, on the student's device.
        arguments: as :class:`transformers.Trainer` takes them.
    """

    def __init__(self, teacher: nn.Module, **arguments: object) -> None:
        super().__init__(**arguments)
        self.teacher = teacher

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See :class:`transformers.Trainer`."""
        with torch.no_grad():
            target = logits_of(self.teacher, inputs)
        outputs = model(**inputs)
        loss = divergence(target, outputs.logits, inputs.get("attention_mask"))
        return (loss, outputs) if return_outputs else loss


class _Report(TrainerCallback):
    """Tells a :class:`Progress` about every step."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Move the bar on."""
        self.progress.update(1, f"step {state.global_step}")


def train_(
    teacher: nn.Module, student: PeftModel, samples: Sequence[Sample], recipe: Recipe, folder: Path, progress: Progress
) -> None:
    """Train the factors of ``student``; the states in ``folder`` are resumed from.

    Args:
        teacher: the dense model.
        student: as :func:`adapted` gives it, right after its creation.
        samples: model inputs.
        recipe: the settings.
        folder: where the states are kept.
        progress: told once per step.
    """
    device = next(student.parameters()).device
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.steps // 20,
        seed=recipe.seed,
        save_steps=recipe.save_every,
        save_total_limit=1,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
    )
    trainer = DistilTrainer(
        teacher, model=student, args=arguments, train_dataset=list(samples), data_collator=_collator(student)
    )
    trainer.add_callback(_Report(progress))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))


def _collator(student: PeftModel) -> Callable[[Sequence[Sample]], dict[str, Tensor]]:
    pad = getattr(student.config, "pad_token_id", None) or 0
    return lambda samples: collate(samples, pad)
