"""Named combinations of methods: what ``--preset`` means. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from optimum_grail.errors import UnknownNameError


@dataclass(frozen=True)
class Preset:
    """A named combination of methods.

    Args:
        name: what the user writes.
        summary: one line on what it does.
        paper: where it was published.
        needs: one line on what has to be at hand.
        cost: one line on what it costs beyond loading and saving.
        works: one line on where it works.
        values: the configuration fields it sets; a field the user sets wins over it.
    """

    name: str
    summary: str
    paper: str
    needs: str
    cost: str
    works: str
    values: Mapping[str, str]


_GRAIL = "Tang et al. 2026 (GRAIL)"
_FORWARD = "one forward pass"
_SOLVE = "one forward pass, one solve per layer"
_GREEDY = "one forward pass, one inverse and elimination per layer"
_EVERYWHERE = "everywhere"
_SURGEON = "grail:anchor=naive,ridge=0.01"
"""The optimal brain surgeon's weight update with one hundredth of the mean diagonal as damping."""


def _preset(
    name: str,
    summary: str,
    paper: str,
    methods: tuple[str, str, str],
    *,
    within_block: str = "joint",
    needs: str = "calibration data",
    cost: str = _FORWARD,
    works: str = _EVERYWHERE,
) -> Preset:
    selector, compensator, allocation = methods
    values = {"selector": selector, "compensator": compensator, "allocation": allocation, "within_block": within_block}
    return Preset(name, summary, paper, needs, cost, works, MappingProxyType(values))


_OURS = (
    _preset(
        "grail-plus",
        "Greedy exact elimination, consumers refitted to the dense residual stream, one width per kind chosen by "
        "measured damage. The default.",
        "ours, on " + _GRAIL,
        ("obs", "grail-plus", "balanced"),
        within_block="sequential",
        cost="four forward passes and short ones per layer, elimination and solves per layer",
    ),
    _preset(
        "grail",
        "GRAIL as published: Wanda scores, every consumer refitted to the full features by ridge regression.",
        _GRAIL,
        ("wanda", "grail", "uniform"),
        cost=_SOLVE,
    ),
)

_PLAIN = (
    _preset(
        "magnitude",
        "Plain pruning by weight norm; nothing is refitted.",
        "Li et al. 2017",
        ("magnitude", "none", "uniform"),
        needs="no data",
        cost="seconds",
    ),
    _preset(
        "magnitude+grail",
        "Pruning by weight norm, every consumer refitted to the full features by ridge regression.",
        _GRAIL,
        ("magnitude", "grail", "uniform"),
        cost=_SOLVE,
    ),
    _preset(
        "wanda",
        "Plain pruning by weight times activation norm; nothing is refitted.",
        "Sun et al. 2024 (Wanda), structured as in FLAP",
        ("wanda", "none", "uniform"),
    ),
    _preset(
        "wanda+grail",
        "Wanda's selection, every consumer refitted to the full features by ridge regression; the same as grail.",
        _GRAIL,
        ("wanda", "grail", "uniform"),
        cost=_SOLVE,
    ),
    _preset(
        "wandapp",
        "Wanda with gradients of each block's output, and five rounds that tune the block towards its dense output.",
        "Yang et al. 2025 (Wanda++), structured",
        ("wandapp:rounds=5", "none", "uniform"),
        cost="one forward pass, six backward passes per block",
    ),
    _preset(
        "wandapp+grail",
        "Wanda++ with every consumer refitted before the five rounds, so that neither undoes the other.",
        _GRAIL,
        ("wandapp:rounds=5", "grail", "uniform"),
        cost="one forward pass, six backward passes per block, one solve per layer",
    ),
    _preset(
        "flap",
        "Units that fluctuate least go, ranked over the whole model; their means go into biases.",
        "An et al. 2024 (FLAP)",
        ("flap", "bias:affine=true", "flap"),
        cost="two forward passes",
        works="where consumers own biases or the stock config can give them some",
    ),
    _preset(
        "flap+grail",
        "FLAP's selection and widths; consumers refitted by ridge regression, which brings the means back by itself.",
        _GRAIL,
        ("flap", "grail", "flap"),
        cost="two forward passes, one solve per layer",
    ),
    _preset(
        "liar",
        "What is dropped is interpolated from what is kept, by weights and bias. Takes any mask: here Wanda's.",
        "Wang et al. 2024 (LIAR)",
        ("wanda", "liar", "uniform"),
        within_block="sequential",
        cost=_SOLVE,
        works="everywhere; with a bias term where consumers own one (affine=True adds them to a LLaMA)",
    ),
)

