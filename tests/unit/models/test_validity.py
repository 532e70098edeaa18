"""Plans that do not fit, and modules that cannot be changed, each refused with its own words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError, StatisticsError
from optimum_grail.models.validity import check_kind, from_the_end, readout_of, validate

PLACE = {"block": "", "layer": "0", "owner": "", "stage": 0, "stream": None, "tie": ""}
GROUP = ChannelGroup("mlp", "mlp", 4, (Port("up", "out"),), Port("down", "in"), cost=9, **PLACE)


def model_of() -> nn.ModuleDict:
    return nn.ModuleDict({"up": nn.Linear(3, 4), "down": nn.Linear(4, 2)})


def item_of(weight: Tensor | None = None, bias: Tensor | None = None, *, group: ChannelGroup = GROUP) -> GroupPlan:
    """A plan that keeps two of four units."""
    readout = Readout(torch.ones(2, 2) if weight is None else weight, bias)
    return GroupPlan(group, Reduction.prune(4, torch.tensor([0, 2])), readout)


def test_what_fits_leaves_the_new_sizes() -> None:
    sizes: dict[tuple[str, str], int] = {}
    validate(model_of(), item_of(bias=torch.zeros(2)), sizes)
    assert sizes == {("up", "out"): 2, ("down", "in"): 2}
    with pytest.raises(ArchitectureError, match=r"(up|down) has width 2, but 'mlp' needs 4.*or was applied already"):
        validate(model_of(), item_of(), sizes)


@pytest.mark.parametrize("bias", [torch.zeros(3), torch.tensor([0.0, float("nan")]), torch.zeros(2, 1)])
def test_a_bias_of_another_shape_or_without_values(bias: Tensor) -> None:
    with pytest.raises(StatisticsError, match=r"readout bias of 'mlp' must be 2 finite numbers in torch\.float32"):
        validate(model_of(), item_of(bias=bias), {})


def test_a_bias_that_only_the_readouts_dtype_holds() -> None:
    model, bias = model_of().half(), torch.tensor([1e6, 0.0], dtype=torch.float64)
    validate(model_of(), item_of(bias=bias), {})
    with pytest.raises(StatisticsError, match=r"finite numbers in torch\.float16"):
        validate(model, item_of(bias=bias), {})


def test_a_bias_with_nowhere_to_go() -> None:
    model = model_of()
    model["down"] = nn.Linear(4, 2, bias=False)
    validate(model, item_of(), {})
    with pytest.raises(ArchitectureError, match=r"has a bias, but down has none.*affine=False"):
        validate(model, item_of(bias=torch.zeros(2)), {})


@pytest.mark.parametrize("path", ["up", "down"])
def test_weights_that_are_elsewhere_cannot_be_changed(path: str) -> None:
    model = model_of()
    model.get_submodule(path).to("meta")
    with pytest.raises(ArchitectureError, match=rf"{path}\.weight is on the meta device or offloaded"):
        validate(model, item_of(), {})


class Packed(nn.Parameter):
    """As libraries of quantization make them: a parameter of a class of their own."""


def test_quantized_weights_are_known_by_their_class_or_their_dtype() -> None:
    module = nn.Linear(3, 4)
    check_kind(module, "up")
    module.register_parameter("weight", Packed(torch.zeros(4, 3)))
    with pytest.raises(ArchitectureError, match=r"up\.weight is quantized \(Packed, torch\.float32\)"):
        check_kind(module, "up")
    module.register_parameter("weight", nn.Parameter(torch.zeros(4, 3, dtype=torch.int8), requires_grad=False))
    with pytest.raises(ArchitectureError, match=r"quantized \(Parameter, torch\.int8\).*then quantize the result"):
        check_kind(module, "up")


def test_strips_of_one_module_are_taken_from_its_end() -> None:
    ports = [Port("up", "out", offset=offset) for offset in (0, 8, 4)]
    assert [port.offset for port in from_the_end(ports)] == [8, 4, 0]
    assert [port.offset for port in ports] == [0, 8, 4], "what it was given stays"


def test_a_plan_without_its_readout_was_applied() -> None:
    found = item_of()
    assert readout_of(found) is found.readout
    with pytest.raises(ArchitectureError, match=r"'mlp' has no readout: it was applied already"):
        readout_of(replace(found, readout=None))


def test_a_group_that_cannot_go_altogether_keeps_a_unit() -> None:
    item = replace(item_of(), reduction=Reduction.drop_all(4), readout=Readout(torch.zeros(2, 0)))
    validate(model_of(), item, {})
    lasting = replace(GROUP, uniform="one width")
    with pytest.raises(ArchitectureError, match="reduces 4 units to 0; the group has 4"):
        validate(model_of(), replace(item, group=lasting), {})
