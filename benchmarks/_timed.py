"""Engines whose passes are timed: all rows of a prompt at once, then one token after the other."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from llama_cpp import served
from torch import Tensor

from optimum_grail import export_model
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.export.sessions import ONNX_FILE, OnnxSession, Session, TorchSession

Pass = Callable[[], tuple[float, float]]
"""Does the work once: seconds for the prompt and for the new tokens."""


@dataclass(frozen=True)
class Load:
    """What a pass does.

    Args:
        decoder: whether tokens are written.
        rows, prompt, new: rows at a time, tokens of each that are read, and that are written.
        threads: of the processor.
    """

    decoder: bool
    rows: int
    prompt: int
    new: int
    threads: int

    def ids(self) -> Tensor:
        """Token numbers ``[rows, prompt]``."""
        return torch.arange(self.rows * self.prompt).view(self.rows, self.prompt) % 997 + 3


class Timed(ABC):
    """An engine.

    Attributes:
        name: for people.
        types: of weights.
    """

    name: str
    types: tuple[str, ...]

    def takes(self, load: Load) -> bool:
        """Whether there is such work for it."""
        return True

    @abstractmethod
    def ready(self, folder: Path, kind: str, load: Load, place: Path) -> Pass:
        """Load a checkpoint with weights of a type; what it is exported to is kept under ``place``."""


class PyTorch(Timed):
    """transformers; int8 through torchao, activations too."""

    name, types = "PyTorch", ("f32", "int8")

    def ready(self, folder: Path, kind: str, load: Load, place: Path) -> Pass:
        """See :class:`Timed`."""
        model = load_model(folder, device="cpu", dtype="float32")
        if kind == "int8":
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            quantize_(model, Int8DynamicActivationInt8WeightConfig())
        return lambda: passed(TorchSession(model, load.decoder), load)


class OnnxRuntime(Timed):
    """ONNX Runtime; int8 through its own dynamic quantization."""

    name, types = "ONNX Runtime", ("f32", "int8")

    def ready(self, folder: Path, kind: str, load: Load, place: Path) -> Pass:
        """See :class:`Timed`."""
        exported = place / f"{folder.name}-onnx"
        if not (exported / ONNX_FILE).is_file():
            export_model(folder, exported, "onnx")
        path = exported / ONNX_FILE
        if kind == "int8":
            path = place / f"{folder.name}-int8" / ONNX_FILE
            if not path.is_file():
                from onnxruntime.quantization import QuantType, quantize_dynamic

                path.parent.mkdir(exist_ok=True)
                quantize_dynamic(exported / ONNX_FILE, path, weight_type=QuantType.QInt8)
        session = OnnxSession(path, threads=load.threads)
        return lambda: passed(session, load)


class LlamaCpp(Timed):
    """llama.cpp by its defaults, decoders only."""

    name, types = "llama.cpp", ("f32", "q8_0")

    def takes(self, load: Load) -> bool:
        """See :class:`Timed`."""
        return load.decoder

    def ready(self, folder: Path, kind: str, load: Load, place: Path) -> Pass:
        """See :class:`Timed`."""
        path = place / f"{folder.name}-{kind}.gguf"
        if not path.is_file():
            export_model(folder, path, f"gguf:type={kind}")
        server = served(path, False, load.rows, load.threads)
        prompts = load.ids().tolist()

        request = {"prompt": prompts, "max_tokens": 1 + load.new, "temperature": 0, "ignore_eos": True}

        def once() -> tuple[float, float]:
            """By llama.cpp's own clock, of the first row: all rows are read, and written, together."""
            told = server.handle_completions({**request, "cache_prompt": False})["timings"]
            return told["prompt_ms"] / 1000, told["predicted_ms"] / 1000

        return once


def passed(session: Session, load: Load) -> tuple[float, float]:
    """A pass of a session: seconds for the prompt, and for the new tokens."""
    session.restart()
    ids, mask = load.ids(), torch.ones(load.rows, load.prompt, dtype=torch.int64)
    seconds = []
    for _ in range(1 + load.new if load.decoder else 1):
        start = time.perf_counter()
        positions = torch.arange(mask.shape[1] - ids.shape[1], mask.shape[1]).expand(load.rows, -1)
        more = {"position_ids": positions} if load.decoder else {}
        ids = session({"input_ids": ids, "attention_mask": mask, **more})[:, -1:].argmax(-1)
        seconds.append(time.perf_counter() - start)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1) if load.decoder else mask
    return seconds[0], sum(seconds[1:])
