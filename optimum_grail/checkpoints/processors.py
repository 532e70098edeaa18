"""The tokenizer and the processor of images or sound that belong to a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_grail.errors import DataError

if TYPE_CHECKING:
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "tekken.json")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_processors(path: str | Path, trust_remote_code: bool = False, **hub: object) -> tuple[Any, Any]:
    """Tokenizer and processor of images or sound that belong to a model.

    Args:
        path: model folder, or id of a model on the Hub.
        trust_remote_code: let transformers run code of the repository.
        hub: where to find it there: ``revision``, ``token`` and the like.

    Returns:
        ``(tokenizer, processor)``; None for one that the folder has no files of. Image processors are the ones on PIL,
        which need no torchvision; a folder of a speech model gives its feature extractor, so that it is saved again.

    Raises:
        DataError: the files are there but cannot be read.
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    tokenizer = _load_one(AutoTokenizer, path, _TOKENIZER_FILES, trust_remote_code, hub)
    if _hears(Path(path)):
        return tokenizer, _load_one(AutoFeatureExtractor, path, _PROCESSOR_FILES, trust_remote_code, hub)
    pictures = {"backend": "pil", **hub}
    return tokenizer, _load_one(AutoImageProcessor, path, _PROCESSOR_FILES, trust_remote_code, pictures)


def _hears(folder: Path) -> bool:
    """Whether the folder's processor is one of sound: its settings have a sampling rate."""
    try:
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or broken, which loading it tells
        return False
    return isinstance(settings, dict) and "sampling_rate" in settings


def _load_one(
    auto: type[AutoTokenizer | AutoImageProcessor | AutoFeatureExtractor],
    path: str | Path,
    files: tuple[str, ...],
    trust: bool,
    options: dict[str, Any],
) -> Any:
    folder = Path(path)
    local = os.path.isdir(folder)
    present = [name for name in files if os.path.isfile(folder / name)]
    if local and not present and not (trust and (folder / "tokenizer_config.json").is_file()):
        return None  # without this, transformers may invent an empty tokenizer for a known model type
    try:
        return auto.from_pretrained(str(path), trust_remote_code=trust, **options)
    except Exception as error:  # tokenizers and processors fail with bare exceptions of many libraries
        if not local or present == ["processor_config.json"]:
            return None
        reason = str(error).strip().partition("\n")[0][:300]
        names = ", ".join(present)
        raise DataError(f"{names} in {str(path)!r} cannot be read ({reason}). Restore the file.") from error
