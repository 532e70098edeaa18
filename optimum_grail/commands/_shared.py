"""What the subcommands share: flags, the console, and how an error ends a command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import traceback
import warnings
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from optimum_grail.commands._interrupt import INTERRUPTED, NOTHING_WRITTEN, interruptible
from optimum_grail.commands._processes import is_first, refuse_several
from optimum_grail.config.mixture import Mixture
from optimum_grail.config.options import BY_NAME
from optimum_grail.config.values import Option
from optimum_grail.errors import GrailError, nearest

if TYPE_CHECKING:
    from rich.console import Console

DTYPES = ("auto", "float32", "bfloat16", "float16")
BAD_INPUT, FAILURE = 2, 1
NOISE: Mapping[str, str] = {
    "torchao": "Failed to load ",
    "accelerate.big_modeling": "Some parameters are on the meta device",
    "torch.utils._pytree": "%s is an Enum subclass and is now natively supported",
    "transformers.integrations.heterogeneity.configuration_utils": "Reading global config value for ",
}
"""How messages begin that libraries log whatever a user does, by the name of their logger. transformers imports
torchao wherever it is installed; neither what it lacks nor how it uses torch concerns a user of these commands, nor
where weights are until they are needed. And it reads every field of a config whose layers differ only to check it, and
warns whoever does that."""
BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""What Hugging Face's libraries read, once, when they are imported: a bar is for a terminal, not for a log."""


@dataclass
class Session:
    """One command's run.

    Args:
        console: for people: standard output, or standard error with ``--json``.
        result: what ``--json`` prints.
    """

    console: Console
    result: dict[str, Any] = field(default_factory=dict)


@contextmanager
def session(args: Namespace, shared: bool = False) -> Iterator[Session]:
    """Run a command's body: prints its JSON, turns errors into one line and an exit code.

    Args:
        args: of the command.
        shared: whether several processes can share it; the first of them speaks. Other commands refuse several.

    Raises:
        SystemExit: 2 for bad input (a ``GrailError``), 130 for Ctrl-C, 1 for anything else that fails.
    """
    with interruptible() as interrupted:
        yield from _guarded(args, interrupted, shared)