_SURGEONS = (
    _preset(
        "slimgpt",
        "Surgeon's pruning in groups that get smaller, weights updated; deeper layers lose more.",
        "Ling et al. 2024 (SlimGPT)",
        ("slimgpt", _SURGEON, "incremental"),
        within_block="sequential",
        cost=_GREEDY,
    ),
    _preset(
        "slimgpt+grail",
        "SlimGPT's selection and widths, GRAIL's readout.",
        _GRAIL,
        ("slimgpt", "grail", "incremental"),
        within_block="sequential",
        cost=_GREEDY,
    ),
    _preset(
        "ziplm",
        "Exact greedy elimination with updated weights; widths by the layers' relative errors, rehearsed against the "
        "uniform ones instead of the paper's random search.",
        "Kurtic et al. 2023 (ZipLM)",
        ("ziplm", _SURGEON, "knapsack:sensitivity=error"),
        cost="two forward passes, two eliminations per layer",
    ),
    _preset(
        "osscar",
        "Elimination in steps, then swaps that lower the loss, weights updated.",
        "Meng et al. 2024 (OSSCAR)",
        ("osscar", _SURGEON, "uniform"),
        within_block="sequential",
        cost="one forward pass, one elimination and some 20 solves per layer",
    ),
    _preset(
        "fisher",
        "Units of least Fisher information go, wherever they are, then rearranged; kept ones rescaled to the dense "
        "model's residual stream.",
        "Kwon et al. 2022",
        ("fisher", "mask-scale", "fisher"),
        within_block="sequential",
        needs="calibration data; labels (--label-column), or the model's own predictions",
        cost="two backward passes, two forward passes, one small solve per layer",
    ),
    _preset(
        "comp",
        "Attention and FFNs of least influence go first, then units that the consumers' conditioning does not need; "
        "what stays is rescaled.",
        "Xu et al. 2025 (COMP), after its abstract",
        ("comp", "mask-scale", "block-influence:drop=0.5,parts=sub-blocks"),
        within_block="sequential",
        cost="three forward passes, one inverse per layer",
        works="everywhere; convolutions lose filters only",
    ),
)

_DATA_FREE = (
    _preset(
        "folding",
        "Similar units are merged instead of dropped, their consumers' columns summed.",
        "Wang et al. 2025 (model folding)",
        ("folding", "none", "uniform"),
        needs="no data",
        cost="one distance matrix per layer",
    ),
    _preset(
        "prunenet",
        "A policy learned on the spectra of the weights decides what stays.",
        "Sengupta et al. 2025 (PruneNet)",
        ("prunenet", "none", "uniform"),
        needs="no data",
        cost="seconds of training per layer; a saved policy serves every ratio",
        works="everywhere; the paper prunes feed-forward layers only (--ffn-sparsity)",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for preset in (*_OURS, *_PLAIN, *_SURGEONS, *_DATA_FREE)}
)

DEFAULT_PRESET = "grail-plus"


def get_preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        UnknownNameError: no such preset; the message names the nearest.
    """
    if name not in PRESETS:
        raise UnknownNameError.among("preset", name, PRESETS, "`optimum-cli grail list presets` describes them.")
    return PRESETS[name]
