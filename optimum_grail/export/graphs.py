"""Folders that hold a model's graph: traced by transformers' exporters, run once, and written if it agrees."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from optimum_grail.checkpoints.loading import load_config, load_model, model_class
from optimum_grail.checkpoints.output import check_output, staged_folder
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import ArchitectureError, ConfigError, shorten
from optimum_grail.export.agreement import compare, has_classes, insist
from optimum_grail.export.contract import Exported, Target, by_dtype
from optimum_grail.export.quiet import quiet
from optimum_grail.export.samples import Kind, Sample, kind_of, sample_of
from optimum_grail.export.sessions import Session, TorchSession
from optimum_grail.models.hook import install
from optimum_grail.report.progress import Progress, Silent

TRACING = "tracing the graph"


class GraphTarget(Target):
    """A folder with a graph, the configuration and what prepares the model's inputs.

    Attributes:
        extra: of this package, with what is needed.
        needs: modules that have to be installed.
    """

    extra: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def trace(self, model: Any, sample: Sample) -> Any:
        """The model's graph, as transformers' exporter gives it; ``sample`` is used up."""

    @abstractmethod
    def open(self, folder: Path) -> Session:
        """The graph in a folder, in its engine."""

    def check(self, model: str | Path, output: str | Path, overwrite: bool = False) -> None:
        """Refuse models of more parts than one, outputs, and an environment without the engine."""
        self._checked(model, output, overwrite)

    def _checked(self, model: str | Path, output: str | Path, overwrite: bool) -> Kind:
        absent = [name for name in self.needs if find_spec(name) is None]
        if absent:
            raise ConfigError(
                f"{self.engine} needs {', '.join(absent)}, which is not installed: pip install "
                f"'optimum-grail[{self.extra}]'."
            )
        check_output(output, overwrite, source=model)
        config = load_config(model)
        if config.to_dict().get("quantization_config") is not None:
            raise ArchitectureError(
                f"The weights of {str(model)!r} are quantized already. Export the model that they were made from."
            )
        return kind_of(config, model_class(config), model)

    def __call__(
        self, model: str | Path, output: str | Path, overwrite: bool = False, progress: Progress | None = None
    ) -> Exported:
        """Write the folder; see :class:`Target`. The graph is in float32, whatever the model is stored in.

        Raises:
            ArchitectureError: no graph can be made of the model, or the graph computes something else.
        """
        kind = self._checked(model, output, overwrite)
        install()
        told = progress or Silent()
        told.start(1, TRACING)
        loaded = load_model(model, device="cpu", dtype="float32")
        with quiet():
            exported = _traced(self, loaded, kind)
        with staged_folder(output, overwrite) as folder:
            exported.save_pretrained(folder)
            for one in load_processors(model):
                if one is not None:
                    one.save_pretrained(folder)
            ours = TorchSession(loaded, kind == "decoder")
            found = compare(self.open(folder), ours, kind, loaded.config, has_classes(loaded))
            insist(found, self.engine, type(loaded).__name__)
        told.update(1, TRACING)
        told.finish()
        rows = tuple(by_dtype(dict(loaded.named_parameters())))
        notes = (*_notes(kind), found.sentence(self.engine))
        return Exported(Path(output).absolute(), self.engine, kind, rows, notes, vars(found))


def _traced(target: GraphTarget, model: Any, kind: Kind) -> Any:
    try:
        return target.trace(model, sample_of(model, kind))
    except Exception as error:  # tracing, decomposing and translating have exceptions of many libraries
        causes = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ArchitectureError(
            f"{target.engine} gets no graph of this {type(model).__name__}: {shorten(causes, 300)} Run it with "
            "transformers, or try another target."
        ) from error


def _notes(kind: Kind) -> Iterator[str]:
    if kind == "decoder":
        yield "One graph reads a prompt (with an empty cache) and writes on (with the cache that it gave back)."
