"""From a compressed checkpoint to a recovered one."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from optimum_grail.checkpoints.files import MODEL_WEIGHTS, matches, present_name, written_files
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.output import check_output, staged_folder
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.config.config import GrailConfig
from optimum_grail.config.mixture import mixture_of
from optimum_grail.config.source import SELF
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.selfgen import generate_self_text
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError, RecoveryError
from optimum_grail.evaluation.comparison import Comparison, Comparisons
from optimum_grail.hub.card import write_card
from optimum_grail.models.intact import evaluating
from optimum_grail.models.precision import Precision, cast_, float32_on_cpu
from optimum_grail.models.resolve import resolve
from optimum_grail.recovery.distil import learner, mean_divergence, merged
from optimum_grail.recovery.recipe import Recipe
from optimum_grail.recovery.training import Lesson, train_
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.report.report import Report

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, Processor, Tokenizer

TEXT_FILE = "text.safetensors"
PROMPT = 4
"""One token in so many of a text of the user's is kept as the prompt; the dense model writes the rest."""


@dataclass(frozen=True)
class _Run:
    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: Tokenizer | None
    processor: Processor | None
    recipe: Recipe
    folder: Path
    progress: Progress


def recover(
    checkpoint: str | Path,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    base_model: PreTrainedModel | str | Path | None = None,
    dataset: DataSource | None = None,
    eval_dataset: DataSource | None = None,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train a compressed model for a short while on the dense model's answers, and write the merged result.

    LoRA factors on all compressed layers, or all weights, learn the dense model's distribution (KL divergence of the
    logits) on text that the dense model writes; with a text ``dataset`` it answers the beginnings of its texts
    (self-data distillation) unless the recipe says ``rewrite=False``. Models that do not write learn its logits on the
    samples of ``dataset``. Along the way the state is measured on held-out samples and kept beside ``output``; the same
    call resumes from it, and what is written is the state nearest to the dense model.

    Args:
        checkpoint: folder of the compressed model.
        output: folder to write; complete or absent.
        recipe: the settings of the training.
        base_model: the dense model; by default the one that the checkpoint's report names. A module is left as it was.
        dataset: any form of calibration data; by default the model's own text.
        eval_dataset: measure dense, compressed and recovered model on this data.
        overwrite: replace a checkpoint in ``output``.
        device: where to compute; a GPU if there is one by default.
        progress: told once per step.

    Returns:
        the checkpoint's report, with what was measured before and after under ``recovery``.

    Raises:
        CheckpointError: a model is missing or corrupt, or a run with other settings was interrupted here.
        DataError: the data is missing or does not fit.
        OutputError: ``output`` cannot be written.
        RecoveryError: no state was nearer to the dense model than the compressed model is; nothing is written.
    """
    recipe, progress = recipe or Recipe(), progress or Silent()
    target = check_output(output, overwrite, source=checkpoint)
    report, written = Report.load(checkpoint), GrailConfig.from_pretrained(checkpoint)
    dense = base_model or report.model
    teacher = dense if isinstance(dense, PreTrainedModel) else load_model(dense, device=device)
    student = load_model(checkpoint, device=device)
    tokenizer, processor = load_processors(checkpoint, False)
    comparison = _comparison(student, eval_dataset, tokenizer, processor, written)
    work = target.parent / f"{target.name}.recovery"
    work.mkdir(parents=True, exist_ok=True)
    source = SELF if dataset is None and student.can_generate() else dataset
    recipe.note(work, checkpoint=str(checkpoint), dataset=str(source)[:200])
    precision = Precision.of(student)
    if student.device.type == "cpu":
        cast_(student, torch.float32)
    with evaluating(teacher), float32_on_cpu(teacher):  # which may be the caller's
        run = _Run(teacher, student.eval(), tokenizer, processor, recipe, work, progress)
        model, found = _train(run, _batches(run, recipe.data(written, source)), comparison)
    precision.restore_(model)
    mixture = mixture_of(source)
    name = mixture.spelled() if mixture else source if isinstance(source, str) else type(source).__name__
    report = _noted(report, found, {"dataset": name, **dataclasses.asdict(recipe), "learning_rate": recipe.rate})
    _save(checkpoint, target, overwrite, model, report)
    shutil.rmtree(work)
    return report


def _comparison(
    model: PreTrainedModel, dataset: Any, tokenizer: Any, processor: Any, config: GrailConfig
) -> Comparison | None:
    """What is measured before and after; nothing without data.

    Raises:
        DataError: several data sets, or as :meth:`Comparison.prepare`.
    """
    found = Comparisons.prepare(model, dataset, tokenizer, processor, config).items
    if len(found) > 1:
        raise DataError(f"A recovery is measured on one evaluation set, and {len(found)} are named. Choose one.")
    return found[0] if found else None


def _train(
    run: _Run, batches: tuple[Batch, ...], comparison: Comparison | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The recovered model, and what was measured before, along the way and after.

    Raises:
        RecoveryError: training brought it no nearer to the dense model.
    """
    start = time.perf_counter()
    models = {} if comparison is None else {"dense": run.teacher, "before": run.student}
    measured = {name: _measured(comparison, model, run) for name, model in models.items()}
    set_seed(run.recipe.seed)  # the factors' random start
    student = learner(run.student, run.recipe)
    curve = train_(student, Lesson(run.teacher, batches, run.recipe, run.folder, run.progress))
    model, before = merged(student), curve[0].kl
    after = mean_divergence(run.teacher, model, batches)
    if not after < before:
        shutil.rmtree(run.folder)
        raise RecoveryError(
            f"After {curve[-1].step} steps no state was nearer to the dense model than the compressed model is: KL "
            f"{before:.4f} nats before, {after:.4f} at best. Nothing was written. Try a smaller --learning-rate than "
            f"{run.recipe.rate:g}, more --num-samples, or more --steps or --minutes."
        )
    points = tuple(dataclasses.asdict(point) for point in curve)
    found: dict[str, Any] = {"kl_before": before, "kl_after": after, "curve": points, "steps": curve[-1].step}
    if comparison is not None:
        last = _measured(comparison, model, run)
        found["evaluation"] = {
            "metric": comparison.metric.headline,
            "dataset": comparison.dataset,
            "higher_is_better": comparison.metric.higher_is_better,
            **{name: values[comparison.metric.headline] for name, values in {**measured, "after": last}.items()},
            "protocol": last.get("protocol", ""),
        }
    return model, {**found, "seconds": time.perf_counter() - start}


