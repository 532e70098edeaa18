"""``GrailModelFor…``: transformers' auto classes, with ``grail_config=`` to compress a dense checkpoint on load."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForZeroShotImageClassification,
    PreTrainedConfig,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from optimum_grail.checkpoints.headers import refuse_pickles, stored_weights
from optimum_grail.checkpoints.loading import refuse_oversized
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import ConfigError
from optimum_grail.models.stock import compressed_with

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from optimum_grail.data.foreign import Processor, Tokenizer

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
"""Keyword arguments that say where a model is found, and its tokenizer with it."""


class GrailAutoModel(_BaseAutoModelClass):
    """A transformers auto class that also compresses. What it loads is an ordinary ``PreTrainedModel``."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: object,
        grail_config: GrailConfig | Mapping[str, Any] | str | Path | None = None,
        tokenizer: Tokenizer | None = None,
        processor: Processor | None = None,
        allow_pickle: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model: a compressed checkpoint as it is, a dense one compressed as ``grail_config`` says.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id.
            model_args: as transformers takes them.
            grail_config: how to compress: a :class:`GrailConfig`, its dictionary, or the path or Hub id of a saved one;
                ``None`` loads without compressing.
            tokenizer: for calibration text; by default the one beside the model.
            processor: for calibration images; by default the one beside the model.
            allow_pickle: read weights from ``pytorch_model.bin`` where there are no safetensors.
            kwargs: everything that transformers' ``from_pretrained`` takes.

        Returns:
            the model, in eval mode; with ``output_loading_info=True`` a pair, as from transformers.

        Raises:
            CheckpointError: pickled weights; config.json asks for far more than is stored; or ``grail_config`` for a
                checkpoint that is compressed already, unless it says ``allow_recompress``.
            ConfigError: a wrong value, or ``grail_config`` together with ``quantization_config``.
            GrailError: as :meth:`GrailCompressor.compress`.
        """
        path = str(pretrained_model_name_or_path)
        if kwargs.get("gguf_file") is None:
            cls._check(path, allow_pickle, kwargs)
        if grail_config is None:
            loaded = super().from_pretrained(path, *model_args, **kwargs)
            _warn_if_dense(loaded, path)
            return loaded
        if kwargs.get("quantization_config") is not None:
            raise ConfigError(
                "grail_config and quantization_config exclude each other: compress first, save, and load the result "
                "with quantization_config."
            )
        config = as_config(grail_config)
        config.tokenizer, config.processor = tokenizer or config.tokenizer, processor or config.processor
        if config.tokenizer is None and config.processor is None:
            hub = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
            trust = bool(kwargs.get("trust_remote_code"))
            config.tokenizer, config.processor = load_processors(path, trust, **hub)
        return super().from_pretrained(path, *model_args, quantization_config=config, **kwargs)

    @classmethod
    def _check(cls, path: str, allow_pickle: bool, options: Mapping[str, Any]) -> None:
        """Refuse pickled weights, and a config.json that asks for far more than is stored."""
        place = {name: options[name] for name in (*HUB_OPTIONS, "subfolder") if options.get(name) is not None}
        folder = os.path.join(path, place["subfolder"]) if "subfolder" in place else path
        known = os.path.isdir(folder) or "subfolder" not in place  # of the Hub's, only the root's weights are looked up
        stored = stored_weights(folder, place.get("revision"), place.get("token")) if known else None
        refuse_pickles(stored, path, allow_pickle)
        config, trust = options.get("config"), bool(options.get("trust_remote_code"))
        build = functools.partial(cls.from_config, trust_remote_code=False)
        refuse_oversized(build, path, stored, config if isinstance(config, PreTrainedConfig) else None, trust, **place)


def as_config(value: GrailConfig | Mapping[str, Any] | str | Path) -> GrailConfig:
    """A configuration of its own from whatever a user calls one.

    Raises:
        ConfigError: a wrong value, or nothing readable at the path.
    """
    if isinstance(value, str | Path):
        return GrailConfig.from_pretrained(value)
    if isinstance(value, GrailConfig):
        return copy.deepcopy(value)
    if isinstance(value, Mapping):
        return cast(GrailConfig, GrailConfig.from_dict(value))
    raise ConfigError(f"grail_config is a {type(value).__name__}; expected a GrailConfig, a dictionary or a path.")


def _warn_if_dense(loaded: PreTrainedModel | tuple[PreTrainedModel, object], path: str) -> None:
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    if compressed_with(model.config) is None:
        warnings.warn(f"{path!r} is dense, and without grail_config it was loaded as it is.", stacklevel=3)


def _door(name: str, auto: type[_BaseAutoModelClass]) -> type[GrailAutoModel]:
    text = f"``{auto.__name__}`` that also compresses; see :meth:`GrailAutoModel.from_pretrained`."
    return type(name, (GrailAutoModel, auto), {"__doc__": text, "__module__": __name__})


GrailModel = _door("GrailModel", AutoModel)
GrailModelForFeatureExtraction = _door("GrailModelForFeatureExtraction", AutoModel)
GrailModelForCausalLM = _door("GrailModelForCausalLM", AutoModelForCausalLM)
GrailModelForMaskedLM = _door("GrailModelForMaskedLM", AutoModelForMaskedLM)
GrailModelForSequenceClassification = _door("GrailModelForSequenceClassification", AutoModelForSequenceClassification)
GrailModelForTokenClassification = _door("GrailModelForTokenClassification", AutoModelForTokenClassification)
GrailModelForQuestionAnswering = _door("GrailModelForQuestionAnswering", AutoModelForQuestionAnswering)
GrailModelForImageClassification = _door("GrailModelForImageClassification", AutoModelForImageClassification)
GrailModelForZeroShotImageClassification = _door(
    "GrailModelForZeroShotImageClassification", AutoModelForZeroShotImageClassification
)
