"""Everything a compressed model is saved with; the folder is complete or absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

from torch import nn
from transformers import PreTrainedModel

from optimum_grail.checkpoints.files import carry_over
from optimum_grail.checkpoints.identity import local_folder
from optimum_grail.checkpoints.output import staged_folder
from optimum_grail.checkpoints.plain_modules import save_compressed
from optimum_grail.checkpoints.plan_file import save_plan, write_json
from optimum_grail.checkpoints.remote_code import write_remote_code_
from optimum_grail.checkpoints.writing import write_weights
from optimum_grail.config.recipe import CONFIG_FILE, stamped
from optimum_grail.core.plan import Plan
from optimum_grail.errors import ConfigError, did_you_mean, shorten
from optimum_grail.hub.card import write_card
from optimum_grail.models.layout import Layout
from optimum_grail.report.plots import PLOT_FILE, can_plot, plot_errors
from optimum_grail.report.report import Report


class SavingOptions(TypedDict, total=False):
    """What may be said of how a checkpoint is saved, see :meth:`Checkpoint.save`."""

    max_shard_size: str | int
    include_modeling_code: bool


def check_saving(options: SavingOptions, folder: str | Path | None) -> None:
    """Whether ``options``, which Python takes under any name, can be followed when the work is done.

    Raises:
        ConfigError: one has no such name, or there is no folder to save to.
    """
    for name in options:
        if name not in SavingOptions.__annotations__:
            known = (*SavingOptions.__annotations__, "save_directory")
            raise ConfigError(
                f"compress() has no argument {shorten(name)}.{did_you_mean(name, known)} It takes save_directory and, "
                f"for what is saved there, {' and '.join(SavingOptions.__annotations__)}."
            )
        if folder is None:
            raise ConfigError(f"{name} says how a checkpoint is saved, and none will be. Name a save_directory.")


class Savable(Protocol):
    """A tokenizer or processor."""

    def save_pretrained(self, save_directory: str | Path) -> Any:
        """Write its files."""


@dataclass(frozen=True)
class Checkpoint:
    """A compressed model with everything that is saved beside it.

    Args:
        model: the compressed model, its config already describing it.
        layout: of what is left, at the sizes before compression.
        plan: what was done.
        report: what was measured.
        companions: tokenizer and processor.
        inherited: licence and language of the base model, for the card.
        announce: called with the folder when everything is in it, right before it goes to its place.
    """

    model: nn.Module
    layout: Layout
    plan: Plan
    report: Report
    companions: tuple[Savable, ...] = ()
    inherited: Mapping[str, Any] | None = None
    announce: Callable[[Path], None] | None = None

    def save(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
        max_shard_size: str | int = "5GB",
        include_modeling_code: bool = False,
    ) -> None:
        """Write weights, companions, ``grail_config.json``, plan, report, plot (with matplotlib) and card.

        Small files of the model's folder that transformers does not write (a licence, ``modules.json``) come along.

        Args:
            directory: the folder to be.
            overwrite: replace a checkpoint that is there.
            max_shard_size: as in transformers' ``save_pretrained``.
            include_modeling_code: let transformers load the checkpoint with ``trust_remote_code=True`` where this
                package is not installed; nothing is written where plain transformers loads it anyway.

        Raises:
            OutputError: the folder exists, cannot be written, or the disk is full; nothing is left half-written.
        """
        model, report = self.model, self.report
        with staged_folder(directory, overwrite) as folder:
            if isinstance(model, PreTrainedModel):
                if include_modeling_code and not report.standalone:
                    write_remote_code_(model, folder)
                write_weights(model, folder, max_shard_size)
            else:
                save_compressed(model, folder, self.layout)
            for companion in self.companions:
                companion.save_pretrained(folder)
            write_json(folder / CONFIG_FILE, stamped(report.config))
            save_plan(self.plan, folder)
            report.save(folder)
            if can_plot(report):
                plot_errors(report, folder / PLOT_FILE)
            source = local_folder(report.model, report.revision)
            if source is not None:
                carry_over(source, folder)
            write_card(report, folder, inherited=self.inherited)
            if self.announce is not None:
                self.announce(folder)