def _measured(comparison: Comparison | None, model: PreTrainedModel, run: _Run) -> Mapping[str, Any]:
    return {} if comparison is None else comparison.measure(model, "the evaluation set", run.progress).result


def worsened(recovery: Mapping[str, Any]) -> str | None:
    """A warning where the evaluation says the opposite of the divergence; ``None``: it does not.

    Args:
        recovery: a report's entry of that name.
    """
    measured = recovery.get("evaluation")
    if not measured or measured["before"] is None or measured["after"] is None:
        return None
    gain = measured["after"] - measured["before"]
    if (gain if measured["higher_is_better"] else -gain) >= 0:
        return None
    return (
        f"Recovery brought the model nearer to the dense one, but {measured['metric']} on {measured['dataset']} went "
        f"from {measured['before']:.4g} to {measured['after']:.4g}: it learnt on text unlike that set. Train on text "
        "like it (--dataset), or use the compressed model as it was."
    )


def _batches(run: _Run, request: DataRequest) -> tuple[Batch, ...]:
    """What is trained and measured on; text that the dense model writes is kept for a resumed run."""
    layout = resolve(run.student)
    if not run.student.can_generate():
        recipient = Recipient.of(run.student, layout, run.tokenizer, run.processor)
        return load_calibration(recipient, request, progress=run.progress).batches
    path = run.folder / TEXT_FILE
    if not path.is_file():
        recipient = Recipient.of(run.teacher, layout, run.tokenizer, run.processor)
        data = load_calibration(recipient, request, progress=run.progress)
        text = torch.cat([batch.inputs["input_ids"] for batch in data.batches])
        if run.recipe.rewrite and not request.own:
            text = _answered(run, text)
        save_file({"text": text}, str(path))
    rows = [{"input_ids": row} for row in load_file(path)["text"]]
    return make_batches(rows, batch_size=run.recipe.batch_size)


def _answered(run: _Run, text: Tensor) -> Tensor:
    """The beginning of every row, gone on with by the dense model."""
    count, length = text.shape
    prompts = text[:, : max(1, length // PROMPT)]
    return generate_self_text(
        run.teacher, run.tokenizer, num_samples=count, seqlen=length, seed=run.recipe.seed, prompts=prompts
    ).ids


def _noted(report: Report, found: Mapping[str, Any], settings: Mapping[str, Any]) -> Report:
    """``report`` with the recovery, and the recovered model's results where it had the compressed one's."""
    seconds = {**report.seconds, "recovery": found["seconds"]}
    measured = found.get("evaluation")
    rows = report.evaluation
    if measured:
        row = {key: measured[key] for key in ("metric", "dataset", "higher_is_better", "dense", "protocol")}
        others = (old for old in rows if (old.get("metric"), old.get("dataset")) != (row["metric"], row["dataset"]))
        rows = (*others, {**row, "compressed": measured["after"]})
    outcome = {key: value for key, value in found.items() if key != "seconds"}
    recovery = {**settings, **outcome}
    warning = worsened(recovery)
    warnings = report.warnings if warning is None else (*report.warnings, warning)
    return dataclasses.replace(report, recovery=recovery, evaluation=tuple(rows), seconds=seconds, warnings=warnings)


def _save(checkpoint: str | Path, target: Path, overwrite: bool, merged: PreTrainedModel, report: Report) -> None:
    """The checkpoint's files, with other weights, report and card."""
    with staged_folder(target, overwrite) as folder:
        for name in written_files(Path(checkpoint)) or ():
            if not matches(name, MODEL_WEIGHTS):
                place = folder / present_name(name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(checkpoint) / name, place)
        merged.save_pretrained(folder)
        report.save(folder)
        write_card(report, folder)
