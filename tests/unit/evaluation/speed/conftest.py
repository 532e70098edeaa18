"""Folders of tiny random models, and runners that work in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.evaluation.speed.runner import Runner

MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny_llama,
    "bert": tiny_bert,
    "vit": tiny_vit,
    "clip": tiny_clip,
    "resnet": tiny_basic,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One model of every kind; the language model stops at any token, if it is let."""
    root = tmp_path_factory.mktemp("tiny")
    for name, build in MODELS.items():
        model = build()
        if name == "llama":
            model.generation_config = GenerationConfig(eos_token_id=list(range(96)), max_length=8)
        model.save_pretrained(root / name)
    return {name: str(root / name) for name in MODELS}


@dataclass
class Here:
    """A runner that takes turns without a process of its own."""

    runner: Runner

    def ask(self, method: str, **arguments: int) -> dict[str, Any]:
        """Call the method."""
        return dict(getattr(self.runner, method)(**arguments))


@pytest.fixture
def here() -> Callable[[str | Path, Any], Here]:
    """Make one from a path and a prepared test."""
    return lambda path, prepared: Here(Runner(str(path), prepared.test.loading, prepared.workload))
