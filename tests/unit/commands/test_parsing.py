"""Flags of ``optimum-cli grail``."""

from __future__ import annotations

import argparse

import pytest

from optimum_grail.commands.compress import settings
from optimum_grail.commands.grail import GrailCommand
from optimum_grail.config.options import OPTIONS

COMPRESS = ("grail", "compress", "-m", "model", "-o", "out")


def flags_of(parse_words):
    parser = parse_words(*COMPRESS).func(argparse.Namespace()).parser
    return {flag: action for action in parser._actions for flag in action.option_strings}


def test_every_field_is_a_flag_with_dashes_and_nothing_else_looks_like_one(parse_words):
    flags = flags_of(parse_words)
    own = {"-h", "--help", "-m", "--model", "-o", "--output", "--overwrite", "--config", "--eval-dataset", "--dtype"}
    own |= {"--device", "--trust-remote-code", "--json", "--debug", "--no-affine", "--no-standalone"}
    own |= {"--no-drop-layers", "--no-offload-streams", "--no-low-memory", "--allow-pickle", "--dry-run", "--resume"}
    own |= {"--base-model", "--include-modeling-code", "--robustness", "--for", "--map"}
    assert set(flags) - own == {option.flag for option in OPTIONS}
    assert {option.flag: flags[option.flag].dest for option in OPTIONS} == {o.flag: o.name for o in OPTIONS}


def test_flags_not_given_leave_no_trace(parse_words):
    assert settings(parse_words(*COMPRESS), {}) == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--sparsity 0.3", {"sparsity": 0.3}),
        ("--ffn-sparsity .5 --head-sparsity 0.25", {"ffn_sparsity": 0.5, "head_sparsity": 0.25}),
        ("--selector magnitude:p=2 --compensator none", {"selector": "magnitude:p=2", "compensator": "none"}),
        ("--ridge auto --tau 0.5", {"ridge": "auto", "tau": 0.5}),
        ("--ridge 1e-3", {"ridge": 1e-3}),
        ("--affine --no-standalone", {"affine": True, "standalone": False}),
        ("--no-affine --standalone", {"affine": False, "standalone": True}),
        ("--allow-recompress --seed 0 --round-to 64", {"allow_recompress": True, "seed": 0, "round_to": 64}),
        ("--budget kv-cache --drop-layers --protect 0 -1 layers.*.mlp", None),
        ("--target-bytes 60MB --no-drop-layers", {"target_bytes": 60_000_000, "drop_layers": False}),
        ("--target-parameters 1.1B", {"target_parameters": 1_100_000_000}),
        ("--dataset self --dataset-config-name x --split train[:10]", None),
        ("--within-block joint --anchor zero --target dense", None),
        ("--dataset corpus.txt", {"dataset": "corpus.txt"}),
        ("--dataset self:starts=chat", {"dataset": "self:starts=chat"}),
        ("--dataset self corpus.txt:2", {"dataset": {"corpus.txt": 2, "self": 1}}),
        ("--dataset a:split=x,weight=3 C:/b.txt:0.5", {"dataset": {"a:split=x": 3, "C:/b.txt": 0.5}}),
    ],
)
def test_words_become_checked_values(parse_words, words, expected):
    found = settings(parse_words(*COMPRESS, *words.split()), {})
    assert found == expected or (expected is None and len(found) == 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sparsity 1.5", "sparsity is 1.5; expected a number in (0, 1)"),
        ("--sparsity half", "sparsity is 'half'"),
        ("--ffn-sparsity 0", "ffn_sparsity is 0"),
        ("--num-samples 0", "expected a whole number >= 1"),
        ("--tau 2", "expected auto or a number in [0, 1]"),
        ("--target other", "expected self, dense or residual"),
        ("--preset grial", "Did you mean 'grail'"),
        ("--selector wanda:", "is not a method"),
        ("--dataset a.txt:0 self", "weight of the source 'a.txt' is 0.0; expected a positive number"),
        ("--dataset a.txt:1 a.txt:2", "'a.txt' is there 2 times"),
        ("--dataset self:start=chat", "Did you mean 'starts'"),
        ("--dtype int8", "invalid choice"),
        ("--nonsense", "unrecognized arguments"),
        ("--sparsty .3", "unrecognized argument: --sparsty. Did you mean --sparsity?"),
        ("--num-sample=3 --datset x", "Did you mean --dataset?"),
        ("--target-bytes 3TT", "target_bytes is '3TT'; expected a whole number >= 1, such as 60MB"),
        ("--budget money", "expected parameters, flops, kv-cache, latency or bytes"),
    ],
)
def test_bad_words_exit_2_with_the_accepted_range(parse_words, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        parse_words(*COMPRESS, *words.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", ["compress", "compress -m x", "inspect", "list nothing"])
def test_missing_or_wrong_arguments_exit_2(parse_words, words):
    with pytest.raises(SystemExit) as end:
        parse_words("grail", *words.split())
    assert end.value.code == 2


@pytest.mark.parametrize("command", ["compress", "evaluate", "benchmark", "inspect", "list"])
def test_help_teaches_by_example(parse_words, capsys, command):
    with pytest.raises(SystemExit) as end:
        parse_words("grail", command, "--help")
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert f"examples:\n  optimum-cli grail {command}" in shown


def test_bare_command_prints_help(cli, capsys):
    assert cli("grail") == 0
    shown = capsys.readouterr().out
    assert all(f"    {command.name} " in shown for command in GrailCommand.SUBCOMMANDS)


@pytest.mark.parametrize(
    ("file", "words", "expected"),
    [
        ({"sparsity": 0.3, "seed": 1}, "--seed 2", {"sparsity": 0.3, "seed": 2}),
        ({"sparsity": 0.3}, "--ffn-sparsity 0.5", {"ffn_sparsity": 0.5}),
        ({"ffn_sparsity": 0.3, "head_sparsity": 0.2}, "--sparsity 0.5", {"sparsity": 0.5}),
        ({"selector": "obs"}, "", {"selector": "obs"}),
        ({"target_bytes": 5, "seed": 1}, "--sparsity 0.5", {"sparsity": 0.5, "seed": 1}),
        ({"sparsity": 0.5}, "--target-bytes 5k", {"target_bytes": 5000}),
        (
            {"ridge": 0.1, "tau": "auto"},
            "--compensator grail-plus:ridge=1",
            {"tau": "auto", "compensator": "grail-plus:ridge=1"},
        ),
        (
            {"drop_layers": False, "protect": "0"},
            "--allocation knapsack:depth=true",
            {"protect": "0", "allocation": "knapsack:depth=true"},
        ),
    ],
)
def test_flags_win_over_the_file(parse_words, file, words, expected):
    assert settings(parse_words(*COMPRESS, *words.split()), file) == expected


def test_file_that_wins_over_a_preset_flag_is_told(parse_words, capsys):
    args = parse_words(*COMPRESS, "--config", "c.json", "--preset", "wanda")
    assert settings(args, {"selector": "obs", "compensator": None})["selector"] == "obs"
    assert "c.json sets selector, which wins over --preset wanda" in capsys.readouterr().err
