"""``optimum-cli grail benchmark``: the speed that a user of a compressed model gets, beside that of the dense one."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import add_loading_flags, add_output_flags, describe, reader, session
from optimum_grail.config.options import BY_NAME
from optimum_grail.errors import ConfigError

TEXT = """\
Measure the speed that a user gets: models take turns at the same work, so that a busy machine slows all of them down.

Causal language models read a prompt (prefill) and generate greedily with a key-value cache (decode): tokens per second
of each. Other models: images, sequences or image-text pairs per second. Besides that the time to load, the peak memory
and the bytes of the key-value cache per token. Inputs are random, from a seed: speed hardly depends on what they say.

Every model has a process of its own. Ratios are to the first model and have an interval; where it holds 1, the
difference is within the noise. The ideal is the ratio of operations, realised is the share of the operations saved that
is saved in time: decoding single sequences moves weights rather than computing, and small matrices use a processor
badly, so it is often less than all."""
EXAMPLES = """\
  optimum-cli grail benchmark -m MODEL -m small
      a causal language model: 256 tokens read, 64 generated, batches of 1 and 8
  optimum-cli grail benchmark -m MODEL -m small -m smaller --batch-size 1 --prompt-tokens 1024 --new-tokens 128
  optimum-cli grail benchmark -m MODEL -m small --json speed.json --plot speed.png
  optimum-cli grail benchmark -m MODEL -m MODEL      the noise of this machine
  OMP_NUM_THREADS=1 optimum-cli grail benchmark -m MODEL -m small --device cpu"""
COUNTS = {
    "--prompt-tokens": "Tokens of a prompt, or of a sequence where the model takes so many (default 256).",
    "--new-tokens": "Tokens that a causal language model generates, at least 2 (default 64).",
    "--repeats": "Rounds in which every model has a turn; intervals of 95 %% take six (default 10).",
}


class BenchmarkCommand(BaseOptimumCLICommand):
    """Two or more models, sizes of the work, and where the result goes."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, TEXT, EXAMPLES)
        parser.add_argument(
            "-m",
            "--model",
            action="append",
            required=True,
            metavar="MODEL",
            help="Model folder or Hub id; name it for every model, the dense one first.",
        )
        parser.add_argument(
            "--batch-size",
            nargs="+",
            type=reader(BY_NAME["num_samples"], "--batch-size"),
            default=[1, 8],
            metavar="N",
            help="Samples per pass, each size measured by itself (default 1 8).",
        )
        for flag, text in COUNTS.items():
            parser.add_argument(flag, type=reader(BY_NAME["num_samples"], flag), metavar="N", help=text)
        parser.add_argument(
            "--seed", type=reader(BY_NAME["seed"]), default=42, metavar="N", help="Of the random inputs (default 42)."
        )
        parser.add_argument("--plot", metavar="FILE", help="Draw the speed-ups into this PNG; needs matplotlib.")
        parser.add_argument(
            "--overwrite", action="store_true", help="Replace results of this command that are in FILE already."
        )
        add_loading_flags(parser)
        add_output_flags(parser, "FILE")

    def run(self) -> None:
        """Check, measure, print two tables, write what was asked for."""
        with session(self.args) as out:
            from optimum_grail.checkpoints.loading import Loading
            from optimum_grail.checkpoints.single_files import check_file, write_file
            from optimum_grail.evaluation.speed.speed_test import REPEATS, SpeedTest
            from optimum_grail.report.progress import RichProgress
            from optimum_grail.report.speed_view import (
                WRITTEN_BY,
                lines_below,
                models_table,
                need_matplotlib,
                plot_speed,
                speed_table,
            )

            args = self.args
            loading = Loading(args.dtype, args.device, args.trust_remote_code, args.allow_pickle)
            sizes = args.batch_size, args.prompt_tokens, args.new_tokens, args.repeats or REPEATS
            test = SpeedTest(args.model, *sizes, args.seed, loading)
            files: dict[str, Path] = {}
            if isinstance(args.json, str):
                files["json"] = check_file(args.json, WRITTEN_BY.encode(), args.overwrite)
            if args.plot:
                need_matplotlib()
                files["plot"] = check_file(args.plot, WRITTEN_BY.encode(), args.overwrite)
            if len(set(files.values())) < len(files):
                raise ConfigError(f"--json and --plot both name {args.plot!r}. Name two files.")
            result = test.prepare().run(RichProgress())
            out.result = result
            out.console.print(models_table(result))
            out.console.print(speed_table(result))
            for line in lines_below(result):
                out.console.print(line, markup=False, highlight=False, soft_wrap=True)
            if "json" in files:
                write_file(files["json"], (json.dumps(result, indent=1) + "\n").encode())
            if "plot" in files:
                write_file(files["plot"], plot_speed(result))
            if files:
                names = ", ".join(map(str, files.values()))
                out.console.print(f"Written to {names}", markup=False, highlight=False, soft_wrap=True)
