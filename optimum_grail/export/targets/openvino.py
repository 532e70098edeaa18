"""OpenVINO's own format: decoders with their cache inside, encoders of text and models of images, whatever their
widths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from optimum_grail.export.graphs import GraphTarget
from optimum_grail.export.samples import Sample
from optimum_grail.export.sessions import OPENVINO_FILE, OpenVinoSession, Session
from optimum_grail.export.targets import TARGETS


@TARGETS.register
@dataclass(frozen=True)
class OpenVino(GraphTarget):
    """A folder with ``openvino_model.xml`` and ``.bin``, in float32, as transformers' exporter writes them."""

    engine: ClassVar[str] = "OpenVINO"
    folder_suffix: ClassVar[str] = "-openvino"
    extra: ClassVar[str] = "openvino"
    needs: ClassVar[tuple[str, ...]] = ("openvino",)

    def trace(self, model: Any, sample: Sample) -> Any:
        """See :class:`GraphTarget`."""
        from transformers.exporters.exporter_openvino import OpenVINOConfig, OpenVINOExporter

        config = OpenVINOConfig(dynamic=True, dynamic_shapes=dict(sample.dynamic))
        return OpenVINOExporter().export(model, dict(sample.inputs), config=config)

    def open(self, folder: Path) -> Session:
        """See :class:`GraphTarget`."""
        return OpenVinoSession(folder / OPENVINO_FILE)
