"""The table of configuration fields: one row per field of ``GrailConfig`` and per flag of ``grail compress``.

Pure data; nothing heavy is imported, because every ``optimum-cli`` call reads this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from optimum_grail.config.presets import DEFAULT_PRESET
from optimum_grail.config.run_options import RUN_OPTIONS
from optimum_grail.config.values import Option

_METHOD = "NAME or NAME:key=value,..."
_BUDGET, _METHODS, _DATA = "budget", "methods", "calibration data"

OPTIONS: tuple[Option, ...] = (
    Option(
        "sparsity",
        "fraction",
        None,
        "Fraction of the parameters inside the repeated blocks (or of --budget) that goes; 0.2 when no size is given.",
        "a number in (0, 1)",
        _BUDGET,
    ),
    Option(
        "ffn_sparsity",
        "fraction",
        None,
        "Fraction of the feed-forward channels that goes.",
        "a number in (0, 1)",
        _BUDGET,
    ),
    Option(
        "head_sparsity", "fraction", None, "Fraction of the attention heads that goes.", "a number in (0, 1)", _BUDGET
    ),
    Option(
        "head_dim_sparsity",
        "fraction",
        None,
        "Fraction of the dimensions inside every attention head that goes: rotation pairs of queries and keys, and as "
        "much of the values (head_dim). Also saves key-value cache.",
        "a number in (0, 1)",
        _BUDGET,
    ),
    Option(
        "channel_sparsity",
        "fraction",
        None,
        "Fraction of the convolutions' inner channels that goes.",
        "a number in (0, 1)",
        _BUDGET,
    ),
    Option(
        "expert_sparsity",
        "fraction",
        None,
        "Fraction of a mixture's experts that goes, equally many in every layer.",
        "a number in (0, 1)",
        _BUDGET,
    ),
    Option(
        "experts",
        "count",
        None,
        "Experts that every layer of a mixture keeps, at least as many as a token goes through.",
        "a whole number >= 1",
        _BUDGET,
    ),
    Option(
        "expert_ffn_sparsity",
        "fraction",
        None,
        "Fraction of the channels inside each of a mixture's experts that goes, equally many in every expert.",
        "a number in (0, 1)",
        _BUDGET,
    ),
    Option(
        "target_parameters",
        "parameters",
        None,
        "Instead of a fraction: parameters that the whole model shall have afterwards.",
        "a whole number >= 1, such as 100M or 1.1B",
        _BUDGET,
    ),
    Option(
        "target_bytes",
        "bytes",
        None,
        "Instead of a fraction: bytes that all weights of the saved model shall have together.",
        "a whole number >= 1, such as 60MB or 2GiB",
        _BUDGET,
    ),
    Option(
        "budget",
        "choice",
        None,
        "What --sparsity is a fraction of: the blocks' parameters (the default), operations per sample, keys and "
        "values per token, measured time, or bytes.",
        "parameters, flops, kv-cache, latency or bytes",
        _BUDGET,
        ("parameters", "flops", "kv-cache", "latency", "bytes"),
    ),
    Option(
        "protect",
        "patterns",
        None,
        "What stays whole: positions of layers (0 is the first, -1 the last) or patterns of names (heads, layers.0, "
        "'layers.*.mlp').",
        "positions of layers, or patterns of names of layers or of what shrinks in them",
        _BUDGET,
    ),
    Option(
        "drop_layers",
        "switch",
        None,
        "Whole layers may go too, where that does less damage.",
        "true or false",
        _BUDGET,
    ),
    Option(
        "round_to",
        "count",
        None,
        "Widths of feed-forward and convolution layers, and numbers of experts, are multiples of this.",
        "a whole number >= 1",
        _BUDGET,
    ),
    Option(
        "pattern",
        "ratio",
        None,
        "N:M, such as 2:4: of M neighbouring weights of every linear layer N stay, after what else goes. Without a "
        "size nothing else goes.",
        "N:M",
        _BUDGET,
    ),
    Option(
        "preset",
        "preset",
        DEFAULT_PRESET,
        "Named combination of methods (`grail list presets`).",
        "a preset's name",
        _METHODS,
    ),
    Option("selector", "method", None, "Which heads and channels stay (`grail list selectors`).", _METHOD, _METHODS),
    Option(
        "expert_selector",
        "method",
        None,
        "Which experts of a mixture stay, where some go: reap, frequency, random or magnitude; reap when not given.",
        _METHOD,
        _METHODS,
    ),
    Option(
        "compensator",
        "method",
        None,
        "How the layer after them is refitted to make up for the rest (`grail list compensators`).",
        _METHOD,
        _METHODS,
    ),
    Option(
        "refit",
        "method",
        None,
        "What becomes of the layers before the cut: none leaves what stays of them as it was, producers moves it to "
        "where the layer after them needs it (`grail list refits`).",
        _METHOD,
        _METHODS,
    ),
    Option(
        "allocation",
        "method",
        None,
        "How the cuts are shared among the layers (`grail list allocations`).",
        _METHOD,
        _METHODS,
    ),
    Option(
        "target",
        "choice",
        None,
        "What a refitted layer shall reproduce: its own output before the cut, that of the same layer in the dense "
        "(uncompressed) model, or the sum after it there (the residual stream).",
        "self, dense or residual",
        _METHODS,
        ("self", "dense", "residual"),
    ),
    Option(
        "ridge",
        "amount",
        None,
        "Strength that keeps a refit near --anchor (ridge regression), relative to the data; auto: what does best on "
        "calibration data that the refit has not seen.",
        "auto or a number >= 0",
        _METHODS,
    ),
    Option(
        "tau",
        "share",
        None,
        "Share of the error made by earlier layers that a refit corrects; auto: what does best on calibration data "
        "that it has not seen.",
        "auto or a number in [0, 1]",
        _METHODS,
    ),
    Option(
        "anchor",
        "choice",
        None,
        "What --ridge pulls a refitted weight towards: zero, or the weight that is left of the original.",
        "zero or naive",
        _METHODS,
        ("zero", "naive"),
    ),
    Option(
        "pattern_selector",
        "method",
        "grail",
        "Which weights a pattern leaves, and their values: grail, sparsegpt, wanda or magnitude.",
        _METHOD,
        _METHODS,
    ),
    Option("affine", "switch", None, "Also refit the bias.", "true or false", _METHODS),
    Option(
        "within_block",
        "choice",
        None,
        "Compress attention and feed-forward network of a layer one after the other, or from one look at both.",
        "sequential or joint",
        _METHODS,
        ("sequential", "joint"),
    ),
    Option(
        "dataset",
        "data",
        None,
        "Calibration data: a .txt, .jsonl, .csv or .parquet file, an image folder, a Hub id, 'general' (text of many "
        "genres that comes with the package), or 'self' (a causal language model writes its own). Without any, a "
        "causal language model is calibrated on general:2 self:1. Several sources share the samples by weight: "
        "general:2 self:1. A source's options: corpus.txt:split=test or "
        "self:temperature=0.9,top_p=0.95,starts=random|frequent|general|chat,loops=restart.",
        "a source's name or path, a mapping from sources to weights, a list of texts, or a datasets.Dataset",
        _DATA,
    ),
    Option("dataset_config_name", "text", None, "Configuration of a Hub data set.", "a name", _DATA),
    Option(
        "split", "text", None, "Split of the data set; slices such as train[:1000] work too.", "a split's name", _DATA
    ),
    Option("text_column", "text", None, "Column that holds the text.", "a column's name", _DATA),
    Option("image_column", "text", None, "Column that holds the images.", "a column's name", _DATA),
    Option(
        "label_column",
        "text",
        None,
        "Column that holds each row's class, for the gradients that taylor, snip and fisher read; by default a "
        "classifier's own predictions.",
        "a column's name",
        _DATA,
    ),
    Option(
        "num_samples", "count", 128, "Calibration samples (text windows, rows or images).", "a whole number >= 1", _DATA
    ),
    Option(
        "seqlen",
        "count",
        None,
        "Tokens per sample; the model's positions, at most 512, when not given.",
        "a whole number >= 1",
        _DATA,
    ),
    Option(
        "batch_size", "count", None, "Samples per forward pass; chosen when not given.", "a whole number >= 1", _DATA
    ),
    *RUN_OPTIONS,
)

BY_NAME: Mapping[str, Option] = MappingProxyType({option.name: option for option in OPTIONS})
DEFAULT_SPARSITY = 0.2
OVERRIDES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "selector": {},
        "compensator": {name: name for name in ("target", "ridge", "tau", "anchor", "affine")},
        "allocation": {"round_to": "round_to", "budget": "budget", "protect": "protect", "drop_layers": "depth"},
        "refit": {},
    }
)
"""Fields that set an option of the chosen method, and that option's name."""
