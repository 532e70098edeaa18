"""The training of a recovery, with transformers' Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from optimum_grail.data.batches import Batch, collate
from optimum_grail.recovery.distil import Learner, Sample, divergence, logits_of, mean_divergence, samples_of
from optimum_grail.recovery.recipe import Recipe
from optimum_grail.report.progress import Progress

MEASURED = "eval_kl"
"""Name of the held-out divergence among the Trainer's metrics."""


@dataclass(frozen=True)
class Lesson:
    """What a learner learns, and from whom.

    Args:
        teacher: the dense model, in eval mode, on the learner's device.
        batches: samples; the held-out ones are measured on.
        recipe: the settings.
        folder: where the states are kept.
        progress: told once per step.
    """

    teacher: nn.Module
    batches: Sequence[Batch]
    recipe: Recipe
    folder: Path
    progress: Progress


@dataclass(frozen=True)
class Point:
    """The held-out divergence after so many steps.

    Args:
        step: optimizer steps so far.
        kl: ``KL(dense ‖ compressed)``, mean over samples, nats.
    """

    step: int
    kl: float


class DistilTrainer(Trainer):
    """A Trainer whose loss and metric are the divergence from the dense model.

    Args:
        lesson: what is learnt.
        arguments: as :class:`transformers.Trainer` takes them.
    """

    def __init__(self, lesson: Lesson, **arguments: object) -> None:
        super().__init__(**arguments)
        self.lesson = lesson

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See :class:`transformers.Trainer`."""
        loss, outputs = _loss(self.lesson.teacher, model, inputs)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """The divergence on the held-out samples, logged with its step."""
        kl = mean_divergence(self.lesson.teacher, self.model, self.lesson.batches)
        self.lesson.progress.message(f"step {self.state.global_step}: KL {kl:.4f} on held-out samples")
        found = {MEASURED: kl}
        self.log(found)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


class _Report(TrainerCallback):
    """Tells a :class:`Progress` about every step, and has the last one measured."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Move the bar on."""
        self.progress.update(1, f"step {state.global_step}")
        if state.global_step == state.max_steps:
            control.should_evaluate = control.should_save = True


def train_(student: Learner, lesson: Lesson) -> tuple[Point, ...]:
    """Train ``student``, resumed from the states in the lesson's folder, and leave it as it was where it was nearest.

    Args:
        student: as :func:`~optimum_grail.recovery.distil.learner` gives it, right after its creation.
        lesson: what it learns.

    Returns:
        the held-out divergence before the first step and along the way.
    """
    recipe, start = lesson.recipe, time.perf_counter()
    before = mean_divergence(lesson.teacher, student, lesson.batches)
    measurement = time.perf_counter() - start
    samples = samples_of(lesson.batches, held=False)
    collator = _collator(student)
    schedule = recipe.scheduled(
        lesson.folder, lambda: _seconds(student, lesson, collator(samples[: recipe.batch_size])), measurement
    )
    arguments = TrainingArguments(
        output_dir=str(lesson.folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.rate,
        lr_scheduler_type="cosine",
        warmup_steps=schedule.steps // 20,
        seed=recipe.seed,
        eval_strategy="steps",
        eval_steps=schedule.every,
        save_steps=schedule.every,
        save_total_limit=1,  # and the best
        load_best_model_at_end=True,
        metric_for_best_model=MEASURED,
        greater_is_better=False,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=next(student.parameters()).device.type == "cpu",
    )
    data = {"train_dataset": list(samples), "eval_dataset": [], "data_collator": collator}
    trainer = DistilTrainer(lesson, model=student, args=arguments, **data)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Report(lesson.progress))
    lesson.progress.start(schedule.steps, "training")
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(lesson.folder)))
    lesson.progress.finish()
    found = {row["step"]: row[MEASURED] for row in trainer.state.log_history if MEASURED in row}
    return (Point(0, before), *(Point(step, kl) for step, kl in found.items()))


def _loss(teacher: nn.Module, model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
    with torch.no_grad():
        target = logits_of(teacher, inputs)
    outputs = model(**inputs)
    return divergence(target, outputs.logits, inputs.get("attention_mask")), outputs


def _seconds(student: Learner, lesson: Lesson, inputs: Mapping[str, Tensor]) -> float:
    """Seconds of one step, but for the optimizer's own: the second of two trials, which leave no trace."""
    device = next(student.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    student.train()
    for _ in range(2):
        start = time.perf_counter()
        _loss(lesson.teacher, student, inputs)[0].backward()
        student.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def _collator(student: Learner) -> Callable[[Sequence[Sample]], dict[str, Tensor]]:
    pad = getattr(student.config, "pad_token_id", None) or 0
    return lambda samples: collate(samples, pad)
