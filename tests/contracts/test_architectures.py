"""Every registered map, on its own tiny example: what holds for one family holds for all."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimum_grail import check_map
from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import features_per_unit, to_matrix
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import expressible, is_standalone, write_config_
from optimum_grail.models.surgery import apply_, narrow_

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "families.json"


def inputs_of(model: nn.Module) -> dict[str, Tensor]:
    """Random inputs that fit the example."""
    families = {getattr(module.config, "model_type", "") for module in model.modules() if hasattr(module, "config")}
    made = [spec.inputs for spec in ARCHITECTURES.specs() if spec.inputs and families & set(spec.model_types)]
    if made:
        return dict(made[0]())
    generator = torch.Generator().manual_seed(1)
    config = model.config
    vision = getattr(config, "vision_config", config)
    found: dict[str, Tensor] = {}
    if hasattr(getattr(config, "text_config", config), "vocab_size") and model.main_input_name != "pixel_values":
        found["input_ids"] = torch.randint(3, 90, (2, 12), generator=generator)
        found["attention_mask"] = torch.ones(2, 12, dtype=torch.int64)
        found["attention_mask"][1, 9:] = 0
        if getattr(config, "is_encoder_decoder", False):
            found["decoder_input_ids"] = torch.randint(3, 90, (2, 7), generator=generator)
    if hasattr(vision, "num_channels"):
        size = getattr(vision, "image_size", 32)
        found["pixel_values"] = torch.randn(2, 3, size, size, generator=generator)
    return found


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: dict[str, Tensor] | None = None) -> Tensor:
    """The main output, as float32."""
    result = model(**(inputs or inputs_of(model)), return_dict=True)
    names = ("logits", "logits_per_text", "text_embeds", "image_embeds", "last_hidden_state")
    return next(result[name] for name in names if name in result).float()


def plan_of(model: nn.Module, layout: Layout, keep: Callable[[int, int], list[int]]) -> Plan:
    """Plain pruning to the units ``keep(position of the group, units)``; position 0 where all layers need the same."""
    items = []
    for place, group in enumerate(layout.groups):
        position = 0 if group.uniform else place
        reduction = Reduction.prune(group.units, torch.tensor(keep(position, group.units)))
        module = model.get_submodule(group.consumer.module)
        weight = reduction.lift_columns(to_matrix(module), features_per_unit(group, module))
        items.append(GroupPlan(group, reduction, Readout(weight)))
    return Plan(items)


def free(position: int, units: int) -> list[int]:
    """Different widths and different units in every group."""
    stay = max(1, units - 1 - position % (units - 1))
    return sorted({(7 * index + position) % units for index in range(units)})[-stay:]


def whole(position: int, units: int) -> list[int]:
    return list(range(units))


def half(position: int, units: int) -> list[int]:
    return list(range(1, units, 2))


def zeroing(axis: int, elements: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that zeroes ``elements`` of the first input along ``axis``."""
    return lambda _, args: (args[0].index_fill(axis, elements, 0.0), *args[1:])


