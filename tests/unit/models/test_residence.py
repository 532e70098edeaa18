"""Modules of an offloaded model held in memory for a while: what comes back, what is noticed, what is refused."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import add_hook_to_module
from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset
from torch import Tensor, nn

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.models.residence import (
    Holdings,
    device_of,
    give_,
    hook_of,
    is_offloaded,
    no_gradients,
    parameters_of,
    refuse_empty,
    resident,
    retie_,
    values_of,
)
from optimum_grail.streams.masking import spare

PATH = "model.layers.1.mlp.up_proj"
BLOCK = "model.layers.1"
IDS = torch.arange(3, 12)[None]


@pytest.fixture
def dense() -> nn.Module:
    return tiny_llama().eval()


@pytest.fixture
def model(dense: nn.Module) -> Iterator[nn.Module]:
    offloaded = copy.deepcopy(dense)
    cpu_offload(offloaded, execution_device=torch.device("cpu"))
    yield offloaded


def on_meta(model: nn.Module, path: str = "") -> set[bool]:
    return {parameter.device.type == "meta" for parameter in model.get_submodule(path).parameters()}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def test_a_module_is_there_for_a_while(dense: nn.Module, model: nn.Module) -> None:
    assert is_offloaded(model) and not is_offloaded(dense)
    hook = hook_of(model.get_submodule(PATH))
    with resident(model, BLOCK) as block:
        assert block is model.get_submodule(BLOCK)
        assert on_meta(model, BLOCK) == {False} and on_meta(model, "model.layers.0") == {True}
        assert hook_of(model.get_submodule(PATH)) is None, "a copy of the block would take its hooks along"
        for name, parameter in block.named_parameters():
            assert torch.equal(parameter, dense.get_submodule(BLOCK).get_parameter(name))
        assert torch.equal(logits(model), logits(dense))
    assert on_meta(model) == {True}
    assert hook_of(model.get_submodule(PATH)) is hook
    assert torch.equal(logits(model), logits(dense))


def test_where_nothing_is_offloaded_nothing_happens(dense: nn.Module) -> None:
    before = dict(dense.named_parameters())
    with resident(dense, BLOCK):
        pass
    assert all(parameter is before[name] for name, parameter in dense.named_parameters())


def test_values_come_in_the_dtype_that_the_empty_tensors_have(dense: nn.Module, model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    with resident(model, PATH) as module:
        assert torch.equal(module.get_parameter("weight"), dense.get_submodule(PATH).get_parameter("weight").bfloat16())


def test_what_is_changed_in_place_is_not_what_it_came_from(dense: nn.Module, model: nn.Module) -> None:
    with resident(model, PATH) as module, torch.no_grad():
        module.get_parameter("weight").zero_()
    assert on_meta(model, PATH) == {False}, "nobody keeps it elsewhere"
    assert not logits(model).equal(logits(dense))
    assert dense.get_submodule(PATH).get_parameter("weight").any()


def kept(model: nn.Module, change: Any) -> tuple[list[str], list[bool]]:
    paths: list[str] = []
    places: list[bool] = []

    def keep(path: str, values: Mapping[str, Tensor], in_memory: bool) -> Mapping[str, Tensor]:
        paths.append(path)
        places.append(in_memory)
        return {name: value.clone() for name, value in values.items()}

    with resident(model, BLOCK, keep):
        change(model.get_submodule(PATH))
    return paths, places


def replace(module: nn.Module) -> None:
    weight = module.get_parameter("weight")
    module.register_parameter("weight", nn.Parameter(weight.detach() * 2))


def double(module: nn.Module) -> None:
    with torch.no_grad():
        module.get_parameter("weight").mul_(2)


@pytest.mark.parametrize("change", [replace, double])
def test_changed_modules_are_kept_and_others_are_not(change: Any, dense: nn.Module, model: nn.Module) -> None:
    change(dense.get_submodule(PATH))
    assert kept(model, change) == ([PATH], [True])
    assert on_meta(model) == {True}
    assert torch.equal(logits(model), logits(dense))


def test_the_old_weights_are_let_go_of(model: nn.Module) -> None:
    hook = hook_of(model.get_submodule(PATH))
    assert hook is not None
    held = hook.weights_map
    while isinstance(held, PrefixedDataset):
        held = held.dataset
    held = held.state_dict if isinstance(held, OffloadedWeightsLoader) else held
    names = {name for name in held if name.endswith("1.mlp.up_proj.weight") or name == "weight"}
    assert names
    kept(model, replace)
    assert not names & set(held)


def test_a_failure_leaves_what_is_unchanged_as_it_was(model: nn.Module) -> None:
    before = Holdings.of(model)
    with pytest.raises(KeyboardInterrupt), resident(model, BLOCK):
        raise KeyboardInterrupt
    assert on_meta(model) == {True} and before.unchanged(model)
    with pytest.raises(KeyboardInterrupt), resident(model, BLOCK):
        replace(model.get_submodule(PATH))
        raise KeyboardInterrupt
    assert not before.unchanged(model)


def test_passes_are_no_change(model: nn.Module) -> None:
    before = Holdings.of(model)
    logits(model)
    assert before.unchanged(model)
    kept(model, replace)
    assert not before.unchanged(model)


def test_holdings_keep_nothing_alive(dense: nn.Module) -> None:
    before = Holdings.of(dense)
    assert before.unchanged(dense)
    replace(dense.get_submodule(PATH))
    assert not before.unchanged(dense)
    assert any(ref() is None for ref in before.refs.values())


def test_values_wherever_they_are(dense: nn.Module, model: nn.Module) -> None:
    found = dict(values_of(model))
    assert found.keys() == {name for name, _ in (*dense.named_parameters(), *dense.named_buffers())}
    assert all(torch.equal(found[name], value) for name, value in dense.named_parameters())


def test_empty_tensors_without_a_hook_are_refused(dense: nn.Module, model: nn.Module) -> None:
    refuse_empty(model, {PATH})
    module = dense.get_submodule(PATH)
    module.register_parameter("weight", nn.Parameter(module.get_parameter("weight").to("meta")))
    with pytest.raises(ArchitectureError, match=r"up_proj\.weight is on the meta device and nothing says where"):
        refuse_empty(dense, {PATH})


def test_a_tensor_that_was_not_there_before(model: nn.Module) -> None:
    module = model.get_submodule(PATH)
    bias = torch.arange(48.0)
    module.register_parameter("bias", nn.Parameter(torch.empty(48, device="meta")))
    give_(module, "bias", bias)
    with resident(model, PATH):
        assert torch.equal(module.get_parameter("bias"), bias)
    logits(model)
    assert on_meta(model, PATH) == {True}
    plain = nn.Linear(2, 2)
    give_(plain, "bias", bias)
    assert len(plain.bias) == 2


def test_tied_weights_are_counted_and_saved_once() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=True)).eval()
    expected = sum(parameter.numel() for parameter in model.parameters())
    cpu_offload(model, execution_device=torch.device("cpu"))
    logits(model)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert sum(parameter.numel() for parameter in parameters_of(model)) == expected
    retie_(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.isfinite(logits(model)).all()


def test_where_a_model_computes(dense: nn.Module, model: nn.Module) -> None:
    assert device_of(dense) == device_of(model) == torch.device("cpu")
    assert device_of(dense.to("meta")) == torch.device("meta")


def test_parameters_can_be_cast_after_a_pass(dense: nn.Module, model: nn.Module) -> None:
    """What a hook makes in inference mode could not be."""
    for each in (dense, model):
        with no_gradients(each):
            each(IDS)
        for parameter in each.parameters():
            parameter.data = parameter.data.bfloat16()


def test_a_chain_of_hooks_stays_one(dense: nn.Module, model: nn.Module) -> None:
    from accelerate.hooks import ModelHook

    calls = []

    class Counting(ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            calls.append(module)
            return args, kwargs

    add_hook_to_module(model.get_submodule(PATH), Counting(), append=True)
    replace(dense.get_submodule(PATH))
    assert kept(model, replace) == ([PATH], [True])
    assert torch.equal(logits(model), logits(dense))
    assert len(calls) == 1


def test_copies_are_freed_at_once(model: nn.Module) -> None:
    """accelerate's forward holds its module, so a copy is a circle."""
    kind = type(model.get_submodule(BLOCK))

    def blocks() -> int:
        return sum(type(each) is kind for each in gc.get_objects())

    gc.collect()
    before = blocks()
    gc.disable()
    try:
        with spare(model, BLOCK):
            assert blocks() == before + 1
        assert blocks() == before
    finally:
        gc.enable()


class Disk(dict[str, Tensor]):
    """Weights in a file that may be gone."""

    gone = False

    def __getitem__(self, name: str) -> Tensor:
        if self.gone:
            raise FileNotFoundError(2, "No such file", "model.safetensors")
        return super().__getitem__(name)


def test_a_file_of_weights_that_is_gone_for_a_while(dense: nn.Module, model: nn.Module) -> None:
    """Told with what to do; when it is back, the model is as it was."""
    hook, before = hook_of(model.get_submodule(PATH)), Holdings.of(model)
    assert hook is not None
    disk = Disk(weight=dense.get_submodule(PATH).get_parameter("weight").detach())
    hook.weights_map, hook.original_devices = disk, {"weight": torch.device("meta")}
    disk.gone = True
    with (
        pytest.raises(CheckpointError, match=r"'weight' that stays on disk.*Put the file back.*--resume"),
        resident(model, BLOCK),
    ):
        pytest.fail("nothing can be done without it")
    assert on_meta(model) == {True} and before.unchanged(model)
    disk.gone = False
    with resident(model, BLOCK) as block:
        assert torch.equal(block.get_parameter("mlp.up_proj.weight"), disk["weight"])
    assert torch.equal(logits(model), logits(dense))
