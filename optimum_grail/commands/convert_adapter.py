"""``optimum-cli grail convert-adapter``: carry a LoRA adapter of the dense model over to the compressed one."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import add_option, add_output_flags, describe, session
from optimum_grail.config.options import BY_NAME

EXAMPLES = """\
  optimum-cli grail convert-adapter -m small --adapter my-adapter -o small-adapter
      rows of lora_B shrink as the layers did, columns of lora_A are refitted on text that the adapted model writes
  optimum-cli grail convert-adapter -m small --adapter my-adapter -o small-adapter --dataset task.txt
      refit on your own text, best of what the adapter was trained for"""
DATA = ("dataset", "dataset_config_name", "split", "text_column", "image_column", "num_samples", "seqlen", "seed")


class ConvertAdapterCommand(BaseOptimumCLICommand):
    """One adapter, one compressed checkpoint."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Make a LoRA adapter of the dense model fit the compressed one, without training.", EXAMPLES)
        parser.add_argument("-m", "--model", required=True, metavar="DIR", help="Folder of the compressed model.")
        parser.add_argument("--adapter", required=True, metavar="ADAPTER", help="Folder or Hub id of the adapter.")
        parser.add_argument("-o", "--output", required=True, metavar="DIR", help="Folder to write; complete or absent.")
        parser.add_argument("--overwrite", action="store_true", help="Replace an adapter that is in --output already.")
        parser.add_argument("--base-model", metavar="MODEL", help="The dense model; by default the report's.")
        add_output_flags(parser)
        group = parser.add_argument_group("calibration data")
        for name in DATA:
            add_option(group, BY_NAME[name])

    def run(self) -> None:
        """Convert and say where the result is."""
        with session(self.args) as out:
            from optimum_grail.adapters import convert_adapter
            from optimum_grail.report.progress import RichProgress

            args = self.args
            given = {name: getattr(args, name) for name in DATA if name in args}
            convert_adapter(
                args.adapter,
                args.output,
                args.model,
                base_model=args.base_model,
                overwrite=args.overwrite,
                progress=RichProgress(),
                **given,
            )
            out.console.print(f"Written to {args.output}", markup=False, highlight=False, soft_wrap=True)
            out.result = {"output": args.output, "adapter": args.adapter, "model": args.model}
