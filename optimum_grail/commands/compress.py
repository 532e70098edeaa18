"""``optimum-cli grail compress``: compress a model, save it, evaluate it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.checkpoints.output import check_output
from optimum_grail.commands._exporting import add_engine_flag, beside
from optimum_grail.commands._shared import (
    Session,
    add_base_model_flag,
    add_eval_flag,
    add_loading_flags,
    add_map_flag,
    add_model_flag,
    add_option,
    add_output_flags,
    describe,
    session,
)
from optimum_grail.config.budgets import BUDGETS
from optimum_grail.config.options import BY_NAME, OPTIONS, OVERRIDES
from optimum_grail.config.presets import presets
from optimum_grail.config.spelling import DESCRIBED, parse_method
from optimum_grail.errors import ConfigError

if TYPE_CHECKING:
    from optimum_grail.config.config import GrailConfig
    from optimum_grail.processes.ranks import Ranks

EXAMPLES = """\
  optimum-cli grail compress -m meta-llama/Llama-3.2-1B -o small
      a fifth of the blocks' parameters; calibrated on general text and on the model's own
  optimum-cli grail compress -m MODEL -o small --sparsity 0.3 --dataset corpus.txt --eval-dataset test.txt
      calibrate on your own text, print perplexity before and after
  optimum-cli grail compress -m MODEL -o small --dataset general:2 self:1 corpus.txt:1
      several sources share the calibration samples by weight
  optimum-cli grail compress -m google/vit-base-patch16-224 -o small --dataset photos/ --ffn-sparsity 0.7
      drop 70 % of the feed-forward channels and leave the heads whole
  optimum-cli grail compress -m MODEL -o small --head-dim-sparsity 0.25 --ffn-sparsity 0.2
      heads of 96 dimensions instead of 128, a smaller key-value cache; plain transformers loads it
  optimum-cli grail compress -m MODEL -o small --preset grail --compensator grail:ridge=0.01
      the published method with another ridge
  optimum-cli grail compress -m MODEL -o small --target-bytes 200MB --protect 0 -1 --drop-layers
      a size instead of a fraction; the first and the last layer stay whole, others may go altogether
  optimum-cli grail compress -m MODEL -o small --sparsity 0.3 --dry-run
      what would go, the time and the memory; nothing is written
  optimum-cli grail compress -m MODEL -o small --for llama.cpp:type=q8_0
      small/ for transformers, small.gguf for llama.cpp, with widths that can be quantized
  optimum-cli grail compress -m MODEL -o small --allocation knapsack --for onnx
      small-onnx/ beside it, for ONNX Runtime, which takes a width per layer; likewise openvino, transformers and vLLM
  optimum-cli grail compress -m MODEL -o small --map map.py --dataset corpus.txt
      a family without a map of its own: `grail inspect -m MODEL --propose -o map.py` has written one, and you read it
  torchrun --nproc-per-node 2 --no-python optimum-cli grail compress -m MODEL -o small --dataset corpus.txt
      two processes share the calibration rows; the result is that of one (docs/guides/processes.md)
  optimum-cli grail compress -m MODEL -o again --config small --seed 7
      repeat a run, with one change; flags win over the file, the file wins over the preset"""


class CompressCommand(BaseOptimumCLICommand):
    """Flags are the rows of the option table, plus model, output and evaluation."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Remove parameters without training, and give the quality back in closed form.", EXAMPLES)
        add_model_flag(parser)
        parser.add_argument("-o", "--output", required=True, metavar="DIR", help="Folder to write; complete or absent.")
        parser.add_argument(
            "--overwrite", action="store_true", help="Replace a checkpoint that is in --output already."
        )
        parser.add_argument(
            "--config",
            metavar="FILE",
            help="JSON or YAML with any of the fields below, or the report or folder of an earlier run; flags win.",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="Go on with the run into --output that was killed or failed; the result is the same to the last bit. "
            "Give everything else as it was. Until a run ends, what it has done is kept in .grail-NAME.state beside "
            "--output; a run without --resume leaves that alone. Several processes keep nothing.",
        )
        add_map_flag(parser)
        add_eval_flag(parser, "Evaluate before and after on this data, on each of several sets by itself.")
        parser.add_argument(
            "--robustness",
            action="store_true",
            help="Evaluate on damaged inputs as well: mistyped texts; noisy, blurred, JPEG-compressed images.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Tell what would go, the time and the memory; write nothing."
        )
        add_engine_flag(parser)
        add_base_model_flag(parser)
        parser.add_argument(
            "--include-modeling-code",
            action="store_true",
            help="Add code that loads the result with trust_remote_code=True where optimum-grail is not installed.",
        )
        add_loading_flags(parser)
        add_output_flags(parser)
        groups = {name: parser.add_argument_group(name) for name in dict.fromkeys(option.group for option in OPTIONS)}
        for option in OPTIONS:
            add_option(groups[option.group], option)

    def run(self) -> None:
        """Check what can be checked at once, then compress, save and report."""
        with session(self.args, shared=True) as out:
            target = check_output(self.args.output, self.args.overwrite or self.args.resume, source=self.args.model)
            from optimum_grail.processes.joining import joined
            from optimum_grail.proposals.reading import serving_maps

            with serving_maps(self.args.map), joined() as ranks:
                _compress(self.args, out, target, ranks)
            if self.args.map is not None and not self.args.dry_run:
                line = "Loading it needs the map: first call register_architecture(spec) with every spec of its SPECS."
                out.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _compress(args: Namespace, out: Session, target: Path, ranks: Ranks) -> None:
    """The run itself, while the maps of ``--map`` serve; the first of the processes says and writes."""
    from optimum_grail.compressor import GrailCompressor
    from optimum_grail.evaluation.sets import by_spelling
    from optimum_grail.report.progress import RichProgress, Silent
    from optimum_grail.report.table import print_report

    engine = beside(args, target)
    config = _configuration(args, engine.wishes if engine else {})
    if engine:
        engine.target.check_settings(config)
    compressor = GrailCompressor.from_pretrained(
        args.model,
        config,
        dtype=args.dtype,
        device=args.device,
        trust_remote_code=args.trust_remote_code,
        allow_pickle=args.allow_pickle,
        base_model=args.base_model,
    )
    measured = {"eval_dataset": by_spelling(args.eval_dataset), "robustness": args.robustness}
    progress = RichProgress() if ranks.first else Silent()
    if args.dry_run:
        found = compressor.forecast(**measured, progress=progress)
        for line in found.lines():
            out.console.print(line, markup=False, highlight=False, soft_wrap=True)
        out.result = {"output": None, "forecast": found.to_dict()}
        return
    places = {"save_directory": target, "overwrite": args.overwrite, "resume": args.resume}
    try:
        compressor.compress(**measured, **places, progress=progress, include_modeling_code=args.include_modeling_code)
    finally:
        progress.finish()
    print_report(compressor.report, out.console)
    out.console.print(f"Written to {target}", markup=False, highlight=False, soft_wrap=True)
    out.result = {"output": str(target), "report": compressor.report.to_dict()}
    if engine is not None and ranks.first:
        out.result["export"] = engine.write(out.console).to_dict()