@contextmanager
def masked(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Zero the dropped features where they enter their consumer."""
    handles = []
    for item in plan.values():
        port, dropped = item.group.consumer, (item.reduction.assignment < 0).nonzero().flatten()
        module = model.get_submodule(port.module)
        axis = 1 if isinstance(module, nn.Conv2d) else -1
        handles.append(module.register_forward_pre_hook(zeroing(axis, port.elements(dropped))))
    yield
    for handle in handles:
        handle.remove()


def test_examples_are_small_and_every_block_resolves(model: nn.Module) -> None:
    layout = resolve(model, experts=True)
    assert layout.total_parameters == sum(p.numel() for p in model.parameters()) < 50_000
    assert 0 < layout.block_parameters < layout.total_parameters
    assert all(layout.of_block(block) for stack in layout.stacks for block in stack.blocks)
    assert all(group.name == layout.group(group.name).name for group in layout.groups)
    assert all(expressible(model, layout, group, group.units) for group in layout.groups)


def test_every_map_keeps_its_laws(named_map: tuple[str, ArchitectureSpec]) -> None:
    """What a unit costs, keeping everything, the mask law, the streams, saving and loading, depth, the stock class."""
    name, spec = named_map
    report = check_map(spec)
    assert report.groups
    assert report.inexact == tuple(dict.fromkeys(group.name for group in spec.groups if group.mixes))
    if name in spec.model_types:
        told = json.loads(RESULTS.read_text(encoding="utf-8"))["families"][name]
        found = {"groups": report.groups, "standalone": report.standalone, "inexact": report.inexact}
        assert {key: told[key] for key in found} == json.loads(json.dumps(found)), "run benchmarks/families.py"
        assert told["impossible"] == spec.impossible


def exact(layout: Layout) -> Layout:
    """The layout without the groups whose units a norm mixes."""
    return replace(layout, groups=tuple(group for group in layout.groups if not layout.specs[group.name].mixes))


def test_narrowed_model_equals_masked_model(model: nn.Module) -> None:
    layout = exact(resolve(model))
    if not layout.groups:
        pytest.skip("nothing of this model can be set to zero exactly")
    plan = plan_of(model, layout, free)
    dense = outputs_of(model)
    with masked(model, plan):
        expected = outputs_of(model)
    apply_(model, plan)
    assert (expected - dense).abs().max() > 1e-3, "the mask should matter"
    near = 1e-5 * (1 + float(expected.abs().max()))  # logits of some families are large, and sums run in another order
    torch.testing.assert_close(outputs_of(model), expected, atol=near, rtol=1e-4)
    left = sum(p.numel() for p in model.parameters())
    assert layout.total_parameters - left == layout.removed_parameters(plan.widths)
    assert exact(resolve(model)).widths == plan.widths
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels // module.groups) == tuple(module.weight.shape[:2])
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_var)


def test_keeping_everything_is_bit_identical_in_bfloat16(kind: nn.Module) -> None:
    model = kind.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apply_(model, plan_of(model, resolve(model), whole))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_gradients_flow_after_surgery(kind: nn.Module) -> None:
    model = kind
    apply_(model, plan_of(model, resolve(model), half))
    result = model(**inputs_of(model))
    sum(value.float().pow(2).sum() for value in result.values() if torch.is_tensor(value)).backward()
    for group in resolve(model).groups:
        for port in (*group.producers, group.consumer):
            for parameter in model.get_submodule(port.module).parameters():
                assert parameter.grad is not None and parameter.grad.shape == parameter.shape


def reload(model: nn.Module, folder: Path, **options: object) -> nn.Module:
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, **options).eval()


def test_free_widths_survive_saving_and_loading(kind: nn.Module, tmp_path: Path) -> None:
    model = kind
    layout = resolve(model)
    apply_(model, plan_of(model, layout, free))
    updates = write_config_(model, layout, {"version": "0"})
    assert not is_standalone(updates)
    expected = outputs_of(model)
    again = reload(model, tmp_path / "once")
    assert torch.equal(outputs_of(again), expected)
    assert torch.equal(outputs_of(reload(again, tmp_path / "twice")), expected)
    assert again.config.grail_config["version"] == "0"


def test_free_widths_survive_construction_from_the_config(kind: nn.Module) -> None:
    model = kind
    layout = resolve(model)
    plan = plan_of(model, layout, free)
    apply_(model, plan)
    write_config_(model, layout, {})
    fresh = type(model)(copy.deepcopy(model.config))
    assert resolve(fresh).widths == plan.widths
    assert all(bool(torch.isfinite(p).all()) for p in fresh.parameters())


def test_bfloat16_shards_survive_saving_and_loading(kind: nn.Module, tmp_path: Path) -> None:
    model = kind.to(torch.bfloat16)
    layout = resolve(model)
    apply_(model, plan_of(model, layout, free))
    write_config_(model, layout, {})
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = type(model).from_pretrained(tmp_path, dtype="auto").eval()
    assert again.dtype == torch.bfloat16
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_decoding_with_a_cache_is_the_whole_pass(decoder: nn.Module) -> None:
    """With layers of different widths, the first of which has no heads at all where heads can go."""
    layout = resolve(decoder)
    first = layout.groups[0]
    apply_(decoder, plan_of(decoder, layout, free))
    if first.kind == "heads" and not first.fewest:
        narrow_(decoder, resolve(decoder).groups[0], 0)
    tokens = torch.randint(3, 90, (1, 14), generator=torch.Generator().manual_seed(2))
    fixed, name = {}, "input_ids"
    if decoder.config.is_encoder_decoder:
        fixed = {key: value[1:] for key, value in inputs_of(decoder).items() if key != "decoder_input_ids"}
        name = "decoder_input_ids"
    whole = decoder(**fixed, **{name: tokens}, use_cache=False).logits
    seen = decoder(**fixed, **{name: tokens[:, :9]}, use_cache=True)
    rest = [seen.logits]
    for place in range(9, 14):
        given = {name: tokens[:, place : place + 1], "past_key_values": seen.past_key_values}
        step = decoder(**fixed, **given, use_cache=True)
        rest.append(step.logits)
    torch.testing.assert_close(torch.cat(rest, 1), whole, atol=1e-4, rtol=1e-3)


def narrow_to_stock_(model: nn.Module) -> bool:
    """Narrow every group that the stock config can express at half width; whether there was one."""
    layout = resolve(model)
    for group in layout.groups:
        if expressible(model, layout, group, group.units // 2):
            narrow_(model, group, group.units // 2)
    changed = resolve(model).widths != layout.widths
    assert is_standalone(write_config_(model, layout, {"version": "0"}))
    return changed


PLAIN = """
import json, sys, torch, transformers
*cases, (folder, name) = json.loads(sys.argv[1])
try:
    getattr(transformers, name).from_pretrained(folder)
except RuntimeError as error:
    assert "size" in str(error)
else:
    raise AssertionError("free widths must not load silently")
for folder, name in cases:
    model = getattr(transformers, name).from_pretrained(folder).eval()
    case = torch.load(folder + "/case.pt")
    with torch.no_grad():
        result = model(**case["inputs"])
    assert torch.equal(result[case["key"]], case["expected"]), name
assert "optimum_grail" not in sys.modules
"""


def test_expressible_widths_load_in_plain_transformers(
    examples: Mapping[str, Callable[[], nn.Module]], tmp_path: Path
) -> None:
    cases = []
    for name, example in examples.items():
        model = example()
        if not narrow_to_stock_(model):
            continue
        folder = tmp_path / name
        model.save_pretrained(folder)
        with torch.no_grad():
            result = model(**inputs_of(model))
        key = next(key for key, value in result.items() if torch.is_tensor(value))
        torch.save({"inputs": inputs_of(model), "key": key, "expected": result[key]}, folder / "case.pt")
        cases.append((str(folder), type(model).__name__))
    assert len(cases) > len(examples) / 2
    model = examples["llama"]()
    layout = resolve(model)
    apply_(model, plan_of(model, layout, free))
    write_config_(model, layout, {})
    model.save_pretrained(tmp_path / "free")
    cases.append((str(tmp_path / "free"), type(model).__name__))
    subprocess.run([sys.executable, "-c", PLAIN, json.dumps(cases)], check=True, timeout=120, cwd=tmp_path)
