"""``optimum-cli grail evaluate``: measure a dense or compressed model."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import (
    add_loading_flags,
    add_model_flag,
    add_output_flags,
    describe,
    reader,
    session,
)
from optimum_grail.config.options import BY_NAME
from optimum_grail.errors import ConfigError

METRICS = "perplexity|accuracy|spearman|retrieval"
EXAMPLES = """\
  optimum-cli grail evaluate -m small --dataset test.txt --metric perplexity
  optimum-cli grail evaluate -m small --dataset images/ --metric accuracy --label-column label
  optimum-cli grail evaluate -m small --dataset stsb.csv --metric spearman
  optimum-cli grail evaluate -m small --dataset pairs.parquet --metric retrieval --json
  optimum-cli grail evaluate -m small -d books.txt code.txt --metric perplexity --reference MODEL
      each by itself, and how far the model answers as its dense model
  optimum-cli grail evaluate -m small --dataset images/ --metric accuracy --perturb jpeg
  optimum-cli grail evaluate -m small-int8 --dataset test.txt --metric perplexity --add-to small    into its card
  optimum-cli grail evaluate -m small --tasks arc_easy,my_task.yaml      handed over to lm-eval"""
DATASET = (
    "Data to measure on: a .txt, .jsonl, .csv or .parquet file, an image folder, or a Hub id; several are measured "
    "one by one. NAME:key=value,... with split, config_name, text_column or image_column tells how one of them is read."
)
PERTURBATIONS = "typos|noise|blur|jpeg"
PERTURB = "Measure on damaged inputs (not perplexity): mistyped texts; noisy, blurred or JPEG-compressed images."
COLUMNS = {
    "--text-column": "Column that holds the text; the first of a pair (spearman: sentence1).",
    "--text-pair-column": "Column that holds the second text of a pair (spearman: sentence2).",
    "--image-column": "Column that holds the images.",
    "--label-column": "Column that holds the label or the score (accuracy: label; spearman: score).",
}
SIZES = {
    "--seqlen": "Tokens per window or row; the metric's own by default.",
    "--num-samples": "First rows or windows only.",
    "--max-tokens": "First tokens only (perplexity).",
    "--batch-size": "Rows per forward pass.",
}


class EvaluateCommand(BaseOptimumCLICommand):
    """One metric on one data set, or on each of several."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Measure a model, dense or compressed: one metric, set by set.", EXAMPLES)
        add_model_flag(parser)
        parser.add_argument("-d", "--dataset", nargs="+", metavar="SRC", help=DATASET)
        parser.add_argument("--metric", metavar=METRICS, help="What to measure.")
        parser.add_argument("--tasks", metavar="T1,T2", help="Tasks of lm-eval, or .yaml files, instead of a metric.")
        for name in ("dataset_config_name", "split"):
            parser.add_argument(BY_NAME[name].flag, metavar="NAME", help=BY_NAME[name].help)
        for flag, text in COLUMNS.items():
            parser.add_argument(flag, metavar="NAME", help=text)
        for flag, text in SIZES.items():
            parser.add_argument(flag, type=reader(BY_NAME["num_samples"], flag), metavar="N", help=text)
        parser.add_argument("--perturb", metavar=PERTURBATIONS, help=PERTURB)
        parser.add_argument(
            "--reference", metavar="DENSE", help="The dense model: also tell how far MODEL answers as this one does."
        )
        parser.add_argument(
            "--add-to",
            metavar="DIR",
            help="Compressed checkpoint that MODEL was made from: note the result in its report.",
        )
        parser.add_argument("--label", metavar="TEXT", help="What --add-to calls MODEL; by default its folder's name.")
        add_loading_flags(parser)
        add_output_flags(parser)

    def run(self) -> None:
        """Load, measure, print one line per result."""
        with session(self.args) as out:
            from optimum_grail.report.table import number

            args = vars(self.args)
            check_what(args)
            if args["tasks"]:
                out.result = _tasks(args)
                for name, row in out.result["tasks"].items():
                    for key, value in row.items():
                        out.console.print(f"{name:>20}  {key:<20} {number(value, 6)}", markup=False, highlight=False)
                return
            out.result = _metric(args)
            for index, result in enumerate(out.result.get("sets", [out.result])):
                lines = [f"{key:>{max(12, *map(len, result))}}  {number(value, 6)}" for key, value in result.items()]
                for line in ["", *lines] if index else lines:
                    out.console.print(line, markup=False, highlight=False, soft_wrap=True)


def check_what(args: Mapping[str, Any]) -> None:
    """Refuse anything but one metric on one data set, or tasks.

    Raises:
        ConfigError: the message says what is missing or too much.
    """
    missing = [flag for flag in ("dataset", "metric") if not args[flag]]
    if args["tasks"] and len(missing) < 2:
        raise ConfigError("--tasks brings its own data and metrics. Leave out --dataset and --metric, or --tasks.")
    if not args["tasks"] and missing:
        raise ConfigError(f"--{missing[0]} is missing. Name --dataset and --metric, or --tasks of lm-eval.")
    if args["tasks"] and args["add_to"]:
        raise ConfigError("--add-to notes one metric on one data set; name --dataset and --metric instead of --tasks.")
    for name in ("perturb", "reference"):
        if args["tasks"] and args[name]:
            raise ConfigError(f"--{name} is for a metric on a data set. Leave it or --tasks out.")
    if args["add_to"] and (args["perturb"] or len(args["dataset"]) > 1):
        raise ConfigError("--add-to notes one metric on one data set as it is. Leave out --perturb and other sets.")
    if args["label"] and not args["add_to"]:
        raise ConfigError("--label is what --add-to calls the model. Add --add-to DIR, or leave --label out.")


def _metric(args: Mapping[str, Any]) -> dict[str, Any]:
    from optimum_grail.checkpoints.loading import Loading
    from optimum_grail.evaluation.evaluate import evaluate_path
    from optimum_grail.evaluation.sets import by_spelling
    from optimum_grail.hub.derived import note_derived
    from optimum_grail.report.progress import RichProgress
    from optimum_grail.report.report import Report

    parent = args["add_to"]
    if parent:
        Report.load(parent)  # there is one, then: told before the long work
    names = [flag[2:].replace("-", "_") for flag in (*COLUMNS, *SIZES)]
    names += ["split", "perturb", "reference", "dtype", "device", "trust_remote_code", "allow_pickle"]
    chosen = {name: args[name] for name in names}
    columns = {"config_name": args["dataset_config_name"], **chosen}
    result = evaluate_path(
        args["model"], by_spelling(args["dataset"]), args["metric"], progress=RichProgress(), **columns
    )
    if not parent:
        return result
    places = {name: args[name] for name in ("device", "trust_remote_code", "allow_pickle")}
    row = note_derived(parent, args["model"], result, label=args["label"], loading=Loading(**places))
    return {**result, "bytes": row["bytes"], "added_to": str(parent)}


def _tasks(args: Mapping[str, Any]) -> dict[str, Any]:
    from optimum_grail.checkpoints.loading import Loading
    from optimum_grail.evaluation.lm_eval import evaluate_tasks

    places = {name: args[name] for name in ("dtype", "device", "trust_remote_code", "allow_pickle")}
    names = [task for task in args["tasks"].split(",") if task]
    sizes = {"limit": args["num_samples"], "batch_size": args["batch_size"]}
    return evaluate_tasks(args["model"], names, loading=Loading(**places), **sizes)
