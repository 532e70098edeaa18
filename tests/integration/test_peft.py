"""LoRA on compressed models, and adapters of the dense model carried over to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from optimum_grail.adapters import convert_adapter
from optimum_grail.adapters.refit import convert_state
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints.plan_file import load_reductions
from optimum_grail.compressor import GrailCompressor
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch
from optimum_grail.errors import ArchitectureError, CheckpointError, GrailError, OutputError
from optimum_grail.models.resolve import resolve

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def train_(model: Any, windows: Tensor, steps: int) -> None:
    """A few steps of language modelling."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        model(input_ids=windows[4 * step % 28 :][:4], labels=windows[4 * step % 28 :][:4]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def logits(model: Any, windows: Tensor) -> Tensor:
    return model.eval()(input_ids=windows[:4]).logits


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Mean KL of two sets of logits, nats per token."""
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture(scope="module")
def adapter(embedded_llama: Path, held_windows: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the dense model that makes a difference: technical English for a model of novels."""
    torch.manual_seed(0)
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.float32)
    adapted = get_peft_model(dense, LoraConfig(r=8, lora_alpha=16, target_modules=LLAMA))
    train_(adapted, held_windows, 12)
    folder = tmp_path_factory.mktemp("adapter") / "dense"
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("recipe", ["default", "free"])
def test_lora_trains_saves_loads_and_merges(
    recipe: str, llama_run: Callable[[str], Any], held_windows: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    folder = llama_run(recipe).folder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = logits(model, held_windows)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=LLAMA))
    train_(adapted, held_windows, 4)
    trained = logits(adapted, held_windows)
    assert not torch.allclose(trained, before, atol=1e-2)
    adapted.save_pretrained(tmp_path / "adapter")
    for load in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
        again = load.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
        assert torch.equal(logits(again, held_windows), trained)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, held_windows), trained, atol=1e-3, rtol=1e-3)
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.equal(logits(reloaded, held_windows), logits(merged, held_windows))


def test_converted_adapter_beats_dropping_it_and_gathering_columns(
    llama_run: Callable[[str], Any], adapter: Path, embedded_llama: Path, held_windows: Tensor, tmp_path: Path
) -> None:
    run = llama_run("free")
    convert_adapter(adapter, tmp_path / "small", run.folder, num_samples=16, seqlen=128)
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.float32)
    layout = resolve(dense)
    adapted = PeftModel.from_pretrained(dense, adapter)
    teacher = logits(adapted, held_windows)
    reductions = load_reductions(run.folder)
    groups = [group for group in layout.groups if group.name in reductions]
    gathered = convert_state(adapted, get_peft_model_state_dict(adapted), groups, reductions, ())
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "adapter_config.json").write_bytes((tmp_path / "small" / "adapter_config.json").read_bytes())
    save_file(gathered, tmp_path / "plain" / "adapter_model.safetensors")

    def far(name: str) -> float:
        student = AutoModelForCausalLM.from_pretrained(run.folder, dtype=torch.float32)
        student = PeftModel.from_pretrained(student, tmp_path / name) if name else student
        return divergence(teacher, logits(student, held_windows))

    dropped, plain, converted = far(""), far("plain"), far("small")
    assert converted < 0.95 * plain
    assert converted < 0.5 * dropped
    config = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(run.folder)


def test_a_model_of_the_callers_is_left_as_it_was(
    llama_run: Callable[[str], Any], adapter: Path, embedded_llama: Path, tmp_path: Path
) -> None:
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.bfloat16).train()
    dense.lm_head.requires_grad_(False)
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in dense.named_parameters()}
    modules = [name for name, module in dense.named_modules() if module.training]
    convert_adapter(adapter, tmp_path / "out", llama_run("free").folder, base_model=dense, num_samples=4, seqlen=32)
    after = dict(dense.named_parameters())
    assert list(after) == list(before)
    for name, (tensor, wanted) in before.items():
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor), name
        assert after[name].requires_grad == wanted, name
    assert [name for name, module in dense.named_modules() if module.training] == modules


