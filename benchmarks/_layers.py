"""What benchmarks of whole layers share: dense models in float32, and calibration text for them."""

from __future__ import annotations

from typing import Any

from corpora import Model

from optimum_grail import GrailConfig
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.data.batches import CalibrationData
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.models.resolve import resolve


def dense_model(model: Model) -> Any:
    """The model as it comes, in float32 and eval mode."""
    return load_model(str(model.folder), dtype="float32", device="cpu", trust_remote_code=False).eval()


def general_text(model: Model, found: Any, windows: int, seed: int) -> CalibrationData:
    """Windows of the general corpus, as long as the model is evaluated on.

    Args:
        model: says how long.
        found: the model, which they are for.
        windows: how many.
        seed: of the draw.
    """
    tokenizer, _ = load_processors(str(model.folder), False)
    recipient = Recipient.of(found, resolve(found), tokenizer, None)
    config = GrailConfig(dataset="general", num_samples=windows, seqlen=model.seqlen, seed=seed)
    return load_calibration(recipient, DataRequest.of(config, None).filled(recipient))
