"""One compression of one model: the order of the stages, written here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from optimum_grail.core.plan import Plan
from optimum_grail.data.batches import CalibrationData
from optimum_grail.fit.experts import experts_with_few_rows
from optimum_grail.models.intact import kept_intact_
from optimum_grail.models.layout import Layout
from optimum_grail.models.precision import float32_on_cpu
from optimum_grail.models.residence import is_offloaded
from optimum_grail.models.size import Size
from optimum_grail.pipeline.patterning import check_pattern, compressed_
from optimum_grail.pipeline.preparing import prepare_
from optimum_grail.pipeline.setup import Setup, Unwatched, Watch
from optimum_grail.streams.memory import released_at_once
from optimum_grail.widths.allocate import Widths

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource


@dataclass(frozen=True)
class Run:
    """What a run did.

    Args:
        plan: what was done to every group.
        layout: of the dense model.
        left: of what is left of it, at its new paths and at the sizes before compression.
        before: size of the dense model.
        after: size of the compressed model.
        widths: what the allocation decided and predicted.
        data: the calibration data; ``None`` for data-free methods.
        standalone: whether plain transformers can load the result.
        notes: what the user should know.
        seconds: wall time by stage.
    """

    plan: Plan
    layout: Layout
    left: Layout
    before: Size
    after: Size
    widths: Widths
    data: CalibrationData | None
    standalone: bool
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


def compress_(model: nn.Module, setup: Setup, dataset: DataSource | None = None, watch: Watch | None = None) -> Run:
    """Compress ``model`` in place.

    A run that fails before the first weight is replaced leaves the model as it was; after that the model is marked, and
    no run takes it again. Every submodule has its mode (``train()`` or ``eval()``) back in any case.

    Args:
        model: a dense model, or one that may be compressed again.
        setup: configuration, map, tokenizer and processor.
        dataset: calibration data in any form, instead of the configuration's; or data that an earlier run has read.
        watch: measures the model before and after.

    Raises:
        CheckpointError: an earlier run has left the model half compressed.
        GrailError: any bad input, before long work where it can be known; the message says what to do.
    """
    watch = watch or Unwatched()
    with released_at_once(is_offloaded(model)), kept_intact_(model) as undo:
        ready = prepare_(model, setup, undo)
        data = ready.calibrate_(dataset, watch)
        check_pattern(model, ready.layout, setup, data)
        ready.recognise(data)
        with ready.journal.timed("evaluation"), float32_on_cpu(model):
            watch.dense(model, data)
        widths = ready.allocate(data, ready.survey(data))
        plan = compressed_(ready, data, widths)
        left, standalone = ready.finish_(widths)
        with ready.journal.timed("evaluation"), float32_on_cpu(model):
            watch.compressed(model, data)
        return Run(
            plan=plan,
            layout=ready.layout,
            left=left,
            before=ready.before,
            after=Size.of(model, left),
            widths=widths,
            data=data,
            standalone=standalone,
            notes=(*ready.journal.notes, *experts_with_few_rows(plan), *widths.notes),
            seconds=ready.journal.seconds,
        )
