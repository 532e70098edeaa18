"""What `grail export` and `grail compress --for` share: the early checks, and what is shown of a file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from optimum_grail.export.contract import Exported, Target


class Beside:
    """A file for another engine that is written beside a compressed model.

    Args:
        target: its format.
        model: the model that is compressed.
        output: the folder of the compressed one; the file is called the same, with the target's ending.
        overwrite: whether an older file may be replaced.
    """

    def __init__(self, target: Target, model: str, output: Path, overwrite: bool) -> None:
        self.target, self.overwrite = target, overwrite
        ending = target.suffix or target.folder_suffix or f"-{target.engine}"
        self.output, self.folder = output.with_name(f"{output.name}{ending}"), output
        target.check(model, self.output, overwrite)
        self.wishes: dict[str, Any] = target.wishes(model)

    def write(self, console: Console) -> Exported:
        """Write it, once the folder is there, and show it."""
        done = self.target(self.folder, self.output, self.overwrite)
        show(done, console)
        return done


def add_engine_flag(parser: ArgumentParser) -> None:
    """``--for``."""
    parser.add_argument(
        "--for",
        dest="engine",
        metavar="ENGINE[:k=v,...]",
        help="Compress for another engine (llama.cpp, vLLM, onnx, openvino, transformers; `grail list targets`): "
        "widths that it can take, where none are asked for, and what it reads beside --output, as `grail export` "
        "writes it.",
    )


def beside(args: Namespace, output: Path) -> Beside | None:
    """What ``--for`` asks for; refuses at once what the engine cannot take.

    Raises:
        GrailError: no such target, or it takes no such model.
    """
    if args.engine is None:
        return None
    from optimum_grail.export.run import build_target

    return Beside(build_target(args.engine), args.model, output, args.overwrite or args.resume)


def show(done: Exported, console: Console) -> None:
    """Print what each tensor became, what a user should read, and where the file is."""
    from rich import box
    from rich.table import Table

    table = Table(title="What each tensor became", title_justify="left", box=box.SIMPLE)
    for column in ("tensors", "type"):
        table.add_column(column)
    for column in ("count", "bytes"):
        table.add_column(column, justify="right")
    for row in done.rows:
        table.add_row(row.kind, row.type, f"{row.count:,}", f"{row.bytes:,}")
    console.print(table)
    lines = [
        *done.notes,
        f"Written to {done.path}: {done.engine}, architecture {done.form}, {done.bytes:,} bytes of weights",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
