"""The models of ``real.py``, their data, and the cells: one compression of one model each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from _common import EMBEDDED, REPOSITORY
from _experiments import minilm, shared

Kind = Literal["language", "embeddings", "images", "module", "speech"]
CLASSES = REPOSITORY / "build" / "classes"
"""Where packages of model classes lie that cannot be installed beside transformers."""


@dataclass(frozen=True)
class Model:
    """A model and how it is compressed and measured.

    Args:
        name: of the result file.
        folder: gives where it is, or ``None`` where it is absent.
        kind: what it reads.
        sizes: percent of the blocks' parameters that go, the weightiest first.
        samples: calibration samples: windows of a language model, else rows.
        rows: evaluation rows of a set at most; windows of a language model.
        peers: whether the peers know models of this kind.
        settings: further configuration fields.
    """

    name: str
    folder: Callable[[], Path | None]
    kind: Kind
    sizes: tuple[int, ...] = (30, 50, 10, 20)
    samples: int = 64
    rows: int = 1500
    peers: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def causal(self) -> bool:
        """Whether it is a language model."""
        return self.kind == "language"


def folder_of(name: str) -> Path | None:
    """A model of the data folder, or of the folder of larger models, that has its weights."""
    found = shared(name)
    return found if found is not None and any((*found.glob("*.safetensors"), *found.glob("*.pth"))) else None


LANGUAGE = (20, 30, 10, 50)
"""Sizes of language models, the weightiest first."""
MODELS = (
    Model("all-MiniLM-L6-v2", minilm, "embeddings", samples=512, rows=500, peers=True),
    Model("mobilenet-v2", partial(shared, "mobilenet-v2-imagenet"), "images", samples=500, rows=500, peers=True),
    Model("SmolLM2-135M-Instruct", partial(folder_of, "SmolLM2-135M-Instruct"), "language", LANGUAGE, 64, 20, True),
    Model("all-mpnet-base-v2", partial(folder_of, "all-mpnet-base-v2"), "embeddings", samples=256, rows=300),
    Model("efficientnet-lite0", partial(folder_of, "efficientnet-lite0"), "module", samples=500, rows=500),
    Model("whisper-base", partial(folder_of, "whisper-base"), "speech", samples=32, rows=24),
    Model("gemma-3-270m", partial(folder_of, "gemma-3-270m"), "language", LANGUAGE, 32, 10),
    Model(
        "Qwen2.5-Coder-0.5B-Instruct", partial(folder_of, "Qwen2.5-Coder-0.5B-Instruct"), "language", LANGUAGE, 16, 8
    ),
    Model("llama-books-3m", lambda: EMBEDDED, "language", (30, 20, 50, 10), 64, 20, True),
    Model("vit-cifar10", partial(shared, "vit-cifar10"), "images", samples=1024, rows=1000, peers=True),
    Model("resnet20", partial(shared, "cifar-resnets/resnet20"), "module", samples=1024, rows=1000, peers=True),
)
BY_NAME = {model.name: model for model in MODELS}

UNIFORM = {"allocation": "uniform"}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"preset": "grail-plus", "compensator": "none"},
    "grail": {"preset": "grail"},
    "default": {},
    "knapsack": {"allocation": "knapsack"},
    "uniform grail-plus": UNIFORM,
    "grail, other corpus": {"preset": "grail"},
    "default, other corpus": {},
}
"""Configuration fields beside the size. ``other corpus``: calibrated on what the first set of the page is not (of
language models: is) drawn from."""
PEERS = ("Torch-Pruning magnitude", "Torch-Pruning Taylor")
EVERY = ("dense", *METHODS, *PEERS)
FIRST = ("dense", "grail", "default", "plain")
"""The methods that come first, of every model."""
BITS = (0, 8, 4)
"""Bits of the weights of linear layers; 0: as they are."""


@dataclass(frozen=True)
class Cell:
    """One row to be measured.

    Args:
        model: name of the model.
        method: of :data:`EVERY`.
        size: percent of the blocks' parameters that go; 0 for the dense model.
        bits: of :data:`BITS`.
        samples: calibration samples.
        what: ``"quality"`` or ``"zero-shot"``.
    """

    model: str
    method: str
    size: int
    bits: int
    samples: int
    what: str = "quality"


def suits(model: Model, method: str) -> bool:
    """Whether a model of this kind can be measured with the method."""
    if method in PEERS:
        return model.peers
    return model.kind in ("language", "embeddings") or not method.endswith("other corpus")


def cells_of(model: Model, samples: int, what: str) -> Iterator[tuple[int, Cell]]:
    """All cells of one model and their weights: the lower, the earlier."""
    for method in EVERY:
        if not suits(model, method):
            continue
        sizes = (0,) if method == "dense" else model.sizes
        for place, size in enumerate(sizes):
            for step, bits in enumerate(BITS if linear(model) and what == "quality" else (0,)):
                rounded = 6 * (step > 0) if method in ("dense", "default") else 30 * (step > 0)
                weight = 10 * place + rounded + (0 if method in FIRST else 3)
                given = 0 if method == "dense" else samples
                yield weight, Cell(model.name, method, size, bits, given, what)


def linear(model: Model) -> bool:
    """Whether its blocks consist of linear layers, whose weights can be rounded."""
    return model.kind != "module" and model.name != "mobilenet-v2"
