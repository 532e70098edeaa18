"""``optimum-cli grail``, the parent of the subcommands; light, because every ``optimum-cli`` call imports it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from optimum_grail.commands._interrupt import end_on_interrupt_
from optimum_grail.commands._shared import describe
from optimum_grail.commands.benchmark import BenchmarkCommand
from optimum_grail.commands.card import CardCommand
from optimum_grail.commands.compress import CompressCommand
from optimum_grail.commands.convert_adapter import ConvertAdapterCommand
from optimum_grail.commands.evaluate import EvaluateCommand
from optimum_grail.commands.export import ExportCommand
from optimum_grail.commands.inspect_model import InspectCommand
from optimum_grail.commands.list_methods import ListCommand
from optimum_grail.commands.push import PushCommand
from optimum_grail.commands.recover import RecoverCommand
from optimum_grail.commands.report import ReportCommand
from optimum_grail.commands.sweep import SweepCommand
from optimum_grail.commands.trim_vocabulary import TrimVocabularyCommand

EXAMPLES = """\
  optimum-cli grail compress -m MODEL -o small                 a fifth of the blocks' parameters, default method
  optimum-cli grail evaluate -m small --dataset text.txt --metric perplexity
  optimum-cli grail benchmark -m MODEL -m small                how much faster it is
  optimum-cli grail sweep -m MODEL -o sweep --eval-dataset text.txt    several sizes, a table and a plot
  optimum-cli grail report small -o report.html                all of it as a page for a browser
  optimum-cli grail inspect -m MODEL                           what can shrink, and how far
  optimum-cli grail list presets                               the methods"""


class GrailCommand(BaseOptimumCLICommand):
    """Prints help; the work is in the subcommands."""

    COMMAND = CommandInfo(
        name="grail", help="Make models smaller without training: structured pruning with closed-form compensation."
    )
    SUBCOMMANDS = (
        CommandInfo("compress", "Compress a model, save it and evaluate it.", CompressCommand),
        CommandInfo("sweep", "Many methods and sizes from one calibration.", SweepCommand),
        CommandInfo("evaluate", "Measure a dense or compressed model.", EvaluateCommand),
        CommandInfo("benchmark", "Measure how fast models are, in turns.", BenchmarkCommand),
        CommandInfo("recover", "Train a compressed model shortly on the dense model's answers.", RecoverCommand),
        CommandInfo("trim-vocabulary", "Leave out the tokens that a text never needs.", TrimVocabularyCommand),
        CommandInfo("export", "Write a model for another engine, such as llama.cpp.", ExportCommand),
        CommandInfo("convert-adapter", "Carry a LoRA adapter over to a compressed model.", ConvertAdapterCommand),
        CommandInfo("report", "Write a page for a browser from what a folder holds.", ReportCommand),
        CommandInfo("card", "Write the card of a compressed model again.", CardCommand),
        CommandInfo("push", "Publish a compressed model on the Hub.", PushCommand),
        CommandInfo("inspect", "Show what of a model can shrink, and how far.", InspectCommand),
        CommandInfo("list", "List presets, methods, architectures and export targets.", ListCommand),
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Text only; from here on Ctrl-C is met."""
        end_on_interrupt_(sys.argv)
        describe(parser, str(GrailCommand.COMMAND.help), EXAMPLES)