def _configuration(args: Namespace, wishes: Mapping[str, Any]) -> GrailConfig:
    """What flags and file ask for; a misspelt method or path is told before the model is loaded."""
    from optimum_grail.config.config import GrailConfig
    from optimum_grail.config.recipe import read_recipe
    from optimum_grail.data.parts import check_sources
    from optimum_grail.evaluation.sets import check_sets

    asked = settings(args, read_recipe(args.config) if args.config else {})
    config = GrailConfig.from_dict({**wishes, **asked})
    config.methods()
    if args.config and isinstance(config.dataset, str) and DESCRIBED.fullmatch(config.dataset):
        raise ConfigError(f"The run of {args.config} had data in memory ({config.dataset}). Name some with --dataset.")
    check_sources(config.dataset)
    check_sets(args.eval_dataset)
    return config


def settings(args: Namespace, file: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's keyword arguments: flags that were given win over ``file``.

    A flag of a size replaces every size of the file, since the ways to state one exclude each other; options of a
    method that a flag spells replace the file's fields of that meaning.
    """
    flags = {name: value for name, value in vars(args).items() if name in BY_NAME}
    replaced = set(BUDGETS) if set(flags) & set(BUDGETS) else set()
    for part, fields in OVERRIDES.items():
        spelled = parse_method(flags[part])[1] if part in flags else {}
        replaced |= {name for name, option in fields.items() if option in spelled}
    kept = {key: value for key, value in file.items() if key not in replaced}
    preset = str(flags.get("preset", file.get("preset")))
    known = presets()
    shadowed = [key for key in known[preset].values if kept.get(key) is not None] if preset in known else []
    if shadowed and preset != file.get("preset"):
        sys.stderr.write(f"Warning: {args.config} sets {', '.join(shadowed)}, which wins over --preset {preset}.\n")
    return {**kept, **flags}
