"""``optimum-cli grail trim-vocabulary``: leave out the tokens that a user's text never needs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import add_eval_flag, add_model_flag, add_output_flags, describe, session
from optimum_grail.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from optimum_grail.vocabulary.trim import Trimmed

TEXT = """\
Leave out the tokens that your text never uses: their rows in the embedding and the head, and the tokenizer's entries.

Your text has the same tokens as before, renumbered, and the model gives them the same logits. What a token is built
from stays with it. Bytes, single characters, special and added tokens stay too, so that other text can still be read
and written, in more tokens; --eval-dataset tells how many more."""
EXAMPLES = """\
  optimum-cli grail trim-vocabulary -m MODEL -o small --dataset corpus.txt
  optimum-cli grail trim-vocabulary -m MODEL --dataset corpus.txt general --dry-run
      what would go; nothing is written. general: the corpus that comes with the package, in many genres
  optimum-cli grail trim-vocabulary -m MODEL -o small --dataset corpus.txt --eval-dataset other.txt --round-to 64
      and how other text fares; rows a multiple of 64, which is what some kernels are fast with"""


class TrimVocabularyCommand(BaseOptimumCLICommand):
    """One model, one text."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, TEXT, EXAMPLES)
        add_model_flag(parser)
        parser.add_argument("-o", "--output", metavar="DIR", help="Folder to write; complete or absent.")
        parser.add_argument(
            "-d",
            "--dataset",
            nargs="+",
            required=True,
            metavar="SRC",
            help="Text whose tokens stay: files, folders, Hub ids or general; options as in NAME:split=train.",
        )
        add_eval_flag(parser, "Other text, of which is told how much keeps its tokens and how many it has more.")
        parser.add_argument(
            "--keep", metavar="FILE", help="Tokens that stay too, one a line, as tokenizer.json has them."
        )
        parser.add_argument("--keep-tokens", nargs="+", default=[], metavar="TOKEN", help="The same, here and now.")
        parser.add_argument(
            "--min-count",
            type=int,
            default=1,
            metavar="N",
            help="A token stays if the text uses it so often (default 1; above, the text itself may get other tokens).",
        )
        parser.add_argument(
            "--round-to", type=int, default=1, metavar="N", help="Make rows a multiple of this with zeros (default 1)."
        )
        parser.add_argument("--dry-run", action="store_true", help="Tell what would go, and write nothing.")
        parser.add_argument("--overwrite", action="store_true", help="Replace what a run wrote there already.")
        add_output_flags(parser)

    def run(self) -> None:
        """Trim and say what went."""
        with session(self.args) as out:
            from optimum_grail.evaluation.sets import by_spelling
            from optimum_grail.vocabulary.plan import Wishes
            from optimum_grail.vocabulary.trim import trim_vocabulary

            args = self.args
            if args.output is None and not args.dry_run:
                raise DataError("No output is named. Name a folder with --output, or pass --dry-run.")
            keep = [*args.keep_tokens, *(_lines(args.keep) if args.keep else ())]
            result = trim_vocabulary(
                args.model,
                None if args.dry_run else args.output,
                by_spelling(args.dataset),
                Wishes(args.min_count, keep, args.round_to),
                by_spelling(args.eval_dataset),
                overwrite=args.overwrite,
            )
            _show(result, out.console)
            out.result = result.to_dict()


def _lines(file: str) -> list[str]:
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"--keep {file!r} cannot be read ({error}). Name a text file with a token on every line."
        ) from None
    return [line for line in text.splitlines() if line]


def _show(result: Trimmed, console: Console) -> None:
    sizes = {
        "tokens": (result.tokens_before, result.tokens_after),
        "rows of the embedding": (result.rows_before, result.rows_after),
        "bytes of the model": (result.bytes_before, result.bytes_after),
    }
    rows = [(name, before, after, "") for name, (before, after) in sizes.items()]
    console.print(_table("Vocabulary", "", rows))
    found = [(each.name, each.before, each.after, f"{each.share:.2%}") for each in (*result.data, *result.evaluation)]
    console.print(_table("Tokens of the text", "same", found))
    lines = [f"{number:,} tokens stay: {reason}" for reason, number in result.reasons.items() if number]
    lines.append("Nothing was written" if result.output is None else f"Written to {result.output}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(title: str, last: str, rows: Sequence[tuple[str, int, int, str]]) -> Table:
    """Names with a number before and after; and what is told in the column ``last``."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", overflow="fold")
    for column in ("before", "after", "change", *([last] if last else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for name, before, after, told in rows:
        table.add_row(Text(name), f"{before:,}", f"{after:,}", f"{after / before - 1:+.2%}", *([told] if last else []))
    return table
