"""``optimum-cli grail inspect``: what of a model can shrink, and how far; no weights are loaded."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import (
    Session,
    add_map_flag,
    add_model_flag,
    add_output_flags,
    add_trust_flag,
    describe,
    session,
)
from optimum_grail.errors import ConfigError

LISTED = 12
HEADINGS = ("what", "layers", "in each", "parameters", "multiples\nof", "plain\ntransformers")
KINDS = {
    "heads": "heads",
    "mlp": "FFN channels",
    "conv": "conv channels",
    "experts": "experts",
    "expert-channels": "channels in experts",
    "shared-channels": "channels of shared experts",
}
EXAMPLES = """\
  optimum-cli grail inspect -m meta-llama/Llama-3.2-1B
  optimum-cli grail inspect -m my-model --json        every group with its modules
  optimum-cli grail inspect -m my-model --propose -o map.py
      for a family without a map: find one by watching a small copy run, and write it
  optimum-cli grail inspect -m my-model --map map.py  what that map lets shrink"""


class InspectCommand(BaseOptimumCLICommand):
    """What can shrink, and the widths that quantizers and a stock config take."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Show what of a model can shrink, and how far. Reads its config, not its weights.", EXAMPLES)
        add_model_flag(parser)
        add_trust_flag(parser)
        add_map_flag(parser)
        parser.add_argument(
            "--propose",
            action="store_true",
            help="Propose a map: a copy with random weights runs in memory (three blocks of it, where all are alike). "
            "What keeps the laws of a map is in it, what does not is named with the reason.",
        )
        parser.add_argument(
            "-o", "--output", metavar="FILE", help="With --propose: the Python file to write; complete or absent."
        )
        parser.add_argument("--overwrite", action="store_true", help="Replace --output if it is there already.")
        add_output_flags(parser)

    def run(self) -> None:
        """Build the model without storage and print one row per family of groups; or propose a map."""
        with session(self.args) as out:
            if self.args.propose:
                out.result = {"model": self.args.model, **_propose(self.args, out)}
                return
            if self.args.output is not None:
                raise ConfigError(
                    f"-o {self.args.output} is where a proposed map goes. Add --propose, or leave it out."
                )
            from rich.table import Table
            from rich.text import Text

            from optimum_grail.checkpoints.headers import local_weights
            from optimum_grail.checkpoints.loading import load_skeleton
            from optimum_grail.commands._inspection import inspect_model
            from optimum_grail.proposals.reading import serving_maps

            with serving_maps(self.args.map):
                model = load_skeleton(self.args.model, self.args.trust_remote_code)
                found = inspect_model(model)
            compared = local_weights(self.args.model) is not None
            out.result = {"model": self.args.model, "compared_with_weights": compared, **found}
            table = Table(title=Text(f"{found['class']}: what can shrink"), title_justify="left")
            parts = len({row["stack"] for row in found["families"]}) > 1
            for heading in ("part", *HEADINGS) if parts else HEADINGS:
                table.add_column(heading, overflow="fold", no_wrap=heading == "what")
            for row in found["families"]:
                table.add_row(*map(Text, [row["stack"] or "model", *_cells(row)] if parts else _cells(row)))
            out.console.print(table)
            for line in _lines(found, compared):
                out.console.print(line, markup=False, highlight=False)


def _propose(args: Namespace, out: Session) -> dict[str, Any]:
    from optimum_grail.commands._proposing import check_map_output, propose_for, show

    if args.map is not None:
        raise ConfigError("--propose makes a map and --map names one. Leave one of them out.")
    target = check_map_output(args.output, args.overwrite)
    return show(propose_for(args.model, args.trust_remote_code), target, out.console)


def _cells(row: dict[str, Any]) -> list[str]:
    counts = [f"{row[key]:,}" for key in ("groups", "units", "parameters", "quantizer_step")]
    kind = KINDS.get(row["kind"], row["kind"])
    return [kind, *counts, _widths(row["expressible"], row["units"])]


def _widths(widths: list[int], units: int) -> str:
    """The widths that the stock config can say, in few words."""
    if not units:
        return "gone"
    if len(widths) == units:
        return "any width"
    if widths == [units]:
        return "whole only"
    if not widths:
        return "table only"
    return ", ".join(map(str, widths[:LISTED])) + (", ..." if len(widths) > LISTED else "")


def _lines(found: dict[str, Any], compared: bool) -> list[str]:
    """What a person should know besides the table; ``compared``: whether weights were there to compare sizes with."""
    share = found["block_parameters"] / found["parameters"]
    return [
        f"{found['parameters']:,} parameters, {found['block_parameters']:,} ({share:.1%}) of them inside the blocks.",
        f"Sparsity can reach {found['largest_sparsity']:.1%} of the blocks' parameters, and "
        f"{found['largest_standalone_sparsity']:.1%} where plain transformers must load the result.",
        "Attention heads are counted with all query heads that share a key-value head as one.",
        "Multiples of: such widths are sure to be taken by quantizers (the sides of the matrices are multiples of 32); "
        "--round-to 32 sees to it for FFN and convolution channels. GPTQ and AWQ want 128 as a rule.",
        "Plain transformers: widths, the same in every layer, that its config can say.",
        *(
            f"Inside heads, dimensions can go in pairs: any even number below {size} stays (--head-dim-sparsity)."
            for size in dict.fromkeys(found["head_sizes"].values())
        ),
        *(f"No dimensions inside heads can go: {why}." for why in found["rigid_heads"]),
        *(f"No {KINDS.get(item['kind'], item['kind'])} can go. {item['why']}" for item in found["impossible"]),
        *(["This checkpoint is compressed already."] if found["compressed"] else []),
        *([] if compared else ["Sizes are as config.json declares them: no weights were there to compare them with."]),
    ]