def _guarded(args: Namespace, interrupted: Callable[[], bool], shared: bool) -> Iterator[Session]:
    stdout = sys.stdout
    try:
        if not shared:
            refuse_several()
        with quiet(), warnings.catch_warnings(), redirect_stdout(sys.stderr if args.json is True else stdout):
            warnings.showwarning = _one_line(warnings.showwarning)
            from rich.console import Console  # costs more than every other import of a plain --help

            current = Session(Console(quiet=not is_first()))
            yield current
        if args.json is True and is_first():  # and not a file that the command has written
            stdout.write(json.dumps(current.result, indent=2, allow_nan=False) + "\n")
    except GrailError as error:
        _fail(args, str(error), BAD_INPUT)
    except KeyboardInterrupt as stop:
        _fail(args, str(stop) or NOTHING_WRITTEN, INTERRUPTED)
    except Exception as error:  # the last resort of a program: one line instead of a traceback
        if interrupted():
            _fail(args, NOTHING_WRITTEN, INTERRUPTED)
        _fail(args, f"{type(error).__name__}: {error} (--debug shows where)", FAILURE)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the messages of :data:`NOISE` off standard error, and bars where it is no terminal; everything else that is
    logged comes through."""
    if not sys.stderr.isatty():
        for name in BARS:
            os.environ.setdefault(name, "1")

    def wanted(record: logging.LogRecord) -> bool:
        """Whether a record is none of the noise of its logger."""
        return not str(record.msg).startswith(NOISE[record.name])

    loggers = [logging.getLogger(name) for name in NOISE]
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)


def _fail(args: Namespace, message: str, code: int) -> None:
    if args.debug:
        traceback.print_exc()
    sys.stderr.write(f"Error: {message}\n")
    raise SystemExit(code)


def _one_line(fallback: Callable[..., None]) -> Callable[..., None]:
    """Show the warnings that are meant for users as one line, and the others as usual."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """One line for a warning, without file and line number."""
        if category is UserWarning:
            sys.stderr.write(f"Warning: {message}\n")
        else:
            fallback(message, category, filename, lineno, file, line)

    return show


def describe(parser: ArgumentParser, description: str, examples: str) -> None:
    """Give ``parser`` its text and examples, line breaks kept, and let it say which flag was probably meant."""
    parser.description = description
    parser.epilog = f"examples:\n{examples}"
    parser.formatter_class = RawDescriptionHelpFormatter
    read = parser.parse_known_args

    def parse_known_args(*args: Any, **kwargs: Any) -> tuple[Namespace, list[str]]:
        """As argparse, which leaves unknown flags to the root parser, where nobody knows ours."""
        namespace, rest = read(*args, **kwargs)
        for word in (word.partition("=")[0] for word in rest if word.startswith("--")):
            flags = [flag.lstrip("-") for action in parser._actions for flag in action.option_strings]
            if guess := nearest(word.lstrip("-"), flags):
                parser.error(f"unrecognized argument: {word}. Did you mean --{guess}?")
        return namespace, rest

    vars(parser)["parse_known_args"] = parse_known_args


def add_model_flag(parser: ArgumentParser) -> None:
    """``--model``."""
    parser.add_argument("-m", "--model", required=True, metavar="MODEL", help="Model folder or Hub id.")


def add_map_flag(parser: ArgumentParser) -> None:
    """``--map``."""
    parser.add_argument(
        "--map",
        metavar="FILE",
        help="Python file with SPECS, the maps of a family that has none (`grail inspect --propose` writes one). It is "
        "code and runs: read it first. It wins over a registered map of the same model type.",
    )


def add_base_model_flag(parser: ArgumentParser) -> None:
    """``--base-model``."""
    parser.add_argument(
        "--base-model", metavar="ID", help="Hub id of the dense model, for the card; never a path of this machine."
    )


def add_eval_flag(parser: ArgumentParser, text: str) -> None:
    """``--eval-dataset``, one or several."""
    parser.add_argument("--eval-dataset", nargs="+", metavar="SRC", help=text)


def add_loading_flags(parser: ArgumentParser) -> None:
    """How the model is loaded."""
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="Type of the weights; auto: the checkpoint's.")
    parser.add_argument(
        "--device", metavar="DEVICE", help="Torch device, for example cpu or cuda:0; by default chosen."
    )
    parser.add_argument(
        "--allow-pickle", action="store_true", help="Read weights from pytorch_model.bin where no safetensors are."
    )
    add_trust_flag(parser)


def add_trust_flag(parser: ArgumentParser) -> None:
    """``--trust-remote-code``."""
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that the model's repository brings.")


def add_output_flags(parser: ArgumentParser, file: str = "") -> None:
    """``--json`` and ``--debug``; ``file``: what the help calls the file that ``--json`` may name here."""
    printed = "Print one JSON object and nothing else on stdout."
    if file:
        text = f"Write everything to this file; without one: {printed[0].lower()}{printed[1:]}"
        parser.add_argument("--json", nargs="?", const=True, default=False, metavar=file, help=text)
    else:
        parser.add_argument("--json", action="store_true", help=printed)
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")


def add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    """Add one configuration field as a flag; a flag that is not given leaves no trace in the namespace."""
    notes = [option.accepted] if option.kind in NUMBERS else []
    notes += [f"default {option.default}"] if option.default else []
    text = option.help + (f" ({'; '.join(notes)})" if notes else "")
    settings: dict[str, Any] = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS, "dest": option.name}
    if option.kind == "switch":
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, **settings)
    elif option.kind == "flag":
        group.add_argument(option.flag, action="store_true", **settings)
    elif option.kind == "data":
        group.add_argument(option.flag, nargs="+", action=Sources, metavar=METAVARS["data"], **settings)
    else:
        if option.kind == "patterns":
            settings["nargs"] = "+"
        metavar = "|".join(option.choices) or METAVARS[option.kind]
        group.add_argument(option.flag, type=reader(option), metavar=metavar, **settings)


class Sources(argparse.Action):
    """Keeps a single source as it is spelled, and several as the mapping that a configuration takes."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Read the words; what is wrong with them becomes an error of the command line."""
        try:
            spelled = values[0] if len(values) == 1 else Mixture.of_words(values).to_mapping()
            setattr(namespace, self.dest, BY_NAME["dataset"].check(spelled))
        except GrailError as error:
            raise argparse.ArgumentError(self, str(error)) from None


NUMBERS = ("fraction", "amount", "share", "count", "seed", "parameters", "bytes")
METAVARS: Mapping[str, str] = {
    "preset": "NAME",
    "fraction": "FRACTION",
    "amount": "auto|FLOAT",
    "share": "auto|FLOAT",
    "count": "N",
    "seed": "N",
    "parameters": "N",
    "bytes": "N",
    "patterns": "LAYER",
    "method": "NAME[:k=v,...]",
    "ratio": "N:M",
    "text": "NAME",
    "data": "SRC[:WEIGHT]",
}


def reader(option: Option, flag: str = "") -> Callable[[str], Any]:
    """An ``argparse`` type that reads ``option`` and keeps its message; ``flag``: what else the message shall name."""
    named = dataclasses.replace(option, name=flag) if flag else option

    def read(text: str) -> Any:
        """Parse a value; what is wrong with it becomes an error of the command line."""
        try:
            return named.parse(text)
        except GrailError as error:
            raise ArgumentTypeError(str(error)) from None

    return read
