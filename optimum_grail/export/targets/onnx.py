"""ONNX, for ONNX Runtime: decoders with their cache, encoders of text and models of images, whatever their widths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from optimum_grail.export.graphs import GraphTarget
from optimum_grail.export.samples import Sample
from optimum_grail.export.sessions import ONNX_FILE, OnnxSession, Session
from optimum_grail.export.targets import TARGETS


@TARGETS.register
@dataclass(frozen=True)
class Onnx(GraphTarget):
    """A folder with ``model.onnx`` and its weights beside it, in float32, as transformers' exporter writes them."""

    engine: ClassVar[str] = "ONNX Runtime"
    folder_suffix: ClassVar[str] = "-onnx"
    extra: ClassVar[str] = "onnx"
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def trace(self, model: Any, sample: Sample) -> Any:
        """See :class:`GraphTarget`."""
        from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

        config = OnnxConfig(dynamic=True, dynamic_shapes=dict(sample.dynamic))
        return OnnxExporter().export(model, dict(sample.inputs), config=config)

    def open(self, folder: Path) -> Session:
        """See :class:`GraphTarget`."""
        return OnnxSession(folder / ONNX_FILE)
