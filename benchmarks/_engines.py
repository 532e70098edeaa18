"""Engines that write tokens greedily, each behind the same few methods."""

from __future__ import annotations

import json
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from llama_cpp import served

from optimum_grail import GrailCompressor, export_model
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.export.sessions import ONNX_FILE, OPENVINO_FILE, OnnxSession, OpenVinoSession, Session, TorchSession

WEIGHTS = (".safetensors", ".gguf", ".onnx", ".data", ".xml", ".bin")
Written = list[tuple[int, float]]
"""Tokens and the logarithms of their probabilities."""


@dataclass(frozen=True)
class Answer:
    """What an engine did.

    Args:
        load: seconds until it can be asked.
        written: after each prompt.
        speed: tokens per second of one row, the median of several turns.
    """

    load: float
    written: list[Written]
    speed: float


@dataclass(frozen=True)
class Work:
    """What an engine is asked.

    Args:
        prompts: token numbers.
        steps: tokens to write after each.
        long: tokens to write after the first prompt, where time is taken.
        turns: how often.
    """

    prompts: list[list[int]]
    steps: int
    long: int
    turns: int


class Engine(ABC):
    """An engine."""

    name: str
    form = "as it is"

    def files(self, folder: Path, place: Path) -> Path:
        """What it reads of a checkpoint, written under ``place`` where that takes an export."""
        return folder

    @abstractmethod
    def answer(self, path: Path, work: Work) -> Answer:
        """Let it work."""


class SessionEngine(Engine):
    """An engine in this process."""

    @abstractmethod
    def open(self, path: Path) -> Session:
        """The model."""

    def answer(self, path: Path, work: Work) -> Answer:
        """See :class:`Engine`."""
        start = time.perf_counter()
        session = self.open(path)
        load = time.perf_counter() - start
        written = [greedy(session, prompt, work.steps) for prompt in work.prompts]
        seconds = []
        for _ in range(work.turns):
            start = time.perf_counter()
            greedy(session, work.prompts[0], work.long)
            seconds.append(time.perf_counter() - start)
        return Answer(load, written, work.long / sorted(seconds)[len(seconds) // 2])


def greedy(session: Session, prompt: list[int], steps: int) -> Written:
    """Continue a prompt with the likeliest tokens."""
    session.restart()
    ids, mask, found = torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.int64), []
    for _ in range(steps):
        positions = torch.arange(mask.shape[1] - ids.shape[1], mask.shape[1])[None]
        logits = session({"input_ids": ids, "attention_mask": mask, "position_ids": positions})[0, -1].log_softmax(-1)
        token = int(logits.argmax())
        found.append((token, float(logits[token])))
        ids, mask = torch.tensor([[token]]), torch.ones(1, mask.shape[1] + 1, dtype=torch.int64)
    return found


class PyTorch(SessionEngine):
    """transformers, in float32."""

    name = "PyTorch"

    def open(self, path: Path) -> Session:
        """See :class:`SessionEngine`."""
        return TorchSession(load_model(path, device="cpu", dtype="float32"), True)


class Onnx(SessionEngine):
    """ONNX Runtime."""

    name, form = "ONNX Runtime", "onnx"

    def files(self, folder: Path, place: Path) -> Path:
        """See :class:`Engine`."""
        return export_model(folder, place / "onnx", "onnx", overwrite=True).path

    def open(self, path: Path) -> Session:
        """See :class:`SessionEngine`."""
        return OnnxSession(path / ONNX_FILE, threads=torch.get_num_threads())


class OpenVino(SessionEngine):
    """OpenVINO."""

    name, form = "OpenVINO", "openvino"

    def files(self, folder: Path, place: Path) -> Path:
        """See :class:`Engine`."""
        return export_model(folder, place / "openvino", "openvino", overwrite=True).path

    def open(self, path: Path) -> Session:
        """See :class:`SessionEngine`."""
        return OpenVinoSession(path / OPENVINO_FILE, threads=torch.get_num_threads())


class LlamaCpp(Engine):
    """llama.cpp, computing as exactly as it can, with one thread."""

    name, form = "llama.cpp", "gguf"

    def files(self, folder: Path, place: Path) -> Path:
        """See :class:`Engine`."""
        done = export_model(folder, place / "model.gguf", "gguf:type=f32", overwrite=True)
        self.form = f"gguf ({done.form})"
        return done.path

    def answer(self, path: Path, work: Work) -> Answer:
        """See :class:`Engine`."""
        start = time.perf_counter()
        server = served(path, exact=True)
        load = time.perf_counter() - start

        def ask(prompt: list[int], count: int, **options: Any) -> Any:
            request = {"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, **options}
            return server.handle_completions(request)["choices"][0]

        found = [ask(prompt, work.steps, n_probs=1)["logprobs"]["content"] for prompt in work.prompts]
        seconds = []
        for _ in range(work.turns):
            start = time.perf_counter()
            ask(work.prompts[0], work.long)
            seconds.append(time.perf_counter() - start)
        written = [[(step["id"], step["logprob"]) for step in steps] for steps in found]
        return Answer(load, written, work.long / sorted(seconds)[len(seconds) // 2])


class Vllm(Engine):
    """vLLM's build for CPUs, in an environment of its own; ``benchmarks/vllm.txt`` says what that holds.

    Args:
        python: its interpreter.
        exported: whether it reads the export ``nemotron-nas``, or else the checkpoint as it is.
    """

    def __init__(self, python: str, exported: bool) -> None:
        self.name, self.python, self.exported = "vLLM", python, exported
        self.form = "nemotron-nas" if exported else "as it is"

    def files(self, folder: Path, place: Path) -> Path:
        """See :class:`Engine`."""
        return export_model(folder, place / "vllm", "nemotron-nas", overwrite=True).path if self.exported else folder

    def answer(self, path: Path, work: Work) -> Answer:
        """See :class:`Engine`."""
        asked = {"model": str(path), "threads": torch.get_num_threads(), **vars(work)}
        command = [self.python, str(Path(__file__).with_name("_vllm.py")), json.dumps(asked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines()
            raise RuntimeError(said[-1] if said else "vLLM ended without a word")
        found = json.loads(done.stdout.splitlines()[-1])
        return Answer(found["load"], [[(step[0], step[1]) for step in row] for row in found["written"]], found["speed"])


def weight_bytes(path: Path) -> int:
    """Bytes of the files of weights and graphs."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.suffix in WEIGHTS and "grail" not in file.name)


def compressed(model: Path, name: str, settings: Mapping[str, Any], place: Path) -> Path:
    """The model made smaller, unless it is there already; the model itself where there are no settings."""
    folder = place / f"{model.name}-{name.replace(' ', '-')}"
    if not settings:
        return model
    if not (folder / "config.json").is_file():
        GrailCompressor.from_pretrained(model, dict(settings)).compress(save_directory=folder)
    return folder
