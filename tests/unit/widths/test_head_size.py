"""How many dimensions heads keep, which pairs these are, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.cohere import COHERE
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import SPECS as RESNET
from optimum_grail.architectures.t5 import SPECS as T5
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import ArchitectureError, BudgetError, ConfigError
from optimum_grail.models.resolve import resolve
from optimum_grail.survey.findings import Findings
from optimum_grail.widths.allocate import allocate, check_request
from optimum_grail.widths.head_size import head_notes, new_head_sizes, pairs_left, why_rigid
from optimum_grail.widths.request import Request


def request_of(layout: Any, **asked: Any) -> Request:
    return Request.of(GrailConfig(**asked), layout, layout.block_parameters)


def findings(*damages: float) -> Findings:
    """What is lost without each pair."""
    return Findings(signals={"rotation-pairs": {"model": torch.tensor(damages).double()}})


def test_sizes_are_even_and_asked_for() -> None:
    layout = resolve(tiny_llama())
    for fraction, size in ((0.25, 6), (0.3, 6), (0.5, 4), (0.9, 2), (0.99, 2)):
        assert new_head_sizes(layout, request_of(layout, head_dim_sparsity=fraction)) == {"model": size}
    assert new_head_sizes(layout, request_of(layout, ffn_sparsity=0.5)) == {}
    assert pairs_left(layout, request_of(layout, ffn_sparsity=0.5), findings(1, 2, 3, 4)) == {}


def test_one_set_of_pairs_for_all_layers() -> None:
    layout = resolve(tiny_llama())
    request = request_of(layout, head_dim_sparsity=0.5)
    found = pairs_left(layout, request, findings(2, 3, 5, 2.5))
    assert found["model"].tolist() == [1, 2]
    assert pairs_left(layout, request, Findings()) == {}


def test_the_allocation_hands_them_on() -> None:
    layout = resolve(tiny_llama())
    request = request_of(layout, head_dim_sparsity=0.5, ffn_sparsity=0.5)
    widths = allocate(layout, request, Uniform(), lambda groups, width: True, findings(4, 1, 3, 2))
    assert widths.pairs["model"].tolist() == [0, 2] and widths.kept["model.layers.0.mlp"] == 24
    assert widths.kept["model.layers.0.heads"] == 4 and any("Heads keep 4" in note for note in widths.notes)


def test_sizes_that_engines_have_are_not_warned_of() -> None:
    layout = resolve(tiny_llama())
    assert len(head_notes(layout, request_of(layout, head_dim_sparsity=0.5))) == 1
    assert head_notes(layout, request_of(layout, head_sparsity=0.5)) == []


def test_a_pair_is_the_least() -> None:
    layout = resolve(tiny_llama())
    with pytest.raises(BudgetError, match=r"all 8 dimensions of a head: they go in pairs\. Ask for at least 0\.25"):
        new_head_sizes(layout, request_of(layout, head_dim_sparsity=0.1))
    assert new_head_sizes(layout, request_of(layout, head_dim_sparsity=0.126)) == {"model": 6}
    assert new_head_sizes(layout, request_of(layout, head_dim_sparsity=0.25)) == {"model": 6}, "what the message says"


def test_heads_that_are_to_stay_are_missed_before_anything_is_measured() -> None:
    layout = resolve(tiny_llama())
    request = request_of(layout, head_dim_sparsity=0.5)
    with pytest.raises(BudgetError, match=r"protect keeps 'model\.layers\.1\.heads' whole"):
        check_request(layout, request, Uniform(protect="1"), lambda groups, width: True)
    assert check_request(layout, request, Uniform(protect="mlp"), lambda groups, width: True) == ()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (tiny_bert, "no rotary positions"),
        (COHERE.example, "neighbouring dimensions"),
        (T5[0].example, "their map names"),
    ],
)
def test_why_heads_cannot_is_said(build: Any, reason: str) -> None:
    layout = resolve(build())
    with pytest.raises(ArchitectureError, match=reason):
        new_head_sizes(layout, request_of(layout, head_dim_sparsity=0.5))
    assert reason in why_rigid(layout, next(group.name for group in layout.groups if group.kind == "heads"))


def test_a_model_without_heads_is_refused() -> None:
    layout = resolve(RESNET[0].example())
    with pytest.raises(BudgetError, match="no attention heads"):
        new_head_sizes(layout, request_of(layout, head_dim_sparsity=0.5))


@pytest.mark.parametrize("other", [{"sparsity": 0.2}, {"target_parameters": 10_000}, {"target_bytes": "1MB"}])
def test_one_size_only(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="head_dim_sparsity"):
        GrailConfig(head_dim_sparsity=0.2, **other)


def test_the_fraction_is_kept_in_the_configuration() -> None:
    config = GrailConfig(head_dim_sparsity=0.25, ffn_sparsity=0.1).resolved()
    assert config.sparsity is None and GrailConfig.from_dict(config.to_dict()).head_dim_sparsity == 0.25
    for wrong in (0, 1, -0.5, 2):
        with pytest.raises(ConfigError):
            GrailConfig(head_dim_sparsity=wrong)
