"""``GrailCompressor``: load, survey, allocate, fit, evaluate, save. The only orchestration; the stages do the work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.calibration.batches import CalibrationData
from optimum_grail.calibration.sources import load_processors
from optimum_grail.config import GrailConfig
from optimum_grail.core.plan import Plan
from optimum_grail.core.problem import Allocation
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import CheckpointError, GrailError
from optimum_grail.evaluation.comparison import Comparison
from optimum_grail.evaluation.evaluate import load_model
from optimum_grail.hub.card import licence_of
from optimum_grail.models.biases import add_biases_
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import owns_bias
from optimum_grail.models.precision import Precision, cast_, float32_on_cpu
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import (
    current_widths,
    expressible_together,
    is_standalone,
    refuse_compressed,
    write_config_,
)
from optimum_grail.models.surgery import check_weights
from optimum_grail.output import check_output
from optimum_grail.pipeline.allocate import Accepts, Request, Widths, allocate, check_request
from optimum_grail.pipeline.calibrate import calibration_data, choose_dtype_
from optimum_grail.pipeline.estimate import estimate
from optimum_grail.pipeline.fit import FitRun
from optimum_grail.pipeline.methods import Methods
from optimum_grail.pipeline.summary import Outcome, Size
from optimum_grail.pipeline.survey import Survey
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.report.report import Report
from optimum_grail.saving import save_checkpoint


class GrailCompressor:
    """Makes one model structurally smaller, without training.

    Args:
        model: a transformers model, or any module if ``spec`` describes it. It is compressed in place.
        config: what to do; a :class:`GrailConfig`, its dictionary, or ``None`` for the defaults.
        spec: the architecture map; by default the registered one of the model's type.
        tokenizer: for text calibration data.
        processor: for image calibration data.
        source: where the model came from (a Hub id or folder), for report and card.
        revision: its commit, if known.

    Raises:
        ConfigError: a wrong configuration value.
        CheckpointError: the model is compressed already and ``allow_recompress`` is not set.
        ArchitectureError, UnknownNameError: no architecture map fits.
    """

    def __init__(
        self,
        model: nn.Module,
        config: GrailConfig | Mapping[str, Any] | None = None,
        *,
        spec: ArchitectureSpec | None = None,
        tokenizer: Any = None,
        processor: Any = None,
        source: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.model = model
        self.config = config if isinstance(config, GrailConfig) else GrailConfig(**dict(config or {}))
        self.spec = spec
        self.tokenizer = tokenizer
        self.processor = processor
        self.source = source or getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        self.revision = revision
        self.plan: Plan | None = None
        self._report: Report | None = None
        self._layout: Layout | None = None
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []
        self._settings = self.config.resolved().to_dict()
        selector, compensator, allocation = self.config.methods()
        self.methods = Methods(selector, compensator, allocation, self._settings["within_block"])
        if not self.config.allow_recompress:
            refuse_compressed(model, self.source)

    @classmethod
    def from_pretrained(
        cls,
        model_or_path: PreTrainedModel | str | Path,
        grail_config: GrailConfig | Mapping[str, Any] | None = None,
        *,
        tokenizer: Any = None,
        processor: Any = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> GrailCompressor:
        """Load a model (and, unless given, its tokenizer and processor) for compression.

        Args:
            model_or_path: a Hub id, a folder, or a loaded model.
            grail_config: what to do.
            tokenizer, processor: instead of those beside the model.
            dtype: of the saved weights; ``"auto"`` keeps the checkpoint's.
            device: where to compute; a GPU if there is one by default.
            trust_remote_code: whether the model's own code may run.
            revision: branch, tag or commit of a Hub model.
            token: Hub token.

        Raises:
            CheckpointError: the model is missing, corrupt, or compressed already.
        """
        if isinstance(model_or_path, nn.Module):
            model, source = model_or_path, None
        else:
            source = str(model_or_path)
            model = load_model(
                source, dtype=dtype, device=device, trust_remote_code=trust_remote_code, revision=revision, token=token
            )
            if tokenizer is None and processor is None:
                tokenizer, processor = load_processors(source, trust_remote_code)
        return cls(model, grail_config, tokenizer=tokenizer, processor=processor, source=source, revision=revision)

    @property
    def report(self) -> Report:
        """What the run asked, did and measured.

        Raises:
            GrailError: nothing has been compressed yet.
        """
        if self._report is None:
            raise GrailError("There is no report yet. Call compress() first.")
        return self._report

    def compress(
        self,
        calibration_dataset: Any = None,
        save_directory: str | Path | None = None,
        *,
        eval_dataset: Any = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> nn.Module:
        """Compress the model in place and return it.

        Args:
            calibration_dataset: instead of the configuration's ``dataset``; any form that that takes.
            save_directory: folder to write the checkpoint to.
            eval_dataset: measure the dense and the compressed model on this data, by the metric of the model's task.
            overwrite: replace a checkpoint in ``save_directory``.
            progress: told about every group; silent by default.

        Raises:
            GrailError: any bad input, before long work where it can be known; the message says what to do.
        """
        if self._report is not None:
            raise CheckpointError("This compressor has compressed its model already. Load the dense model again.")
        if save_directory is not None:
            check_output(save_directory, overwrite, source=self.source if Path(self.source).exists() else None)
        progress = progress or Silent()
        layout = self._prepare_()
        comparison = Comparison.prepare(self.model, eval_dataset, self.tokenizer, self.processor, self._settings)
        data = self._calibration(layout, calibration_dataset, progress)
        self._notes += comparison.warnings(data)
        with self._timed("evaluation"), float32_on_cpu(self.model):
            dense = comparison.measure(self.model, "dense", progress)
        kept = self._allocate(layout, data, progress)
        self.plan = self._fit_(layout, data, kept, progress)
        standalone = self._describe_(layout)
        self._precision.restore_(self.model)  # what is measured is what is saved
        with self._timed("evaluation"), float32_on_cpu(self.model):
            results = comparison.results(dense, self.model, progress)
        self._layout = layout
        self._report = Outcome(
            source=self.source,
            revision=self.revision,
            config=self._settings,
            layout=layout,
            before=self._before,
            after=Size.of(self.model, layout, self._precision.main),
            plan=self.plan,
            widths=kept,
            data=data,
            evaluation=results,
            standalone=standalone,
            notes=(*self._notes, *kept.notes),
            seconds=self._seconds,
        ).report(self.model)
        if save_directory is not None:
            self.save_pretrained(save_directory, overwrite=overwrite)
        return self.model

    quantize = compress

    def save_pretrained(
        self, save_directory: str | Path, *, overwrite: bool = False, max_shard_size: str | int = "5GB"
    ) -> None:
        """Write the compressed checkpoint with tokenizer, plan, report and card; complete or absent.

        Raises:
            GrailError: nothing has been compressed yet.
            OutputError: the folder exists or cannot be written.
        """
        if self.plan is None or self._layout is None:
            raise GrailError("There is nothing to save yet. Call compress() first.")
        save_checkpoint(
            save_directory,
            self.model,
            self._layout,
            self.plan,
            self.report,
            self._settings,
            tuple(item for item in (self.processor, self.tokenizer) if item is not None),
            overwrite=overwrite,
            licence=licence_of(self.source),
            max_shard_size=max_shard_size,
        )

    def _prepare_(self) -> Layout:
        """Eval mode, weights checked, biases added if a fitted one could not be stored otherwise."""
        self._precision = Precision.of(self.model)
        self.model.eval()
        layout = resolve(self.model, self.spec)
        check_weights(self.model, layout.groups)
        self._before = Size.of(self.model, layout, self._precision.main)
        affine = getattr(self.methods.compensator, "affine", None)
        if affine and not all(owns_bias(self.model, group) for group in layout.groups):
            add_biases_(self.model, layout)
            layout = resolve(self.model, self.spec)
        check_request(layout, *self._request(layout))
        return layout

    def _request(self, layout: Layout) -> tuple[Request, Allocation, Accepts]:
        method = self.methods.allocation
        request = Request.of(self._settings, getattr(method, "round_to", 1), self._before.blocks)
        return request, method, partial(expressible_together, self.model, layout)

    def _calibration(self, layout: Layout, dataset: Any, progress: Progress) -> CalibrationData | None:
        """The data, after saying what the run will need; ``None`` for data-free methods."""
        if not self.methods.needs_data:
            return None
        cast_(self.model, torch.float32)
        source = dataset if dataset is not None else self.config.dataset
        with self._timed("data"):
            data = calibration_data(
                self.model, layout, source, self._settings, self.tokenizer, self.processor, progress
            )
        cost = estimate(self.model, layout, self.methods, data.batches)
        progress.message(cost.line(data.samples, data.tokens))
        if note := choose_dtype_(self.model, cost, self._precision):
            self._notes.append(note)
        return data

    def _allocate(self, layout: Layout, data: CalibrationData | None, progress: Progress) -> Widths:
        curves = None
        if "curves" in self.methods.needs and data is not None:
            with self._timed("survey"):
                progress.start(len(layout.groups), "survey")
                curves = Survey(self.model, layout, data.batches, progress).run()
                progress.finish()
        return allocate(layout, *self._request(layout), curves)

    def _fit_(self, layout: Layout, data: CalibrationData | None, kept: Widths, progress: Progress) -> Plan:
        batches = data.batches if data else ()
        with self._timed("fit"):
            progress.start(len(layout.groups), "fit")
            plan = FitRun(self.model, layout, self.methods, kept.kept, batches, self.config.seed, progress).run_()
            progress.finish()
        return plan

    def _describe_(self, layout: Layout) -> bool:
        """Write the widths into the config; returns whether plain transformers can load the result."""
        if not isinstance(self.model, PreTrainedModel):
            return False
        provenance = {**self._settings, "widths": current_widths(self.model, layout)}
        provenance.pop("quant_method", None)
        return is_standalone(write_config_(self.model, layout, provenance))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start
