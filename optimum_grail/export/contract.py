"""What an export target is, and what it tells of a file that it wrote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from optimum_grail.report.progress import Progress

if TYPE_CHECKING:
    from optimum_grail.config.config import GrailConfig


@dataclass(frozen=True)
class Row:
    """Tensors of one kind that got one type.

    Args:
        kind: what they are called in every layer.
        type: how they are stored.
        count: how many.
        bytes: of all of them.
    """

    kind: str
    type: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the file or folder.
        engine: what runs it.
        form: the engine's own word for the kind of model.
        rows: what each tensor became.
        notes: sentences that its user should read.
        agreement: how near it is to PyTorch, where it was run once: as of
            :class:`optimum_grail.export.agreement.Agreement`.
    """

    path: Path
    engine: str
    form: str
    rows: tuple[Row, ...]
    notes: Sequence[str] = ()
    agreement: Mapping[str, Any] | None = None

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(row.bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "output": str(self.path),
            "engine": self.engine,
            "form": self.form,
            "tensors": [vars(row) for row in self.rows],
            "bytes": self.bytes,
            "notes": list(self.notes),
            "agreement": None if self.agreement is None else dict(self.agreement),
        }


def by_dtype(tensors: Mapping[str, Tensor]) -> Iterator[Row]:
    """What tensors became that are stored as they are: a row per dtype."""
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        found = [tensor for tensor in tensors.values() if tensor.dtype == kind]
        size = sum(tensor.numel() * tensor.element_size() for tensor in found)
        yield Row("all", str(kind).removeprefix("torch."), len(found), size)


class Target(ABC):
    """A format of another engine: a frozen dataclass whose fields are its options, one file in ``targets/``.

    Attributes:
        engine: what runs it, by the name that users know; it may stand for the target's own.
        suffix: how names of its files end; empty for folders.
        folder_suffix: what the name of a folder beside the compressed model ends with; by default its engine.
    """

    engine: ClassVar[str]
    suffix: ClassVar[str] = ""
    folder_suffix: ClassVar[str] = ""

    @abstractmethod
    def check(self, model: str | Path, output: str | Path, overwrite: bool = False) -> None:
        """Refuse what can be refused before the weights are read, as :meth:`__call__` would; nothing is written.

        Args:
            model: folder or Hub id of the model, or of what it is going to be compressed from.
            output: the file or folder to be.
            overwrite: whether an older file there may be replaced.

        Raises:
            GrailError: the engine takes no such model, or the output cannot be written.
        """

    def wishes(self, model: str | Path) -> dict[str, Any]:
        """Fields of :class:`optimum_grail.config.config.GrailConfig` with which ``model`` is compressed best for this
        engine, where its user asks for nothing else."""
        return {}

    def check_settings(self, config: GrailConfig) -> None:  # noqa: B027  # most engines take whatever comes of one
        """Refuse a configuration whose result the engine cannot take, before anything is compressed.

        Raises:
            ConfigError: it cannot.
        """

    @abstractmethod
    def __call__(
        self, model: str | Path, output: str | Path, overwrite: bool = False, progress: Progress | None = None
    ) -> Exported:
        """Write a model for the engine, completely or not at all.

        Args:
            model: folder or Hub id of a model, compressed or not.
            output: the file or folder to be.
            overwrite: whether an older file there may be replaced.
            progress: told how far it is.

        Raises:
            GrailError: the model has no home in the engine, is damaged, or the output cannot be written.
        """
