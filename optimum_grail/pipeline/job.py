"""One compression of one model, stage by stage; the stages do the work, this puts them in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.core.allocation import Allocation
from optimum_grail.core.plan import Plan
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.data.batches import CalibrationData
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.rehearsal import Rehearsal
from optimum_grail.models.biases import add_biases_
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import owns_bias
from optimum_grail.models.precision import Precision, cast_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import current_widths, expressible_together, is_standalone, write_config_
from optimum_grail.models.surgery import check_weights
from optimum_grail.pipeline.calibrate import calibration_data, choose_dtype_
from optimum_grail.pipeline.estimate import estimate
from optimum_grail.pipeline.summary import Size
from optimum_grail.report.progress import Progress
from optimum_grail.streams.gradients import check_labels, mask_gradients
from optimum_grail.survey.cache import StatisticsCache
from optimum_grail.survey.findings import Findings
from optimum_grail.survey.survey import SURVEYED, Survey
from optimum_grail.widths.allocate import Widths, allocate, check_request
from optimum_grail.widths.request import Accepts, Request

FORMAT = 2
"""Of what the cache keeps of a survey; 2: error curves down to no unit at all."""


@dataclass
class Job:
    """The stages of a run, in the order of the methods; :meth:`prepare_` comes first.

    Args:
        model: compressed in place.
        methods: the three methods.
        settings: the resolved configuration, as a dictionary.
        progress: told about every group.
        spec: the architecture map; by default the registered one of the model's type.
        tokenizer: for text calibration data.
        processor: for image calibration data.
        cache: of the dense model, for what does not depend on the sparsity; ``None``: everything is measured.
    """

    model: nn.Module
    methods: Methods
    settings: Mapping[str, Any]
    progress: Progress
    spec: ArchitectureSpec | None = None
    tokenizer: Any = None
    processor: Any = None
    cache: StatisticsCache | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def offload(self) -> bool:
        """Whether the streams are kept in files."""
        return bool(self.settings["offload_streams"])

    def prepare_(self) -> Layout:
        """Eval mode, weights checked, biases added if a fitted one could not be stored otherwise.

        Raises:
            GrailError: no map fits, weights are not finite, or the request cannot be reached.
        """
        self.precision = Precision.of(self.model)
        self.model.eval()
        layout = resolve(self.model, self.spec)
        check_weights(self.model, layout.groups)
        self.before = Size.of(self.model, layout, self.precision.main)
        affine = getattr(self.methods.compensator, "affine", None)
        if affine and not all(owns_bias(self.model, group) for group in layout.groups):
            add_biases_(self.model, layout)
            layout = resolve(self.model, self.spec)
        check_request(layout, *self._request(layout))
        return layout

    def _request(self, layout: Layout) -> tuple[Request, Allocation, Accepts]:
        method = self.methods.allocation
        request = Request.of(self.settings, layout, self.before.blocks)
        return request, method, partial(expressible_together, self.model, layout)

    def calibration(self, layout: Layout, dataset: Any) -> CalibrationData | None:
        """The data, after saying what the run will need; ``None`` for data-free methods.

        Args:
            layout: the model's layout.
            dataset: any form that calibration data takes, or data that an earlier job has read.
        """
        if not self.methods.needs_data:
            return None
        cast_(self.model, torch.float32)
        data = dataset if isinstance(dataset, CalibrationData) else self._read(layout, dataset)
        cost = estimate(self.model, layout, self.methods, data.batches, self.offload)
        cost.check_disk()
        self.progress.message(cost.line(data.samples, data.tokens))
        if note := choose_dtype_(self.model, cost, self.precision):
            self.notes.append(note)
        return data

    def _read(self, layout: Layout, dataset: Any) -> CalibrationData:
        with self.timed("data"):
            data = calibration_data(
                self.model, layout, dataset, self.settings, self.tokenizer, self.processor, self.progress
            )
            if self.settings["label_column"] is not None:
                check_labels(self.model, data.batches)
                if not self.methods.reads_labels:
                    self.notes.append("Labels were read and not used: fisher, snip and taylor would use them.")
            return data

    def survey(self, layout: Layout, data: CalibrationData | None) -> Findings:
        """What the allocation has to know, measured on the dense model; empty if it asks for nothing."""
        needs = self.methods.allocation.needs & SURVEYED
        if not needs or data is None:
            return Findings()

        def measure() -> Mapping[str, Tensor]:
            """Run the survey."""
            self.progress.start(len(layout.groups), "survey")
            findings = Survey(self.model, layout, data.batches, self.progress, needs, offload=self.offload).run()
            self.progress.finish()
            return findings.to_tensors()

        with self.timed("survey"):
            depends = {"needs": sorted(needs), "format": FORMAT}
            return Findings.from_tensors(self._once("survey", layout, data, depends, measure))

    def _once(
        self,
        kind: str,
        layout: Layout,
        data: CalibrationData,
        depends: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Tensor]],
    ) -> Mapping[str, Tensor]:
        """A measurement of the dense model: from the cache, if there is one."""
        if self.cache is None:
            return measure()
        common = {
            "data": data.sha256,
            "batches": [len(next(iter(batch.inputs.values()))) for batch in data.batches],
            "biases": [owns_bias(self.model, group) for group in layout.groups],
            "dtype": str(next(self.model.parameters()).dtype),
            "version": version("optimum-grail"),
        }
        return self.cache.get(kind, {**common, **depends}, measure)

    def allocate(self, layout: Layout, data: CalibrationData | None, findings: Findings) -> Widths:
        """Units to keep per group; where the allocation has rivals, they are rehearsed on a few batches."""
        judge = None
        if data is not None and findings.curves:
            seed, curves = self.settings["seed"], findings.curves
            judge = Rehearsal(self.model, layout, self.methods, data.batches, curves, seed, self.offload).damage
        with self.timed("survey"):
            return allocate(layout, *self._request(layout), findings, judge)

    def fit_(self, layout: Layout, data: CalibrationData | None, widths: Widths) -> Plan:
        """Compress the model to ``widths`` and return what was done."""
        batches = data.batches if data else ()
        gradients = self._gradients(layout, data)
        with self.timed("fit"):
            self.progress.start(len(layout.groups), "fit")
            run = FitRun(
                self.model,
                layout,
                self.methods,
                widths.kept,
                batches,
                self.settings["seed"],
                self.progress,
                widths.dropped,
                gradients,
                self.offload,
            )
            plan = run.run_()
            self.progress.finish()
        return plan

    def _gradients(self, layout: Layout, data: CalibrationData | None) -> Mapping[str, Tensor]:
        if "mask_gradients" not in self.methods.needs or data is None:
            return {}
        seed = self.settings["seed"]

        def measure() -> Mapping[str, Tensor]:
            """Run the backward passes."""
            self.progress.start(len(data.batches), "gradients")
            found = mask_gradients(self.model, layout, data.batches, seed, self.progress)
            self.progress.finish()
            return found

        with self.timed("gradients"):
            return self._once("gradients", layout, data, {"seed": seed}, measure)

    def finish_(self, layout: Layout, dropped: Sequence[str] = ()) -> tuple[Layout, bool]:
        """Take dropped blocks out, write the widths into the config, and give the weights their dtype back, so that
        what is measured is what is saved.

        Returns:
            the layout of what is left, at its sizes before compression; and whether plain transformers can load it.
        """
        layout = drop_blocks_(self.model, layout, dropped)
        standalone = False
        if isinstance(self.model, PreTrainedModel):
            provenance = {**self.settings, "widths": current_widths(self.model, layout)}
            provenance.pop("quant_method", None)
            standalone = is_standalone(write_config_(self.model, layout, provenance))
        self.precision.restore_(self.model)
        return layout, standalone

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the body to ``seconds[stage]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
