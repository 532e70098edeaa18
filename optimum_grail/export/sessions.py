"""A model in PyTorch, ONNX Runtime or OpenVINO as a function of its inputs that keeps the cache from call to call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ONNX_FILE, OPENVINO_FILE = "model.onnx", "openvino_model.xml"
_BEFORE, _AFTER = "input.past_key_values", "output.past_key_values"


class Session(ABC):
    """A model that can be asked."""

    @abstractmethod
    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The first output, float32; of a decoder the logits ``[rows, tokens, vocabulary]``.

        Args:
            inputs: by name. Names that the model has no input for are left out.
        """

    @abstractmethod
    def restart(self) -> None:
        """Forget the tokens of earlier calls."""


class TorchSession(Session):
    """A model of transformers.

    Args:
        model: in eval mode.
        caches: whether it is a decoder.
    """

    def __init__(self, model: Any, caches: bool) -> None:
        self._model, self._caches, self._past = model, caches, None

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See :class:`Session`."""
        cache = {"past_key_values": self._past, "use_cache": True} if self._caches else {}
        output = self._model(**inputs, **cache)
        self._past = output.past_key_values if self._caches else None
        return output[0].float()

    def restart(self) -> None:
        """See :class:`Session`."""
        self._past = None


class OnnxSession(Session):
    """A graph in ONNX Runtime on the CPU.

    Args:
        path: the file ``*.onnx``.
        threads: that it computes with; 0 leaves that to ONNX Runtime.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self._past: dict[str, Any] = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See :class:`Session`."""
        rows = len(next(iter(inputs.values())))
        feed = {name: inputs[name].numpy() for name in self._inputs if name in inputs}
        found = self._session.run(None, {**self._empty(rows), **self._past, **feed})
        pairs = zip(self._outputs, found, strict=True)
        self._past = {name.replace(_AFTER, _BEFORE): value for name, value in pairs if name.startswith(_AFTER)}
        return torch.from_numpy(found[0]).float()

    def _empty(self, rows: int) -> dict[str, Any]:
        """A cache that holds nothing: names of axes stand for rows, then tokens."""
        caches = {name: shape for name, shape in self._inputs.items() if name.startswith(_BEFORE)}
        return {
            name: np.zeros([rows, *(size if isinstance(size, int) else 0 for size in shape[1:])], np.float32)
            for name, shape in caches.items()
        }

    def restart(self) -> None:
        """See :class:`Session`."""
        self._past = {}


class OpenVinoSession(Session):
    """A graph in OpenVINO on the CPU; the cache is inside it.

    Args:
        path: the file ``*.xml``.
        threads: that it computes with; 0 leaves that to OpenVINO.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        self._names = {name for port in compiled.inputs for name in port.get_names()}
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See :class:`Session`."""
        feed = {name: value.numpy() for name, value in inputs.items() if name in self._names}
        if "beam_idx" in self._names:  # which row of the cache each row continues
            feed["beam_idx"] = np.arange(len(next(iter(inputs.values()))), dtype=np.int32)
        self._request.infer(feed)
        return torch.from_numpy(self._request.get_output_tensor(0).data.copy()).float()

    def restart(self) -> None:
        """See :class:`Session`."""
        self._request.reset_state()
