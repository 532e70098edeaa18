"""``optimum-cli grail export``: write a model for another engine."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._exporting import show
from optimum_grail.commands._shared import add_model_flag, add_output_flags, describe, session

EXAMPLES = """\
  optimum-cli grail export -m small -o small.gguf --to gguf
      for llama.cpp, also where every layer has its own widths; half precision
  optimum-cli grail export -m small -o small-q8.gguf --to gguf --type q8_0
      8 bits; rows that do not divide by 32 stay f16, so compress with --round-to 32
  optimum-cli grail export -m small -o small-vllm --to nemotron-nas
      a folder for vLLM, whose layers may differ; heads are padded with zeros
  optimum-cli grail export -m small -o small-onnx --to onnx
      for ONNX Runtime, run once and compared with PyTorch; likewise --to openvino
  optimum-cli grail export -m small -o plain --to transformers
      for plain transformers, where its own configuration can say the widths
  optimum-cli grail export -m small -o small.gguf --to gguf --pre-tokenizer qwen2
      where the tokenizer's way to split text is not known by its definition"""


class ExportCommand(BaseOptimumCLICommand):
    """One model for one engine."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Write a model, compressed or dense, for another engine.", EXAMPLES)
        add_model_flag(parser)
        parser.add_argument(
            "-o", "--output", required=True, metavar="PATH", help="File or folder to write; complete or absent."
        )
        parser.add_argument(
            "--to",
            required=True,
            metavar="NAME[:k=v,...]",
            help="gguf (llama.cpp), nemotron-nas (vLLM), onnx, openvino or transformers.",
        )
        parser.add_argument("--overwrite", action="store_true", help="Replace what is there already.")
        parser.add_argument(
            "--type", metavar="TYPE", help="Of the matrices in a GGUF file: f32, f16 (the default), bf16, q8_0 or q4_0."
        )
        parser.add_argument(
            "--pre-tokenizer",
            metavar="NAME",
            help="llama.cpp's name for how the tokenizer splits text; else found out.",
        )
        add_output_flags(parser)

    def run(self) -> None:
        """Write the file and tell what each tensor became."""
        with session(self.args) as out:
            from optimum_grail.export.run import build_target, export_model
            from optimum_grail.report.progress import RichProgress

            args = self.args
            options = {"type": args.type, "pre_tokenizer": args.pre_tokenizer}
            target = build_target(args.to, **{key: value for key, value in options.items() if value is not None})
            progress = RichProgress()
            try:
                done = export_model(args.model, args.output, target, args.overwrite, progress)
            finally:
                progress.finish()
            show(done, out.console)
            out.result = done.to_dict()
