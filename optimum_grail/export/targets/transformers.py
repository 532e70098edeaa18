"""A checkpoint that plain transformers loads, without this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import transformers

from optimum_grail.checkpoints.loading import load_config, load_model, model_class
from optimum_grail.checkpoints.output import check_output, staged_folder
from optimum_grail.checkpoints.plan_file import write_json
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.checkpoints.writing import write_weights
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import CheckpointError, ConfigError
from optimum_grail.export.agreement import compare, has_classes, insist
from optimum_grail.export.contract import Exported, Target, by_dtype
from optimum_grail.export.plain import PER_LAYER, plain_config
from optimum_grail.export.quiet import quiet
from optimum_grail.export.samples import kind_of
from optimum_grail.export.sessions import TorchSession
from optimum_grail.export.targets import TARGETS
from optimum_grail.models.hook import install
from optimum_grail.models.stock import compressed_with
from optimum_grail.report.progress import Progress

SHARD = "5GB"


@TARGETS.register
@dataclass(frozen=True)
class Transformers(Target):
    """A folder that plain transformers loads: where its own configuration can say the widths, and not otherwise."""

    engine: ClassVar[str] = "transformers"

    def check(self, model: str | Path, output: str | Path, overwrite: bool = False) -> None:
        """Refuse encoder-decoders, models of several parts, and outputs."""
        check_output(output, overwrite, source=model)
        config = load_config(model)
        kind_of(config, model_class(config), model)

    def wishes(self, model: str | Path) -> dict[str, Any]:
        """Widths that the stock configuration can say."""
        return {"standalone": True}

    def check_settings(self, config: GrailConfig) -> None:
        """Refuse to compress to widths that plain transformers need not understand."""
        if config.standalone is False:
            raise ConfigError(
                "standalone=False asks for widths that plain transformers cannot be told, and a checkpoint for plain "
                "transformers is wanted. Drop --no-standalone, or --for transformers."
            )

    def __call__(
        self, model: str | Path, output: str | Path, overwrite: bool = False, progress: Progress | None = None
    ) -> Exported:
        """Write the folder; see :class:`Target`."""
        self.check(model, output, overwrite)
        install()
        loaded = load_model(model, device="cpu")
        kind = kind_of(loaded.config, type(loaded), model)
        with quiet():
            config, words = plain_config(loaded)
        with staged_folder(output, overwrite) as folder:
            write_weights(loaded, folder, SHARD)
            write_json(folder / "config.json", config.to_dict())
            for one in load_processors(model):
                if one is not None:
                    one.save_pretrained(folder)
            theirs = _reloaded(folder, type(loaded).__name__)
            sides = (TorchSession(one.float(), kind == "decoder") for one in (theirs, loaded))
            found = compare(next(sides), next(sides), kind, config, has_classes(loaded))
            insist(found, self.engine, type(loaded).__name__)
        rows = tuple(by_dtype(dict(loaded.named_parameters())))
        notes = (*_notes(words), found.sentence(self.engine))
        return Exported(Path(output).absolute(), self.engine, words, rows, notes, vars(found))


def _reloaded(folder: Path, name: str) -> Any:
    """What the class of transformers makes of the folder, every weight found in it.

    Raises:
        CheckpointError: some are missing, unknown or of another shape.
    """
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong or (compressed_with(model.config) or {}).get("layers"):
        raise CheckpointError(
            f"Plain transformers does not find its weights in what was written ({wrong[:1]}). Report this model to "
            "optimum-grail, and load it with `import optimum_grail`."
        )
    return model.eval()


def _notes(words: str) -> Iterator[str]:
    if words == PER_LAYER:
        yield (
            f"Layers differ, and per_layer_config says so: it needs transformers {transformers.__version__} or a newer "
            "one that builds this class from it."
        )
