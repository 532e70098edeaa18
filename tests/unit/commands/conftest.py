"""A parser with the command in it, and a report to hand out."""

from __future__ import annotations

import pytest
from optimum.commands.base import RootOptimumCLICommand

from optimum_grail.commands.grail import GrailCommand


@pytest.fixture
def cli():
    """Parse and run ``optimum-cli`` with these words in this process; returns the exit code."""

    def run(*words: str) -> int:
        args = parse(*words)
        try:
            args.func(args).run()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def parse_words():
    return parse


def parse(*words: str):
    root = RootOptimumCLICommand("optimum-cli")
    GrailCommand(root.subparsers)
    return root.parser.parse_args(list(words))
