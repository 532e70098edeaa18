"""What a run is: everything that decides its result, as JSON values that two runs can be compared by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import shorten
from optimum_grail.models.residence import device_of
from optimum_grail.report.environment import hardware, versions
from optimum_grail.survey.cache import fingerprints

if TYPE_CHECKING:
    from optimum_grail.data.foreign import Tokenizer

NEUTRAL = ("offload_streams", "allow_recompress")
"""Fields of a configuration that decide nothing about the result."""
NAMES = {
    "weights": "the model's weights",
    "architecture": "the model's config or code",
    "tokenizer": "the tokenizer",
    "dtype": "the dtype",
    "device": "the device",
    "configuration": "configuration",
    "versions": "version of",
    "layout": "the architecture map",
    "data": "the calibration data",
    "splits": "the calibration data's split",
    "sources": "the calibration data's sources",
    "methods": "the code of the methods",
    "processor": "the processor",
    "threads": "the number of threads",
}
"""What messages call the parts of an identity."""


def identity_of(model: nn.Module, config: GrailConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What is known of a run before its data is read.

    Args:
        model: as it came: dense, in the dtype of its checkpoint.
        config: resolved.
        tokenizer: for text.
    """
    first = next(model.parameters())
    asked = {name: value for name, value in config.to_dict().items() if name not in NEUTRAL}
    found = {
        **fingerprints(model),
        "tokenizer": _of_tokenizer(tokenizer),
        "dtype": str(first.dtype),
        "device": device_of(model).type,
        "configuration": asked,
        "versions": versions(),
    }
    return dict(json.loads(json.dumps(found, default=str)))  # as it is read back


def machine() -> dict[str, Any]:
    """What a result may depend on in its last bits, and a resumed run may differ in all the same."""
    return {"processor": str(hardware().get("processor")), "threads": torch.get_num_threads()}


def digest(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of ``now`` is not as it was ``before``, in words; parts that only one of them has count too."""
    return [text for name in dict.fromkeys([*now, *before]) for text in _of(name, before.get(name), now.get(name))]


def _of(name: str, before: object, now: object) -> Iterator[str]:
    if before == now:
        return
    called = NAMES.get(name, shorten(name))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}, key=str):
            if before.get(key) != now.get(key):
                yield f"{called} {shorten(key)[1:-1]} was {shorten(before.get(key))} and is {shorten(now.get(key))}"
    elif name in ("dtype", "device", "processor", "threads"):
        yield f"{called} was {shorten(before)} and is {shorten(now)}"
    else:
        verb = "are" if called.endswith("s") else "is"
        yield f"{called} {verb} not what it was"


def _of_tokenizer(tokenizer: Tokenizer | None) -> str | None:
    """A hash of what turns text into ids."""
    if tokenizer is None:
        return None
    parts = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    return hashlib.sha256(json.dumps([*parts, tokenizer.all_special_tokens], default=str).encode()).hexdigest()
