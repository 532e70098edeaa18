"""Compress while loading: ``AutoModelFor….from_pretrained(base, quantization_config=GrailConfig(...))``.

transformers' slot for quantizers is used for the loading only and freed at the end: what comes back is an ordinary
model that can be cast, trained, and quantized in its turn.
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer

from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import CheckpointError
from optimum_grail.models.stock import refuse_compressed
from optimum_grail.report.progress import Progress, RichProgress, Silent


class GrailHfQuantizer(HfQuantizer):
    """What transformers calls before and after it reads the weights of a model that shall be compressed.

    Raises:
        CheckpointError: the checkpoint is compressed already and the configuration has no ``allow_recompress``; told
            before any weight is read.
        GrailError: as :meth:`GrailCompressor.compress`.
    """

    quantization_config: GrailConfig

    def validate_environment(self, *args: object, **kwargs: object) -> None:
        """Misspelt methods are told before any weight is read; so is a checkpoint that names us as its quantizer."""
        if self.pre_quantized:
            raise CheckpointError(
                "config.json names 'grail' as the quantization method. A compressed checkpoint has no "
                "quantization_config: remove it from config.json and load without."
            )
        self.quantization_config.methods()

    def update_device_map(self, device_map: Any) -> Any:
        """Weights stay on disk where the configuration says so and nobody says where they go."""
        return {"": "disk"} if device_map is None and self.quantization_config.low_memory else device_map

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: object) -> None:
        if not self.quantization_config.allow_recompress:
            refuse_compressed(model, model.name_or_path)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: object) -> None:
        free_slot_(self, model)
        config = self.quantization_config
        tokenizer, processor = config.tokenizer, config.processor
        if tokenizer is None and processor is None:
            tokenizer, processor = load_processors(model.name_or_path)
        compressor = GrailCompressor(model, config, tokenizer=tokenizer, processor=processor)
        progress: Progress = RichProgress() if sys.stderr.isatty() else Silent()
        try:
            compressor.compress(progress=progress)
        finally:
            progress.finish()

    def is_serializable(self) -> bool:
        """Yes: nothing of this quantizer is left in the model."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Yes, for the same reason."""
        return True


def free_slot_(quantizer: HfQuantizer, model: PreTrainedModel) -> None:
    """Remove every trace of a quantizer from ``model`` and its configs, so that another one can be used."""
    quantizer.remove_quantization_config(model)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            vars(module.config).pop("_is_quantized", None)
