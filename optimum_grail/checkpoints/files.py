"""Which files of a folder a run wrote, and which of a model's folder belong to a compressed one too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath

from optimum_grail.report.report import REPORT_FILE

MANIFEST = "grail_files.json"
"""In every folder that a run wrote: the names of its files."""
PLAN_TENSORS = "grail_plan.tensors"
"""In the format of safetensors, under a name that nobody takes for weights: engines read every ``*.safetensors``."""
EARLIER_PLAN_TENSORS = "grail_plan.safetensors"
"""What the first version called them."""
MODEL_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
MODEL = (
    *MODEL_WEIGHTS,
    "config.json",
    "generation_config.json",
    "grail_*",
    "modeling_grail.py",
    "README.md",
)
PROCESSORS = (
    "tokenizer*.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
    "*processor_config.json",
)
CODE = ("modeling_*.py", "configuration_*.py", "tokenization_*.py", "processing_*.py", "image_processing_*.py")
WRITTEN = (*MODEL, *PROCESSORS, *CODE)
"""What compressing or recovering writes, apart from what the model's folder holds beyond it."""

WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot"),
    *("*.onnx", "*.onnx_data", "*.gguf", "*.ggml"),
)
NEVER = (
    *WEIGHTS,
    *("*.pkl", "*.pickle", "*.joblib", "*.npz", "*.npy", "*.tflite", "*.pb", "*.index.json"),
    *("optimizer*", "scheduler*", "trainer_state*", "training_args*", "rng_state*", "*_results.json", "*tfevents*"),
    *("readme*", "model_card*", "adapter_*", "params.json"),  # what speaks of the dense model
)
"""Files of a model's folder, in lower case, that are not carried over."""
OPENINGS = (b"\x80", b"PK\x03\x04", b"\x89HDF", b"GGUF", b"-----BEGIN")
"""How pickles, archives, weights and private keys begin, whatever they are called."""
LARGEST = 16 * 2**20
"""Bytes of the largest file that is carried over."""
MANY = 100
"""A folder with more files than this holds data."""


def write_manifest(folder: Path) -> None:
    """Write the names of all files in ``folder`` to ``grail_files.json``."""
    names = sorted({*_files(folder), MANIFEST})
    (folder / MANIFEST).write_text(json.dumps({"files": names}, indent=2) + "\n", encoding="utf-8")


def written_files(folder: Path) -> set[str] | None:
    """Names of the files in ``folder`` that a run wrote, with ``/``; ``None`` if nothing says that one wrote any.

    The manifest names them. In a folder of the first version, which has a report and no manifest, they are those that
    are called as that version called its files.
    """
    try:
        named = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name) for name in named}.intersection(_files(folder))
    except (OSError, ValueError, KeyError, TypeError):
        found = _files(folder) if (folder / REPORT_FILE).is_file() else None
    return None if found is None else {name for name in found if matches(name, WRITTEN)}


def present_name(name: str) -> str:
    """What a file that an earlier version called ``name`` is called now."""
    return PLAN_TENSORS if name == EARLIER_PLAN_TENSORS else name


def strangers(folder: Path, known: Iterable[str]) -> list[str]:
    """What is in ``folder`` beside the files ``known`` and the folders that hold them; of a folder only its name."""
    known = set(known)
    folders = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents}
    found = []
    for place, inner, files in os.walk(folder):
        here = Path(place).relative_to(folder)
        found += [f"{name}/" for name in ((here / name).as_posix() for name in inner) if name not in folders]
        found += [name for name in ((here / name).as_posix() for name in files) if name not in known]
        inner[:] = [name for name in inner if (here / name).as_posix() in folders]
    return sorted(found)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of ``patterns`` fits ``name``, a path with ``/``; ``*`` stays within a folder."""
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


def carry_over(source: Path, folder: Path) -> None:
    """Copy what belongs to a model and what transformers does not save: licences, ``modules.json``, ``1_Pooling/``.

    That is every small file of ``source``, subfolders included, which ``folder`` does not have, save hidden ones,
    weights, pickles, what training leaves, the card, and links to elsewhere. Subfolders with weights of their own are
    other forms of the dense model and stay behind, as do folders of more than a hundred files.

    Args:
        source: the model's folder, or its snapshot in the Hub's cache.
        folder: the folder to fill.
    """
    source = source.resolve()
    roots = [source, source.parents[1] / "blobs"] if source.parent.name == "snapshots" else [source]
    visible = [path for path in source.iterdir() if not path.name.startswith(".")]
    inner = [_below(path) for path in visible if path.is_dir() and not path.is_symlink()]
    for files in ([path for path in visible if path.is_file()], *inner):
        if len(files) > MANY:
            continue
        for path in files:
            target = folder / path.relative_to(source)
            if not target.exists() and _is_carried(path, path.relative_to(source).as_posix(), roots):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _below(folder: Path) -> list[Path]:
    """The files in a subfolder; none if there are weights among them."""
    files = list(islice((path for path in folder.rglob("*") if path.is_file()), MANY + 1))
    return [] if any(matches(path.name.lower(), WEIGHTS) for path in files) else files


def _is_carried(path: Path, name: str, roots: Sequence[Path]) -> bool:
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    if hidden or matches(path.name.lower(), NEVER) or matches(name, (*MODEL, *PROCESSORS)):
        return False
    if not any(path.resolve().is_relative_to(root) for root in roots) or path.stat().st_size > LARGEST:
        return False
    try:
        with path.open("rb") as file:
            return not file.read(16).startswith(OPENINGS)
    except OSError:  # nobody but its owner may read it
        return False


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink())
