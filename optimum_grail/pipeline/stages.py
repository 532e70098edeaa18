"""The stages of a run, one method each; :mod:`optimum_grail.pipeline.run` puts them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.checkpoints.spool import Spool
from optimum_grail.config.source import GENERAL
from optimum_grail.core.budget import WidthClass
from optimum_grail.core.contracts import Allocation
from optimum_grail.core.groups import IN_MIXTURES
from optimum_grail.core.plan import Plan
from optimum_grail.data.batches import CalibrationData
from optimum_grail.data.parts import written_samples
from optimum_grail.data.portion import Portion
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.record import Unrecorded
from optimum_grail.fit.rehearsal import Rehearsal
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.layout import Layout
from optimum_grail.models.precision import Precision, cast_
from optimum_grail.models.residence import is_offloaded, resident
from optimum_grail.models.rotary import settle_head_size_
from optimum_grail.models.size import Size
from optimum_grail.models.stock import current_widths, expressible_together, is_standalone, write_config_
from optimum_grail.models.trial import try_widths
from optimum_grail.pipeline.agreement import agreed, check_same
from optimum_grail.pipeline.estimate import Outlook, estimate
from optimum_grail.pipeline.placement import check_disk, choose_dtype_, streams_go_to_files
from optimum_grail.pipeline.setup import Journal, Setup, Watch
from optimum_grail.state.soundness import check_gradients, check_measured
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.gradients import check_labels, mask_gradients
from optimum_grail.survey.cache import dependencies
from optimum_grail.survey.findings import Findings
from optimum_grail.survey.signature import signature
from optimum_grail.survey.survey import Survey
from optimum_grail.widths.allocate import Widths, allocate
from optimum_grail.widths.request import Expressible, Request

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource

NO_OWN_TEXT = (
    "Calibrated on the general corpus alone: with its weights on disk the model would be read once for every token of "
    "its own text. --dataset general:2 self:1 asks for it all the same."
)
"""Said where the default data is another because of low memory."""


@dataclass(frozen=True)
class Prepared:
    """A dense model that a run may begin with; made by :func:`optimum_grail.pipeline.preparing.prepare_`.

    Args:
        model: in eval mode.
        setup: what the run was told.
        layout: of the model, biases that were added included.
        before: size of the model as it came.
        precision: its dtypes.
        journal: what is noted along the way.
        classes: the widths there are to choose from; none where they cost what is still to be measured.
    """

    model: nn.Module
    setup: Setup
    layout: Layout
    before: Size
    precision: Precision
    journal: Journal
    classes: tuple[WidthClass, ...] = ()

    @cached_property
    def spool(self) -> Spool | None:
        """Takes the weights of blocks that are compressed; ``None`` where the model is in memory."""
        if not is_offloaded(self.model):
            return None
        return Spool(self.precision.dtypes, self.precision.main, exact=len(self.layout.stacks) > 1)

    def _resident(self, path: str) -> AbstractContextManager[Any]:
        """The block at ``path`` in memory, and its weights in files afterwards."""
        return resident(self.model, path, None if self.spool is None else self.spool.keep)

    @property
    def offload(self) -> bool:
        """Whether the streams are kept in files; known once the run's cost is."""
        return self.journal.offload

    @property
    def request(self) -> tuple[Request, Allocation, Expressible]:
        """The widths that were asked for, by which method, and what the stock config can say."""
        request = Request.of(self.setup.config, self.layout, self.before.blocks)
        return request, self.setup.methods.allocation, partial(expressible_together, self.model, self.layout)

    def outlook_(self, dataset: DataSource | None, watch: Watch) -> Outlook | None:
        """What the run will need, told before the data is made where its size is known; ``None`` for data-free methods.

        The model computes in float32 from here on.

        Args:
            dataset: any form that calibration data takes, or data that an earlier run has read.
            watch: what is measured before and after.

        Raises:
            OutputError: the streams shall go to files, and the disk has no room for them.
        """
        if not self.setup.methods.needs_data:
            return None
        cast_(self.model, torch.float32)
        data = dataset if isinstance(dataset, CalibrationData) else None
        request = self._request(dataset)
        outline = self._recipient.outline(request)
        if data is None and outline is None:
            data = self._read(dataset)
        batches = data.batches if data is not None else [outline] if outline is not None else []
        written = 0 if data is not None else written_samples(request)
        cost = estimate(self.model, self.layout, self.setup.methods, batches, self.setup.ranks.count)
        cost = cost.beside(written, watch.seconds(self.model, cost.sample))
        self.journal.offload = streams_go_to_files(cost, self.setup.config.offload_streams, self.model)
        cost = cost.in_files() if self.offload else cost
        check_disk(cost)
        if data is not None:
            return Outlook(cost, data.samples, data.tokens, data)
        ids = batches[0].inputs["input_ids"]
        return Outlook(cost, len(ids), ids.numel())

    def _request(self, dataset: DataSource | None) -> DataRequest:
        return DataRequest.of(self.setup.config, dataset).filled(self._recipient)

    @property
    def _recipient(self) -> Recipient:
        return Recipient.of(self.model, self.layout, self.setup.tokenizer, self.setup.processor)

    def calibrate_(self, dataset: DataSource | None, watch: Watch) -> CalibrationData | None:
        """The data, after saying what the run will need and trying that the blocks run at other widths; ``None`` for
        data-free methods. Arguments and errors as of :meth:`outlook_`.

        Raises:
            ArchitectureError: the code of a block fails at another width.
        """
        outlook = self.outlook_(dataset, watch)
        if outlook is None:
            return None
        self.setup.progress.message(outlook.line())
        data = outlook.data
        if data is None:
            data = self._read(dataset)
            if (data.samples, data.tokens) != (outlook.samples, outlook.tokens):  # ready-made samples of other lengths
                outlook = self.outlook_(data, watch) or outlook
        try_widths(self.model, self.layout, on_device(self.model, data.batches[0].head()))
        told = [choose_dtype_(self.model, outlook.cost, self.precision, self.setup.ranks), outlook.cost.few_rows()]
        if self.spool is not None and self._request(dataset).dataset == GENERAL != self.setup.config.dataset:
            told.append(NO_OWN_TEXT)
        self.journal.notes.extend(note for note in told if note is not None)
        return data

    def _read(self, dataset: DataSource | None) -> CalibrationData:
        request = self._request(dataset)
        with self.journal.timed("data"):
            keep, told = None if self.setup.state is None else self.setup.state.get, self.setup.progress
            data = load_calibration(self._recipient, request, progress=told, keep=keep, ranks=self.setup.ranks)
            check_same(self.setup.ranks, data)
            if request.label_column is not None:
                check_labels(self.model, data.batches)
                if not self.setup.methods.reads_labels:
                    self.journal.notes.append("Labels were read and not used: fisher, snip and taylor would use them.")
            return data

    def _rows(self, data: CalibrationData | None) -> Portion:
        return Portion.of(() if data is None else data.batches, self.setup.ranks)

    def recognise(self, data: CalibrationData | None) -> None:
        """Make sure that the state, if one is kept, is that of a run of this model on this data.

        Raises:
            CheckpointError: it is another run's; the message names what differs.
        """
        if self.setup.state is not None:
            known = dependencies(self.model, self.layout, data.batches if data is not None else ())
            self.setup.state.recognise({**known, "methods": signature(self.setup.methods)})

    def survey(self, data: CalibrationData | None) -> Findings:
        """What the allocation has to know, measured on the dense model; empty if it asks for nothing."""
        needs = self.setup.methods.survey_needs
        request, layout = self.request[0], self.layout.without_experts
        if (
            not needs
            or data is None
            or request.idle
            or (request.kinds and set(request.kinds) <= IN_MIXTURES and not self.setup.methods.inside)
        ):
            return Findings()
        progress = self.setup.progress
        survey = Survey(self.model, layout, self._rows(data), progress, needs, offload=self.offload)

        def measure() -> Mapping[str, Tensor]:
            """Run the survey."""
            progress.start(len(layout.groups), "measuring what each layer can lose")
            findings = survey.run()
            progress.finish()
            return findings.to_tensors()

        with self.journal.timed("survey"):
            found = self._once("survey", data, survey.depends, measure)
            if self.setup.state is not None:
                check_measured(found, layout)
            return Findings.from_tensors(found)

    def _once(
        self,
        kind: str,
        data: CalibrationData,
        depends: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Tensor]],
    ) -> Mapping[str, Tensor]:
        """A measurement of the dense model: from the cache, if there is one."""
        cache = self.setup.state or self.setup.cache
        if cache is None:
            return measure()
        return cache.get(kind, {**dependencies(self.model, self.layout, data.batches), **depends}, measure)

    def allocate(self, data: CalibrationData | None, findings: Findings) -> Widths:
        """Units to keep per group; where the allocation has rivals, they are rehearsed on a few batches."""
        judge = None
        if data is not None and findings.curves:
            known = (findings.curves, self.setup.config.seed, self.offload, self.setup.progress)
            rehearsal = Rehearsal(self.model, self.layout, self.setup.methods, self._rows(data), *known)
            judge = rehearsal.damage if self.setup.state is None else self.setup.state.remembered(rehearsal.damage)
        with self.journal.timed("survey"):
            return agreed(self.setup.ranks, allocate(self.layout, *self.request, findings, judge))

    def fit_(self, data: CalibrationData | None, widths: Widths) -> Plan:
        """Compress the model to ``widths`` and return what was done."""
        gradients = self._gradients(data)
        with self.journal.timed("fit"):
            self.setup.progress.start(len(self.layout.groups), "compressing")
            what = (self.model, self.layout, self.setup.methods, widths.kept)
            kept = (self.offload, self._resident, self.setup.state or Unrecorded(), widths.pairs)
            rows, seed, progress = self._rows(data), self.setup.config.seed, self.setup.progress
            plan = FitRun(*what, rows, seed, progress, widths.dropped, gradients, *kept).run_()
            self.setup.progress.finish()
        return plan

    def _gradients(self, data: CalibrationData | None) -> Mapping[str, Tensor]:
        if "mask-gradients" not in self.setup.methods.needs or data is None:
            return {}
        seed, progress, layout = self.setup.config.seed, self.setup.progress, self.layout.without_experts

        def measure() -> Mapping[str, Tensor]:
            """Run the backward passes."""
            progress.start(len(data.batches), "measuring gradients")
            found = mask_gradients(self.model, layout, self._rows(data), seed, progress)
            progress.finish()
            return found

        with self.journal.timed("gradients"):
            found = self._once("gradients", data, {"seed": seed}, measure)
            if self.setup.state is not None:
                check_gradients(found, layout)
            return found

    def finish_(self, widths: Widths) -> tuple[Layout, bool]:
        """Take dropped blocks out, write the widths into the config, and give the weights their dtype back, so that
        what is measured is what is saved.

        Returns:
            the layout of what is left, at its sizes before compression; and whether plain transformers can load it.
        """
        layout = settle_head_size_(self.model, self.layout, widths.pairs)
        left = drop_blocks_(self.model, layout, widths.dropped)
        standalone = False
        if isinstance(self.model, PreTrainedModel):
            provenance = {**self.setup.config.to_dict(), "widths": current_widths(self.model, left)}
            provenance.pop("quant_method", None)
            updates = write_config_(self.model, left, provenance)
            standalone = is_standalone(updates)
            if updates[0].doubt:
                self.journal.notes.append(
                    f"Plain transformers cannot load the result, although the architecture map says so: "
                    f"{updates[0].doubt}. Its widths are read once optimum_grail is imported."
                )
        self.precision.restore_(self.model)
        if self.spool is not None:
            self.spool.settle_()
        return left, standalone
