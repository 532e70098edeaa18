"""The code on a card that loads the model and runs it once; its shapes are those of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimum_grail.report.report import Report

LOCAL_PATH = 'path = "."  # this folder, or its repository on the Hub\n'
TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model"})
PROCESSOR_FILES = frozenset({"preprocessor_config.json", "processor_config.json"})
OUTPUTS = ("logits", "last_hidden_state", "logits_per_image", "image_embeds", "text_embeds", "output")
"""Outputs worth showing, the first that a model has."""


@dataclass(frozen=True)
class Snippet:
    """What the template needs to know.

    Args:
        auto_class: what loads the model.
        processor: what loads the tokenizer or processor; empty if none lies beside the model.
        kind: ``"text"``, ``"image"`` or ``"pair"``.
        generates: whether it writes text.
        masks: whether it fills in masked words.
        size: ``"32, 32"``: width and height of an image.
        inputs: tensors to call the model with where there is no processor, as code.
        shown: the output to print, with its shape as a comment; empty if unknown.
        shape: that shape, ``tokens`` standing for the length of the text.
        taken: the inputs' shapes, as a comment.
    """

    auto_class: str
    processor: str
    kind: str
    generates: bool
    masks: bool
    size: str
    inputs: str
    shown: str
    shape: str
    taken: str

    @classmethod
    def of(cls, report: Report, auto: tuple[str, str | None], present: frozenset[str]) -> Snippet:
        """Build it from the report and the names of the files beside the card."""
        auto_class, task = auto
        inputs: Mapping[str, Any] = report.forward.get("inputs", {})
        outputs: Mapping[str, Any] = report.forward.get("outputs", {})
        text, image = bool(present & TOKENIZER_FILES), bool(present & PROCESSOR_FILES)
        pixels = inputs.get("pixel_values", {}).get("shape", [1, 3, 224, 224])
        length = inputs.get("input_ids", {}).get("shape", [0, 0])[-1] if text else 0
        shown = next((name for name in OUTPUTS if name in outputs), "")
        return cls(
            auto_class=auto_class,
            processor="AutoProcessor" if text and image else "AutoTokenizer" * text + "AutoImageProcessor" * image,
            kind="pair" if text and image else "image" if image else "text",
            generates=task == "text-generation",
            masks=task == "fill-mask",
            size=f"{pixels[-1]}, {pixels[-2]}",
            inputs=", ".join(_tensor(name, item) for name, item in inputs.items()),
            shown=shown,
            shape=_shape(outputs[shown], length) if shown else "",
            taken=", ".join(f"{name} {_shape(item['shape'], length)}" for name, item in inputs.items()),
        )


def _tensor(name: str, item: Mapping[str, Any]) -> str:
    sizes = ", ".join(map(str, item["shape"]))
    whole = ", dtype=torch.long" if "int" in str(item["dtype"]) else ""
    return f"{name}=torch.ones({sizes}{whole})"


def _shape(sizes: list[int], length: int) -> str:
    return f"[{', '.join('tokens' if length and size == length else str(size) for size in sizes)}]"
