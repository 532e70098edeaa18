"""``optimum-cli grail recover``: short training of a compressed model on the dense model's answers."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.checkpoints.output import check_output
from optimum_grail.commands._shared import METAVARS, Sources, add_output_flags, describe, reader, session
from optimum_grail.config.options import BY_NAME

EXAMPLES = """\
  optimum-cli grail recover -m small -o recovered
      200 steps of LoRA on text that the dense model writes, merged at the end
  optimum-cli grail recover -m small -o recovered --weights full --minutes 30
      all weights, as many steps as fit; of the states measured along the way the nearest to the dense model is kept
  optimum-cli grail recover -m small -o recovered --dataset corpus.txt --eval-dataset test.txt --steps 1000
      the dense model answers the beginnings of your texts; measured before and after
      interrupted? the same line again goes on where it was"""
COUNTS = {
    "--steps": "Optimizer steps; 200 by default, or as many as --minutes allows.",
    "--rank": "Rank of the LoRA factors; 16 by default.",
    "--batch-size": "Samples per step; 8 by default.",
    "--num-samples": "Samples to train on, a fifth to measure on; 320 by default.",
    "--seqlen": "Tokens per sample; the compression's by default.",
    "--save-every": "Steps between two states, measured and kept to resume from; an eighth of all by default.",
}
NUMBERS = {
    "--learning-rate": "Its peak; 1e-3 by default for lora, 5e-5 for full.",
    "--minutes": "Time for training and measuring, about; trial steps say how many fit.",
}


class RecoverCommand(BaseOptimumCLICommand):
    """Flags are the fields of the recipe, plus models, data and output."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Train a compressed model for a short while on what its dense model says.", EXAMPLES)
        parser.add_argument("-m", "--model", required=True, metavar="DIR", help="Folder of the compressed model.")
        parser.add_argument("-o", "--output", required=True, metavar="DIR", help="Folder to write; complete or absent.")
        parser.add_argument(
            "--overwrite", action="store_true", help="Replace a checkpoint that is in --output already."
        )
        parser.add_argument("--base-model", metavar="MODEL", help="The dense model; by default the report's.")
        parser.add_argument(
            "--dataset", nargs="+", action=Sources, metavar=METAVARS["data"], help=BY_NAME["dataset"].help
        )
        parser.add_argument("--eval-dataset", metavar="SRC", help="Evaluate before and after on this data.")
        parser.add_argument("--device", metavar="DEVICE", help="Torch device, for example cuda:0; by default chosen.")
        for flag, text in COUNTS.items():
            parser.add_argument(
                flag, type=reader(BY_NAME["num_samples"], flag), metavar="N", help=text, default=argparse.SUPPRESS
            )
        for flag, text in NUMBERS.items():
            parser.add_argument(flag, type=float, metavar="FLOAT", help=text, default=argparse.SUPPRESS)
        parser.add_argument(
            "--weights",
            choices=("lora", "full"),
            help="Train LoRA factors on all compressed layers, merged at the end (default), or all weights.",
            default=argparse.SUPPRESS,
        )
        parser.add_argument(
            "--no-rewrite",
            dest="rewrite",
            action="store_false",
            help="Read the texts of --dataset as they are; by default the dense model goes on from their beginnings.",
            default=argparse.SUPPRESS,
        )
        parser.add_argument(
            "--seed", type=reader(BY_NAME["seed"]), metavar="N", help=BY_NAME["seed"].help, default=argparse.SUPPRESS
        )
        add_output_flags(parser)

    def run(self) -> None:
        """Train, merge, save and say what changed."""
        with session(self.args) as out:
            args = self.args
            target = check_output(args.output, args.overwrite, source=args.model)
            from optimum_grail.recovery import Recipe, recover, worsened
            from optimum_grail.report.progress import RichProgress
            from optimum_grail.report.table import number

            flags = (*COUNTS, *NUMBERS, "--weights", "--rewrite", "--seed")
            names = [flag[2:].replace("-", "_") for flag in flags]
            recipe = Recipe(**{name: getattr(args, name) for name in names if name in args})
            places = {"base_model": args.base_model, "device": args.device, "overwrite": args.overwrite}
            data = {"dataset": args.dataset, "eval_dataset": args.eval_dataset}
            progress = RichProgress()
            try:
                found = recover(args.model, target, recipe, **places, **data, progress=progress).recovery
            finally:
                progress.finish()
            lines = [("KL from the dense model, nats", found["kl_before"], found["kl_after"])]
            if measured := found.get("evaluation"):
                lines.append((measured["metric"], measured["before"], measured["after"]))
            for name, before, after in lines:
                out.console.print(f"{name}: {number(before, 4)} before, {number(after, 4)} after", highlight=False)
            if warning := worsened(found):
                out.console.print(warning, markup=False, highlight=False)
            out.console.print(f"Written to {target}", markup=False, highlight=False, soft_wrap=True)
            out.result = {"output": str(target), "recovery": dict(found)}
