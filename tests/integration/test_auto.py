"""``GrailModelFor…``: dense checkpoints are compressed on load, compressed ones come as they are, all are ordinary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import optimum_grail
from optimum_grail.architectures._tiny import seeded
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_bottleneck
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.auto import GrailModel, GrailModelForCausalLM
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import CheckpointError, ConfigError, GrailError

GENERATOR = torch.Generator().manual_seed(0)
TEXTS = [{"input_ids": torch.randint(3, 90, (12,), generator=GENERATOR)} for _ in range(20)]
IMAGES = [{"pixel_values": torch.randn(3, 32, 32, generator=GENERATOR)} for _ in range(20)]
SMALL = [{"pixel_values": torch.randn(3, 16, 16, generator=GENERATOR)} for _ in range(20)]
PAIRS = [{**text, **image} for text, image in zip(TEXTS, SMALL, strict=True)]
FAST: dict[str, Any] = {"allocation": "uniform", "preset": "grail", "num_samples": 20}


def bert_for(task: str) -> Callable[[], nn.Module]:
    return lambda: seeded(lambda: getattr(transformers, f"BertFor{task}")(tiny_bert().config))


DOORS: dict[str, tuple[Callable[[], nn.Module], list[dict[str, Any]]]] = {
    "GrailModel": (tiny_bert, TEXTS),
    "GrailModelForFeatureExtraction": (tiny_bert, TEXTS),
    "GrailModelForCausalLM": (tiny_llama, TEXTS),
    "GrailModelForMaskedLM": (bert_for("MaskedLM"), TEXTS),
    "GrailModelForSequenceClassification": (bert_for("SequenceClassification"), TEXTS),
    "GrailModelForTokenClassification": (bert_for("TokenClassification"), TEXTS),
    "GrailModelForQuestionAnswering": (bert_for("QuestionAnswering"), TEXTS),
    "GrailModelForImageClassification": (tiny_vit, SMALL),
    "GrailModelForZeroShotImageClassification": (tiny_clip, PAIRS),
}
"""Every public class: what it loads, and what that is calibrated on."""


def outputs(model: nn.Module, sample: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**{key: value[None] for key, value in sample.items()})[0]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A dense tiny LLaMA."""
    tiny_llama().save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def test_the_table_is_complete() -> None:
    assert set(DOORS) == {name for name in optimum_grail.__all__ if name.startswith("GrailModel")}


@pytest.mark.parametrize("name", DOORS)
def test_every_door_compresses_and_loads_again(name: str, tmp_path: Path) -> None:
    build, samples = DOORS[name]
    model = build()
    model.save_pretrained(tmp_path / "dense")
    door = getattr(optimum_grail, name)
    small = door.from_pretrained(tmp_path / "dense", grail_config={**FAST, "sparsity": 0.5, "dataset": samples})
    assert type(small) is type(model) and not small.training
    assert parameters(small) < 0.95 * parameters(model)
    small.save_pretrained(tmp_path / "small")
    again = door.from_pretrained(tmp_path / "small")
    assert type(again) is type(model)
    weights = again.state_dict()
    assert all(torch.equal(weights[key], tensor) for key, tensor in small.state_dict().items())
    torch.testing.assert_close(outputs(again, samples[0]), outputs(small, samples[0]), rtol=1e-5, atol=1e-6)


def test_convolutions_are_compressed_too(tmp_path: Path) -> None:
    tiny_bottleneck().save_pretrained(tmp_path)
    config = GrailConfig(**FAST, channel_sparsity=0.5, dataset=IMAGES)
    model = optimum_grail.GrailModelForImageClassification.from_pretrained(tmp_path, grail_config=config)
    assert model.resnet.encoder.stages[0].layers[0].layer[0].convolution.out_channels == 4


@pytest.mark.parametrize("form", ["object", "dictionary", "file", "folder"])
def test_forms_of_a_configuration(form: str, dense: Path, tmp_path: Path) -> None:
    config = GrailConfig(preset="magnitude", ffn_sparsity=0.5)
    config.save_pretrained(tmp_path / "config")
    path = tmp_path / "config"
    forms = {"object": config, "dictionary": config.to_dict(), "file": path / "grail_config.json", "folder": str(path)}
    model = GrailModelForCausalLM.from_pretrained(dense, grail_config=forms[form])
    assert model.config.intermediate_size == 24
    assert model.config.grail_config["ffn_sparsity"] == 0.5


def test_a_configuration_is_not_changed_by_its_use(dense: Path) -> None:
    config = GrailConfig(**FAST, dataset=TEXTS)
    before = config.to_dict()
    GrailModelForCausalLM.from_pretrained(dense, grail_config=config, tokenizer=None)
    assert config.to_dict() == before and config.dataset is TEXTS and config.tokenizer is None


