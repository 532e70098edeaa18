"""GGUF, for llama.cpp, also where every layer has its own widths.

Models of one width for all layers are written in their family's own architecture, others in one of llama.cpp's that
reads widths layer by layer (``deci`` for LLaMA, Mistral and Qwen2, ``openelm`` for Qwen3 with tied embeddings).
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from optimum_grail.checkpoints.loading import load_config, load_model, model_class
from optimum_grail.checkpoints.offloading import choice_of
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import ArchitectureError, OutputError, shorten
from optimum_grail.export.contract import Exported, Row, Target
from optimum_grail.export.decoder import FAMILIES, read_decoder, reader, shapes_of
from optimum_grail.export.gguf.plan import Plan, Value, plan_file
from optimum_grail.export.gguf.tokenizer import tokenizer_keys
from optimum_grail.export.gguf.types import BLOCK, Type
from optimum_grail.export.gguf.writing import need_library, write_file
from optimum_grail.export.targets import TARGETS
from optimum_grail.models.hook import install
from optimum_grail.report.progress import Progress, Silent

WRITING = "writing tensors"


@TARGETS.register
@dataclass(frozen=True)
class Gguf(Target):
    """One file for llama.cpp, with the tokenizer in it.

    Args:
        type: of the matrices; vectors are f32. q8_0 and q4_0 need rows of a multiple of 32, other rows become f16.
        pre_tokenizer: llama.cpp's name for the way the tokenizer splits text, where it is not found out.
    """

    type: Type = "f16"
    pre_tokenizer: str | None = None

    engine: ClassVar[str] = "llama.cpp"
    suffix: ClassVar[str] = ".gguf"

    def check(self, model: str | Path, output: str | Path, overwrite: bool = False) -> None:
        """Refuse other families, tokenizers and outputs."""
        self._prepared(model, output, overwrite)

    def wishes(self, model: str | Path) -> dict[str, Any]:
        """Rows that can be quantized; and one width for all layers where no other architecture takes the family."""
        config = load_config(model)
        bound = FAMILIES.get(model_class(config).__name__) == "qwen3" and not config.tie_word_embeddings
        return {"round_to": BLOCK, **({"allocation": "uniform"} if bound else {})}

    def _prepared(
        self, model: str | Path, output: str | Path, overwrite: bool
    ) -> tuple[Path, dict[str, Value], list[str]]:
        """Where the file goes, the keys of its tokenizer and sentences about that."""
        need_library()
        path = checked_file(output, overwrite)
        config = load_config(model)
        _check_family(config, model)
        tokenizer, _ = load_processors(model)
        return path, *tokenizer_keys(tokenizer, int(config.vocab_size), self.pre_tokenizer)

    def __call__(
        self, model: str | Path, output: str | Path, overwrite: bool = False, progress: Progress | None = None
    ) -> Exported:
        """Write the file; see :class:`Target`."""
        path, words, notes = self._prepared(model, output, overwrite)
        install()
        loaded = load_model(model, device="cpu", offload=choice_of(None))
        plan = plan_file(
            read_decoder(loaded), shapes_of(loaded), self.type, {"general.name": Path(model).name, **words}
        )
        _check_room(plan, path)
        told = progress or Silent()
        told.start(len(plan.entries), WRITING)
        write_file(plan, reader(loaded), path, lambda: told.update(1, WRITING))
        told.finish()
        return Exported(
            path, self.engine, plan.architecture, tuple(_rows(plan)), (*plan.repairs, *notes, *_on_rows(plan))
        )


def checked_file(output: str | Path, overwrite: bool) -> Path:
    """Where the file goes, absolute.

    Raises:
        OutputError: its name ends otherwise, or it exists and may not be replaced.
    """
    path = Path(output).expanduser().absolute()
    if path.suffix.lower() != Gguf.suffix or path.is_dir():
        raise OutputError(f"The output {str(output)!r} is no name of a GGUF file; expected NAME{Gguf.suffix}.")
    if path.exists() and not overwrite:
        raise OutputError(
            f"The output {str(output)!r} exists. Choose another name, or pass --overwrite (overwrite=True) to "
            "replace it."
        )
    return path


def _check_family(config: Any, model: str | Path) -> None:
    """Refuse what is not read here before its weights are."""
    if config.to_dict().get("quantization_config") is not None:
        raise ArchitectureError(
            f"The weights of {str(model)!r} are quantized already. Export the model that they were made from, and let "
            "--type quantize it."
        )
    kind = model_class(config).__name__
    if kind in FAMILIES:
        return
    raise ArchitectureError(
        f"{str(model)!r} is {kind} ({shorten(config.model_type)}), for which this package writes no GGUF. "
        "Layers of different widths have a home in llama.cpp for llama, mistral, qwen2 (deci) and qwen3 with tied "
        "embeddings (openelm), and for no other family. Compress with --allocation uniform, so that the result "
        "is standalone, and convert it with llama.cpp's own convert_hf_to_gguf.py."
    )


def _check_room(plan: Plan, path: Path) -> None:
    """Nothing is begun that the disk cannot hold."""
    home = next(folder for folder in path.parents if folder.exists())
    size, free = sum(entry.bytes for entry in plan.entries), shutil.disk_usage(home).free
    if size > free:
        raise OutputError(f"The file takes {size:,} bytes and {free:,} are free at {str(home)!r}. Free some space.")


def _rows(plan: Plan) -> Iterator[Row]:
    """What each kind of tensor became."""
    kinds = [(re.sub(r"^blk\.\d+\.", "", entry.name), str(entry.type)) for entry in plan.entries]
    sizes: Counter[tuple[str, str]] = Counter()
    for kind, entry in zip(kinds, plan.entries, strict=True):
        sizes[kind] += entry.bytes
    counts = Counter(kinds)
    for kind in counts:
        yield Row(*kind, counts[kind], sizes[kind])


def _on_rows(plan: Plan) -> Iterator[str]:
    if plan.unaligned:
        size = sum(entry.bytes for entry in plan.unaligned)
        narrow = any("attn_output" in entry.name for entry in plan.unaligned)
        yield (
            f"{len(plan.unaligned)} of {sum(len(entry.shape) > 1 for entry in plan.entries)} matrices ({size:,} bytes) "
            f"stay f16: their rows do not divide by 32, such as {plan.unaligned[0].name} with "
            f"{plan.unaligned[0].shape[-1]}. "
            f"Compress with --round-to 32 to quantize them as well{', but for heads narrower than 32' * narrow}."
        )
