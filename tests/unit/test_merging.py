"""The benchmark's way of making one layer of two: what the wide one does, and what a fit leaves of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.config.building import build_method
from optimum_grail.data.batches import make_batches
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent

DRAW = torch.Generator().manual_seed(0)
IDS = torch.randint(3, 90, (40, 24), generator=DRAW)
METHODS = Methods(
    build_method("selector", "obs", {}),
    build_method("compensator", "grail-plus", {}),
    build_method("allocation", "uniform", {}),
)


@pytest.fixture(name="merging")
def _merging(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import _merging

    yield _merging
    for path in (repository / "benchmarks").glob("*.py"):  # other tests import scripts of their own folders
        sys.modules.pop(path.stem, None)


def test_what_goes_is_of_least_harm_and_pairs_do_not_overlap(merging: Any) -> None:
    import depth

    survey = {"influence": [9.0, 1.0, 2.0, 3.0], "drops": [9.0, 3.0, 2.0, 1.0], "pairs": [5.0, 1.0, 4.0]}
    assert depth.chosen(depth.CUT, 2, survey) == depth.chosen(depth.CUT_REFITTED, 2, survey) == (1, 2)
    assert depth.chosen(depth.DROPPED, 2, survey) == (2, 3)
    assert depth.chosen(depth.MERGED, 1, survey) == (1,)
    assert depth.chosen(depth.MERGED, 2, survey) == (0, 2)


def model_with_gains() -> Any:
    """A small LLaMA in eval mode whose norms have gains of their own."""
    model = tiny_llama().eval()
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if "layernorm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5, generator=torch.Generator().manual_seed(index))
    return model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(input_ids=IDS[:8], use_cache=False).logits
    return found


def error(model: nn.Module, expected: Tensor) -> float:
    return float((logits(model) - expected).norm() / (expected - expected.mean((0, 1))).norm())


def test_the_wide_layer_adds_what_both_add_to_the_same_input(merging: Any) -> None:
    model = model_with_gains()
    one, other = model.model.layers[:2]
    wide = merging.side_by_side(one, other)
    hidden = torch.randn(2, 7, 32, generator=DRAW)
    places = model.model.rotary_emb(hidden, torch.arange(7)[None])
    with torch.no_grad():
        added = [m.self_attn(m.input_layernorm(hidden), places, None)[0] for m in (one, other)]
        between = hidden + added[0] + added[1]
        expected = between + sum(m.mlp(m.post_attention_layernorm(between)) for m in (one, other))
        torch.testing.assert_close(wide(hidden, position_embeddings=places), expected, atol=1e-5, rtol=1e-4)


def test_a_layer_of_attention_and_one_of_feed_forward_become_one_of_both(merging: Any) -> None:
    """Nothing is lost where each layer adds what the other does not; dropping either one loses much."""
    model = model_with_gains()
    nn.init.zeros_(model.model.layers[0].mlp.down_proj.weight)
    nn.init.zeros_(model.model.layers[1].self_attn.o_proj.weight)
    expected, shapes = logits(model), {name: p.shape for name, p in model.model.layers[2].named_parameters()}
    batches = make_batches([{"input_ids": ids} for ids in IDS], batch_size=8)
    short = tiny_llama().eval()
    short.load_state_dict(model.state_dict())
    dense = resolve(short)
    FitRun(short, dense, METHODS, dense.widths, batches, 0, Silent(), ["model.layers.0"]).run_()
    drop_blocks_(short, dense, ["model.layers.0"])
    pairs = merging.merge_(model, [0])
    units = {group.kind: group.units for group in dense.groups}
    layout = resolve(model)
    assert layout.group("model.layers.0.mlp").units == 2 * units["mlp"]
    widths = {group.name: units[group.kind] for group in layout.groups}
    merging.MergingRun(model, layout, METHODS, widths, batches, 0, Silent(), merged=pairs).run_()
    assert model.config.num_hidden_layers == 2 and len(model.model.layers) == 2
    assert {name: p.shape for name, p in model.model.layers[0].named_parameters()} == shapes
    assert error(model, expected) < 1e-3 < 0.1 < error(short, expected)
