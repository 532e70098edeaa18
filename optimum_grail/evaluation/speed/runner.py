"""One model at work: loading it, passes of it, and what they need in memory."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optimum_grail.checkpoints.loading import Loading
from optimum_grail.evaluation.speed.workload import Workload
from optimum_grail.streams.memory import release, reset_peak, resident_memory


@dataclass
class Runner:
    """Loads a model as often as it is asked to, and lets it do the work of a speed test.

    Args:
        path: folder or Hub id.
        loading: how it is loaded.
        workload: what a pass computes.
    """

    path: str
    loading: Loading
    workload: Workload
    _model: Any = None
    _resting: int | None = None
    _inputs: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def load(self) -> dict[str, Any]:
        """Load the model, instead of one that is loaded already.

        Returns:
            ``seconds``, and ``peak_memory``: the most bytes that loading took, or ``None``.

        Raises:
            GrailError: as :func:`optimum_grail.checkpoints.loading.load_model`.
        """
        self._model = None
        self._inputs.clear()
        self._rest()
        start = time.perf_counter()
        self._model = self.loading.load(self.path)
        _wait(self._model.device)
        seconds = time.perf_counter() - start
        if self.workload.kind == "generation":
            self._model.generation_config = _greedy(self.workload.new_tokens)
        return {"seconds": seconds, "peak_memory": self._peak()}

    @torch.inference_mode()
    def facts(self) -> dict[str, Any]:
        """What the model is: class, sizes, types, place, and what a token takes in the key-value cache."""
        parameters = list(self._model.parameters())
        types = sorted({str(item.dtype).removeprefix("torch.") for item in parameters})
        return {
            "class": type(self._model).__name__,
            "parameters": sum(item.numel() for item in parameters),
            "bytes": sum(item.numel() * item.element_size() for item in parameters),
            "dtype": ", ".join(types),
            "device": str(self._model.device),
            "device_name": _device_name(self._model.device),
            "threads": torch.get_num_threads(),
            "kv_cache_bytes_per_token": self._cached(),
        }

    def peak(self, batch: int) -> dict[str, Any]:
        """One pass, the first of its size: ``peak_memory``, the most bytes that model and pass took, or ``None``."""
        self._rest()
        self._pass(batch)
        return {"peak_memory": self._peak()}

    def turn(self, batch: int, passes: int) -> dict[str, list[float]]:
        """Seconds of ``passes`` passes, by part. Of several, one more goes before and does not count: other models have
        had the processor, and its caches, in between."""
        if passes > 1:
            self._pass(batch)
        rows = [self._pass(batch) for _ in range(passes)]
        return dict(zip(self.workload.parts, map(list, zip(*rows, strict=True)), strict=True))

    @torch.inference_mode()
    def _pass(self, batch: int) -> tuple[float, ...]:
        """Seconds of each part of one pass."""
        if batch not in self._inputs:
            self._inputs[batch] = self.workload.inputs(batch, self._model)
        inputs, device = self._inputs[batch], self._model.device
        if self.workload.kind != "generation":
            start = time.perf_counter()
            self._model(**inputs)
            _wait(device)
            return (time.perf_counter() - start,)
        first = _FirstLogits(device)
        start = time.perf_counter()
        self._model.generate(**inputs, logits_processor=[first])
        _wait(device)
        return first.seen - start, time.perf_counter() - first.seen

    def _cached(self) -> float | None:
        """Bytes of the key-value cache after a prompt, by its tokens; ``None`` where nothing is generated."""
        if self.workload.kind != "generation":
            return None
        cache = self._model(**self.workload.inputs(1, self._model), use_cache=True).past_key_values
        tensors = [item for layer in cache.layers for item in vars(layer).values() if isinstance(item, Tensor)]
        return sum(item.numel() * item.element_size() for item in tensors) / self.workload.tokens

    def _rest(self) -> None:
        """Give back what is not in use, and begin to watch for the peak."""
        gc.collect()
        release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if self._model is None:
            self._resting = resident_memory()
        self._watched = reset_peak()

    def _peak(self) -> int | None:
        """Most bytes since :meth:`_rest`: on a GPU all that torch holds there, else of this process, beyond what Python
        and its libraries take before the model is loaded."""
        if self._model.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._model.device))
        peak = resident_memory("VmHWM") if self._watched else None
        return None if peak is None or self._resting is None else peak - self._resting


@dataclass
class _FirstLogits:
    """A logits processor that changes nothing and notes when the first logits were there: the prompt is read."""

    device: torch.device
    seen: float = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores`` as they are."""
        if not self.seen:
            _wait(self.device)
            self.seen = time.perf_counter()
        return scores


def _greedy(new_tokens: int) -> Any:
    """Exactly so many tokens, the likeliest ones, whatever the checkpoint's own settings say."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
