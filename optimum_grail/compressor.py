"""``GrailCompressor``: load, compress, evaluate, save. What users call; the stages of a run are in the pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.adapters import convert_adapter
from optimum_grail.checkpoints.identity import check_base_model
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.offloading import choice_of
from optimum_grail.checkpoints.output import check_output
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.config.config import GrailConfig
from optimum_grail.core.plan import Plan
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import CheckpointError, GrailError
from optimum_grail.evaluation.before_and_after import BeforeAndAfter
from optimum_grail.evaluation.comparison import Comparisons
from optimum_grail.hub.metadata import inherited_from
from optimum_grail.hub.publish import Upload, push_saved
from optimum_grail.models.intact import refuse_half_compressed
from optimum_grail.models.layout import Layout
from optimum_grail.models.stock import refuse_compressed
from optimum_grail.pipeline.forecast import Forecast, forecast
from optimum_grail.pipeline.run import compress_
from optimum_grail.pipeline.saving import Checkpoint, SavingOptions, check_saving
from optimum_grail.pipeline.setup import Setup, Unwatched
from optimum_grail.pipeline.summary import Outcome
from optimum_grail.pipeline.together import together
from optimum_grail.processes.ranks import ALONE
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.report.report import Report
from optimum_grail.state.identity import identity_of
from optimum_grail.state.opening import written_by_state
from optimum_grail.state.run_state import RunState

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, EvaluationSets, Processor, Tokenizer


class GrailCompressor:
    """Makes one model structurally smaller, without training.

    Args:
        model: a transformers model, or any module if ``spec`` describes it. It is compressed in place.
        config: what to do; a :class:`GrailConfig`, its dictionary, or ``None`` for the defaults.
        spec: the architecture map; by default the registered one of the model's type.
        tokenizer, processor: for calibration data of text, of images.
        source: where the model came from (a Hub id or folder), for report and card.
        revision: its commit, if known.
        base_model: its Hub id, for the card, where ``source`` is not one.

    Raises:
        ConfigError: a wrong configuration value.
        CheckpointError: the model is compressed already and ``allow_recompress`` is not set, or half compressed.
        ArchitectureError, UnknownNameError: no architecture map fits.
    """

    def __init__(
        self,
        model: nn.Module,
        config: GrailConfig | Mapping[str, Any] | None = None,
        *,
        spec: ArchitectureSpec | None = None,
        tokenizer: Tokenizer | None = None,
        processor: Processor | None = None,
        source: str | None = None,
        revision: str | None = None,
        base_model: str | None = None,
    ) -> None:
        self.model = model
        self.config = config if isinstance(config, GrailConfig) else GrailConfig.from_dict(config or {})
        self.spec = spec
        self.tokenizer = tokenizer
        self.processor = processor
        self.source = source or getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        self.revision = revision
        self.base_model = None if base_model is None else check_base_model(base_model)
        self.plan: Plan | None = None
        self._report: Report | None = None
        self._layout: Layout | None = None
        self._folder: Path | None = None
        self._state: RunState | None = None
        self._ranks = ALONE
        self._resolved = self.config.resolved()
        refuse_half_compressed(model)
        if not self.config.allow_recompress:
            refuse_compressed(model, self.source)

    @classmethod
    def from_pretrained(
        cls,
        model_or_path: PreTrainedModel | str | Path,
        grail_config: GrailConfig | Mapping[str, Any] | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        processor: Processor | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        base_model: str | None = None,
        allow_pickle: bool = False,
    ) -> GrailCompressor:
        """Load a model (and, unless given, its tokenizer and processor) for compression.

        Args:
            model_or_path: a Hub id, a folder, or a loaded model.
            grail_config: what to do.
            tokenizer, processor: instead of those beside the model.
            dtype, device, trust_remote_code, revision, token, allow_pickle: as of :func:`load_model`.
            base_model: Hub id of the model, for the card, where ``model_or_path`` is not one.

        Raises:
            CheckpointError: the model is missing, corrupt, pickled, or compressed already.
        """
        config = grail_config if isinstance(grail_config, GrailConfig) else GrailConfig.from_dict(grail_config or {})
        if isinstance(model_or_path, nn.Module):
            model, source = model_or_path, None
        else:
            source = str(model_or_path)
            place: dict[str, Any] = {"device": device, "offload": choice_of(config.low_memory)}
            place |= {"trust_remote_code": trust_remote_code, "revision": revision, "token": token}
            model = load_model(source, dtype=dtype, allow_pickle=allow_pickle, **place)
            if tokenizer is None and processor is None:
                tokenizer, processor = load_processors(source, trust_remote_code, revision=revision, token=token)
        named: dict[str, Any] = {"tokenizer": tokenizer, "processor": processor, "revision": revision}
        return cls(model, config, source=source, base_model=base_model, **named)

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
        calibration_dataset: DataSource | None = None,
        save_directory: str | Path | None = None,
        *,
        eval_dataset: EvaluationSets | None = None,
        robustness: bool = False,
        overwrite: bool = False,
        resume: bool = False,
        progress: Progress | None = None,
        **saving: Unpack[SavingOptions],
    ) -> nn.Module:
        """Compress the model in place and return it.

        Args:
            calibration_dataset: instead of the configuration's ``dataset``; any form that that takes.
            save_directory: folder to write the checkpoint to; :mod:`optimum_grail.state` is kept beside it until then.
            eval_dataset: measure dense and compressed model on this, by the metric of the model's task; several sets by
                name, as in ``{"books": "books.txt", "code": rows}``. ``robustness``: on damaged inputs as well.
            overwrite: replace a checkpoint in ``save_directory``.
            resume: go on with the run into ``save_directory`` that did not end; the result is the same to the last bit.
            progress: told about every group; silent by default.
            saving: what else :meth:`save_pretrained` takes.

        Raises:
            GrailError: any bad input, before long work where it can be known; the message says what to do.
        """
        if self._report is not None:
            raise CheckpointError("This compressor has compressed its model already. Load the dense model again.")
        check_saving(saving, save_directory)
        overwrite = overwrite or (resume and written_by_state(save_directory))
        if save_directory is not None:
            check_output(save_directory, overwrite, source=self.source if os.path.exists(self.source) else None)
        identity, told = partial(identity_of, self.model, self._resolved, self.tokenizer), progress or Silent()
        with together(save_directory, identity, resume, told) as (self._ranks, self._state):
            told = told if self._ranks.first else Silent()
            watch = self._watch(eval_dataset, robustness, told)
            watching = watch if self._ranks.first else Unwatched()
            run = compress_(self.model, self._setup(told), calibration_dataset, watching)
            self.plan, self._layout = run.plan, run.left
            known = (self.source, self.base_model, self.revision, self._resolved, run)
            self._report = Outcome(*known, watch.notes, watch.results, watch.forward).report(self.model)
            if save_directory is not None:
                self.save_pretrained(save_directory, overwrite=overwrite, **saving)
        return self.model

    quantize = compress

    def forecast(
        self,
        calibration_dataset: DataSource | None = None,
        *,
        eval_dataset: EvaluationSets | None = None,
        robustness: bool = False,
        progress: Progress | None = None,
    ) -> Forecast:
        """What :meth:`compress` would do with the same arguments: widths as far as they are known before anything is
        measured, time and memory. The model stays as it is, and nothing is written.

        Raises:
            GrailError: as :meth:`compress`.
        """
        watch = self._watch(eval_dataset, robustness, progress or Silent())
        return forecast(self.model, self._setup(progress), calibration_dataset, watch)

    def _watch(self, dataset: EvaluationSets | None, robustness: bool, progress: Progress) -> BeforeAndAfter:
        own = (self.tokenizer, self.processor, self._resolved, robustness)
        keep = None if self._state is None else self._state.get
        return BeforeAndAfter(Comparisons.prepare(self.model, dataset, *own), progress, keep=keep)

    def _setup(self, progress: Progress | None) -> Setup:
        own = (self._resolved, self.spec, self.tokenizer, self.processor)
        return Setup(*own, progress or Silent(), None, self._state, self._ranks)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        overwrite: bool = False,
        max_shard_size: str | int = "5GB",
        include_modeling_code: bool = False,
    ) -> None:
        """Write the compressed checkpoint with tokenizer, plan, report and card; complete or absent.

        Args: as :meth:`optimum_grail.pipeline.saving.Checkpoint.save`. Of several processes the first one writes.

        Raises:
            GrailError, OutputError: nothing has been compressed yet; the folder exists or cannot be written.
        """
        if self.plan is None or self._layout is None:
            raise GrailError("There is nothing to save yet. Call compress() first.")
        if not self._ranks.first:
            return
        companions = tuple(item for item in (self.processor, self.tokenizer) if item is not None)
        inherited = inherited_from(self.source, revision=self.revision) or inherited_from(self.base_model)
        state = self._state if self._state is not None and self._state.is_of(save_directory) else None
        announce = None if state is None else state.announce
        checkpoint = Checkpoint(self.model, self._layout, self.plan, self.report, companions, inherited, announce)
        saving: SavingOptions = {"max_shard_size": max_shard_size, "include_modeling_code": include_modeling_code}
        checkpoint.save(save_directory, overwrite=overwrite, **saving)
        if state is not None:
            state.end()
        self._folder = Path(save_directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: str | int = "5GB",
        tags: Sequence[str] = (),
    ) -> str:
        """Publish weights, tokenizer, plan, report, card and plot in one commit; returns its address.

        Args: as :class:`optimum_grail.hub.publish.Upload` and :meth:`save_pretrained`. Of several processes the first
            one publishes, the others return an empty address.

        Raises:
            HubError: no token, or the Hub refused, failed or broke off; the message says what to do.
        """
        if not self._ranks.first:
            return ""
        upload = Upload(repo_id, commit_message, private, token, revision, create_pr, tuple(tags))
        commit = push_saved(partial(self.save_pretrained, max_shard_size=max_shard_size), upload)
        return str(commit.pr_url or commit.commit_url)

    def convert_adapter(
        self,
        adapter: str | Path,
        output: str | Path,
        *,
        base_model: PreTrainedModel | str | Path | None = None,
        dataset: DataSource | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Write a LoRA adapter for the compressed model, made from one that was trained on the dense model.

        Args: as :func:`optimum_grail.adapters.convert_adapter`; the dense model is loaded again by default.

        Raises:
            GrailError: nothing has been saved yet, or as :func:`optimum_grail.adapters.convert_adapter`.
        """
        if self._folder is None:
            raise GrailError("An adapter names the model that it belongs to. Call save_pretrained() first.")
        given: dict[str, Any] = {"dataset": dataset, "overwrite": overwrite, "progress": progress}
        convert_adapter(adapter, output, self._folder, base_model=base_model or self.source, **given)