def test_nothing_is_lost_where_kept_features_say_everything() -> None:
    """Twins of every channel: with one of each gone, producers are exact and consumers are refitted exactly."""
    torch.manual_seed(0)
    model = tiny_bert()
    group = next(group for group in resolve(model).groups if group.kind == "mlp")
    units = torch.arange(group.units)
    twin = units - units % 2
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=["intermediate.dense", "output.dense"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
        if group.producers[0].module in name and "lora_A" not in name:
            parameter.data = parameter.data[twin]
    ids = torch.randint(5, 60, (8, 16))
    mask = (torch.arange(16) < torch.tensor([[16], [9]] * 4)).long()
    features: list[Tensor] = []
    consumer = adapted.get_submodule(f"base_model.model.{group.consumer.module}")
    handle = consumer.register_forward_pre_hook(lambda _, args: features.append(args[0].detach()))
    adapted.eval()(input_ids=ids, attention_mask=mask)
    handle.remove()
    state = get_peft_model_state_dict(adapted)
    reductions = {group.name: Reduction.prune(group.units, units[::2])}
    batches = [Batch({"input_ids": ids, "attention_mask": mask}, "fit")]
    new = convert_state(adapted, state, [group], reductions, batches)
    key = f"base_model.model.{group.consumer.module}.lora_A.weight"
    rows = features[0][mask.bool()]
    wanted, got = rows @ state[key].T, rows[:, ::2] @ new[key].T
    assert (got - wanted).norm() < 0.02 * wanted.norm()
    assert (rows[:, ::2] @ state[key][:, ::2].T - wanted).norm() > 0.2 * wanted.norm()
    produced = f"base_model.model.{group.producers[0].module}.lora_B.weight"
    assert torch.equal(new[produced], state[produced][::2])
    assert {name for name in state if state[name].shape != new[name].shape} == {key, produced}


def test_compressor_and_command_carry_adapters_over(
    embedded_llama: Path, adapter: Path, text: Path, tmp_path: Path, cli: Callable[..., int]
) -> None:
    config = {"dataset": str(text), "num_samples": 8, "seqlen": 64, "allocation": "uniform"}
    compressor = GrailCompressor.from_pretrained(embedded_llama, config)
    compressor.compress()
    with pytest.raises(GrailError, match="save_pretrained"):
        compressor.convert_adapter(adapter, tmp_path / "early")
    compressor.save_pretrained(tmp_path / "small")
    compressor.convert_adapter(adapter, tmp_path / "one", dataset=str(text))
    words = ("--adapter", adapter, "-o", tmp_path / "two", "--dataset", text)
    assert cli("grail", "convert-adapter", "-m", tmp_path / "small", *words) == 0
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(OutputError, match="not empty"):
        compressor.convert_adapter(adapter, tmp_path / "one")


def test_adapters_follow_when_whole_layers_go(
    compress_llama: Callable[..., GrailCompressor],
    adapter: Path,
    embedded_llama: Path,
    text: Path,
    held_windows: Tensor,
    tmp_path: Path,
) -> None:
    compressor = compress_llama(allocation="balanced:depth=true", sparsity=0.65, num_samples=8)
    layers = compressor.model.config.num_hidden_layers
    assert layers < 6
    compressor.save_pretrained(tmp_path / "small")
    compressor.convert_adapter(adapter, tmp_path / "adapter", dataset=str(text))
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    before = logits(small, held_windows)
    adapted = PeftModel.from_pretrained(small, tmp_path / "adapter")
    assert len(get_peft_model_state_dict(adapted)) == layers * len(LLAMA) * 2
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.float32)
    teacher = logits(PeftModel.from_pretrained(dense, adapter), held_windows)
    assert divergence(teacher, logits(adapted, held_windows)) < 0.7 * divergence(teacher, before)


def test_what_cannot_be_carried_over_is_refused(
    llama_run: Callable[[str], Any], embedded_llama: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = llama_run("free").folder
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama)
    get_peft_model(dense, LoraConfig(use_dora=True, target_modules=LLAMA)).save_pretrained(tmp_path / "dora")
    with pytest.raises(ArchitectureError, match="DoRA"):
        convert_adapter(tmp_path / "dora", tmp_path / "out", folder)
    whole = LoraConfig(target_modules=["q_proj"], modules_to_save=["down_proj"])
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama)
    get_peft_model(dense, whole).save_pretrained(tmp_path / "whole")
    with pytest.raises(ArchitectureError, match="whole copy"):
        convert_adapter(tmp_path / "whole", tmp_path / "out", folder)
    with pytest.raises(CheckpointError, match="adapter_config"):
        convert_adapter(tmp_path, tmp_path / "out", folder)
    with pytest.raises(CheckpointError, match="plan"):
        convert_adapter(adapter, tmp_path / "out", embedded_llama)
    with pytest.raises(CheckpointError, match="does not fit"):
        convert_adapter(adapter, tmp_path / "out", folder, base_model=tiny_llama())
    assert not (tmp_path / "out").exists()