def test_the_tokenizer_beside_the_model_is_found(embedded_llama: Path, prose: Any) -> None:
    config = {**FAST, "ffn_sparsity": 0.5, "dataset": str(prose.calibration), "seqlen": 32}
    model = GrailModelForCausalLM.from_pretrained(embedded_llama, grail_config=config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_llama)
    assert model.config.intermediate_size == 256
    calls = []

    class Counting(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return super().__call__(*args, **kwargs)

    given: PreTrainedTokenizerBase = Counting.from_pretrained(embedded_llama)
    other = GrailModelForCausalLM.from_pretrained(embedded_llama, grail_config=config, tokenizer=given)
    assert calls and torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_usual_arguments_pass_through(dense: Path) -> None:
    options: dict[str, Any] = {"dtype": torch.bfloat16, "attn_implementation": "eager", "device_map": "cpu"}
    config = {**FAST, "sparsity": 0.3, "dataset": TEXTS}
    model, info = GrailModelForCausalLM.from_pretrained(dense, grail_config=config, output_loading_info=True, **options)
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    assert not info["missing_keys"]
    plain, _ = GrailModelForCausalLM.from_pretrained(dense, output_loading_info=True, **options)
    assert plain.dtype == torch.bfloat16


def test_a_dense_model_without_configuration_is_told(dense: Path) -> None:
    with pytest.warns(UserWarning, match="is dense"):
        model = GrailModelForCausalLM.from_pretrained(dense)
    assert model.config.intermediate_size == 48


def test_recompression_is_refused_by_name_before_weights_are_read(dense: Path, tmp_path: Path) -> None:
    config = {**FAST, "ffn_sparsity": 0.5, "dataset": TEXTS}
    GrailModelForCausalLM.from_pretrained(dense, grail_config=config).save_pretrained(tmp_path / "small")
    allowed = {**config, "allow_recompress": True}
    again = GrailModelForCausalLM.from_pretrained(tmp_path / "small", grail_config=allowed)
    assert again.config.intermediate_size == 12
    (tmp_path / "small" / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(CheckpointError, match=r"small' is compressed already.*allow_recompress"):
        GrailModelForCausalLM.from_pretrained(tmp_path / "small", grail_config=config)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"grail_config": 3}, ConfigError, "grail_config is a int"),
        ({"grail_config": "nowhere/at-all"}, ConfigError, "No grail_config.json for 'nowhere/at-all'"),
        ({"grail_config": {"sparsity": 2}}, ConfigError, "sparsity"),
        ({"grail_config": {"selector": "wandaa"}}, GrailError, "Did you mean 'wanda'"),
        (
            {"grail_config": {"preset": "magnitude"}, "quantization_config": {"load_in_8bit": True}},
            ConfigError,
            "exclude each other",
        ),
    ],
    ids=["type", "path", "value", "method", "both"],
)
def test_bad_arguments_are_refused_before_weights_are_read(
    arguments: dict[str, Any], error: type[Exception], message: str, dense: Path
) -> None:
    (dense / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(error, match=message):
        GrailModelForCausalLM.from_pretrained(dense, **arguments)


def test_the_ecosystem_takes_what_is_loaded(embedded_llama: Path, tmp_path: Path) -> None:
    """A pipeline, generation, LoRA and two steps of Trainer."""
    import peft

    model = GrailModelForCausalLM.from_pretrained(
        embedded_llama, grail_config={"preset": "magnitude", "allocation": "uniform"}, dtype=torch.float32
    )
    assert isinstance(model, PreTrainedModel)
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_llama)
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    assert len(pipe("Once upon a time", max_new_tokens=4, do_sample=False)[0]["generated_text"]) > 16
    rows = [{"input_ids": torch.arange(4, 20), "labels": torch.arange(4, 20)} for _ in range(4)]
    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=2, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    before = model.model.layers[0].mlp.down_proj.weight.clone()
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    assert not torch.equal(model.model.layers[0].mlp.down_proj.weight, before)
    lora = peft.get_peft_model(model, peft.LoraConfig(target_modules=["down_proj", "q_proj"], r=2))
    transformers.Trainer(lora, arguments, train_dataset=rows).train()
    assert type(lora.merge_and_unload()) is type(model)


def test_from_config_builds_the_widths(dense: Path, tmp_path: Path) -> None:
    settings = {"preset": "magnitude", "head_sparsity": 0.25, "standalone": False}
    model = GrailModel.from_pretrained(dense, grail_config=settings)
    model.save_pretrained(tmp_path / "small")
    assert "layers" in json.loads((tmp_path / "small" / "config.json").read_text())["grail_config"]
    empty = GrailModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path / "small"))
    assert parameters(empty) == parameters(model)
