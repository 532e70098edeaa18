"""``optimum-cli grail sweep``: many methods and sizes from one calibration."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from optimum_grail.config.budgets import BUDGETS
from optimum_grail.config.options import BY_NAME, OPTIONS
from optimum_grail.config.presets import DEFAULT_PRESET

if TYPE_CHECKING:
    from optimum_grail.sweep import Cell

EXAMPLES = """\
  optimum-cli grail sweep -m MODEL -o sweep --eval-dataset test.txt --sparsity .1 .2 .3 .4 .5 .6 .7
      the default method at seven sizes: a table, sweep/sweep.json and a plot of quality against parameters
  optimum-cli grail sweep -m MODEL -o sweep --dataset corpus.txt --eval-dataset test.txt --presets grail-plus wanda flap
      three methods on the same calibration data
  optimum-cli grail sweep -m MODEL -o sweep --eval-dataset test.txt --save
      every size as a model of its own, below sweep/; the table names the knee of the curve
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
        what = "Write every compressed model as well, to --output/PRESET-FRACTION; rows without a model are run again."
        parser.add_argument("--save", action="store_true", help=what)
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
            from optimum_grail.data.parts import check_sources
            from optimum_grail.evaluation.sets import check_sets
            from optimum_grail.report.sweep_view import SWEEP_PLOT_FILE, can_plot, plot_sweep, sweep_table
            from optimum_grail.sweep import FILE, cells

            base = {name: value for name, value in vars(args).items() if name in BY_NAME and name not in LEFT_OUT}
            planned = cells(list(dict.fromkeys(args.presets)), sorted(set(args.sparsity)), base)
            check_sources(base.get("dataset"))
            check_sets(args.eval_dataset)
            result = _swept(args, planned, base)
            place = Path(args.output)
            written = [place / FILE]
            if result["metric"] and can_plot():
                written.append(place / SWEEP_PLOT_FILE)
                plot_sweep(result, written[-1])
            written += [place / row["folder"] for row in result["rows"] if args.save and "folder" in row]
            out.console.print(sweep_table(result))
            out.console.print(f"Written to {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
            out.result = result


def _swept(args: Namespace, planned: Sequence[Cell], base: Mapping[str, Any]) -> dict[str, Any]:
    """Load the dense model, then compress and measure."""
    from optimum_grail.checkpoints.loading import load_model
    from optimum_grail.checkpoints.processors import load_processors
    from optimum_grail.config.config import GrailConfig
    from optimum_grail.evaluation.comparison import Comparisons
    from optimum_grail.evaluation.for_sweep import SweepMetric
    from optimum_grail.evaluation.sets import by_spelling
    from optimum_grail.pipeline.folders import Folders
    from optimum_grail.report.progress import RichProgress
    from optimum_grail.sweep import Sweep

    trust = {"trust_remote_code": args.trust_remote_code, "allow_pickle": args.allow_pickle}
    model = load_model(args.model, dtype=args.dtype, device=args.device, **trust)
    readers = load_processors(args.model, args.trust_remote_code)
    sets, progress = by_spelling(args.eval_dataset), RichProgress()
    found = Comparisons.prepare(model, sets, *readers, GrailConfig(**base), limit=args.eval_samples)
    metric = SweepMetric(found, progress)
    companions = tuple(item for item in readers if item is not None)
    save = Folders(Path(args.output), args.model, companions, metric.rows, args.overwrite) if args.save else None
    common = {"source": args.model, "stats_cache": args.stats_cache, "progress": progress}
    common |= dict(zip(("tokenizer", "processor"), readers, strict=True))
    try:
        sweep = Sweep(model, **common, **metric.settings)
        return sweep.run(planned, args.output, overwrite=args.overwrite, save=save)
    finally:
        progress.finish()
