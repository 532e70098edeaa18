"""``optimum-cli grail sweep``: many methods and sizes from one calibration."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import (
    add_eval_flag,
    add_loading_flags,
    add_model_flag,
    add_option,
    add_output_flags,
    describe,
    reader,
    session,
)
from optimum_grail.config.options import BUDGETS, BY_NAME, OPTIONS
from optimum_grail.config.presets import DEFAULT_PRESET

EXAMPLES = """\
  optimum-cli grail sweep -m MODEL -o sweep --eval-dataset test.txt --sparsity .1 .2 .3 .4 .5 .6 .7
      the default method at seven sizes: a table, sweep/sweep.json and a plot of quality against parameters
  optimum-cli grail sweep -m MODEL -o sweep --dataset corpus.txt --eval-dataset test.txt --presets grail-plus wanda flap
      three methods on the same calibration data
  optimum-cli grail sweep -m MODEL -o sweep --eval-dataset test.txt --stats-cache stats
      keep what does not depend on the size for the next run; a sweep that was interrupted goes on where it stopped"""
LEFT_OUT = (*BUDGETS, "preset", "allow_recompress", "low_memory")


class SweepCommand(BaseOptimumCLICommand):
    """Presets and sparsities, plus the rows of the option table that hold for all of them."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Compress a model by several methods to several sizes, and measure each.", EXAMPLES)
        add_model_flag(parser)
        parser.add_argument("-o", "--output", required=True, metavar="DIR", help="Folder for sweep.json and sweep.png.")
        parser.add_argument("--overwrite", action="store_true", help="Start anew where --output holds another sweep.")
        parser.add_argument(
            "--sparsity",
            nargs="+",
            type=reader(BY_NAME["sparsity"]),
            default=[0.3, 0.5, 0.7],
            metavar="FRACTION",
            help="Fractions of the blocks' parameters that go (default .3 .5 .7).",
        )
        parser.add_argument(
            "--presets",
            nargs="+",
            type=reader(BY_NAME["preset"]),
            default=[DEFAULT_PRESET],
            metavar="NAME",
            help=f"Methods (`grail list presets`; default {DEFAULT_PRESET}).",
        )
        add_eval_flag(parser, "Measure every model on this data, on each of several sets by itself.")
        parser.add_argument(
            "--eval-samples",
            type=reader(BY_NAME["num_samples"], "eval_samples"),
            metavar="N",
            help="Measure on the first N rows (windows of text) only.",
        )
        parser.add_argument(
            "--stats-cache", metavar="DIR", help="Keep what does not depend on the size, by model, data and settings."
        )
        add_loading_flags(parser)
        add_output_flags(parser)
        groups = {name: parser.add_argument_group(name) for name in dict.fromkeys(option.group for option in OPTIONS)}
        for option in OPTIONS:
            if option.name not in LEFT_OUT:
                add_option(groups[option.group], option)

    def run(self) -> None:
        """Check what can be checked at once, then compress and measure."""
        with session(self.args) as out:
            args = self.args
            from optimum_grail.checkpoints.loading import load_model
            from optimum_grail.checkpoints.processors import load_processors
            from optimum_grail.config.config import GrailConfig
            from optimum_grail.data.parts import check_sources
            from optimum_grail.evaluation.comparison import Comparisons
            from optimum_grail.evaluation.sets import by_spelling, check_sets
            from optimum_grail.report.progress import RichProgress
            from optimum_grail.report.sweep_view import SWEEP_PLOT_FILE, can_plot, plot_sweep, sweep_table
            from optimum_grail.sweep import FILE, Sweep, cells

            base = {name: value for name, value in vars(args).items() if name in BY_NAME and name not in LEFT_OUT}
            planned = cells(list(dict.fromkeys(args.presets)), sorted(set(args.sparsity)), base)
            check_sources(base.get("dataset"))
            check_sets(args.eval_dataset)
            trusted = args.trust_remote_code
            trust = {"trust_remote_code": trusted, "allow_pickle": args.allow_pickle}
            model = load_model(args.model, dtype=args.dtype, device=args.device, **trust)
            tokenizer, processor = load_processors(args.model, trusted)
            progress = RichProgress()
            config = GrailConfig(**base)
            sets = by_spelling(args.eval_dataset)
            comparisons = Comparisons.prepare(model, sets, tokenizer, processor, config, limit=args.eval_samples)
            processors = {"tokenizer": tokenizer, "processor": processor}
            common = {"source": args.model, "stats_cache": args.stats_cache, "progress": progress}
            try:
                sweep = Sweep(model, **processors, **common, **comparisons.for_sweep(progress))
                result = sweep.run(planned, args.output, overwrite=args.overwrite)
            finally:
                progress.finish()
            written = [Path(args.output) / FILE]
            if result["metric"] and can_plot():
                written.append(Path(args.output) / SWEEP_PLOT_FILE)
                plot_sweep(result, written[-1])
            out.console.print(sweep_table(result))
            out.console.print(f"Written to {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
            out.result = result
