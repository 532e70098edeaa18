"""``quantization_config=GrailConfig(...)`` compresses on load and leaves the slot for quantizers free."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageClassification
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import CheckpointError, ConfigError, GrailError
from optimum_grail.models.hook import install, register_quantizer

install()
GENERATOR = torch.Generator().manual_seed(0)
TEXTS = [{"input_ids": torch.randint(3, 90, (12,), generator=GENERATOR)} for _ in range(20)]
IDS = torch.arange(3, 15)[None]


def config(**settings: Any) -> GrailConfig:
    return GrailConfig(**{"preset": "grail", "ffn_sparsity": 0.5, "dataset": TEXTS, **settings})


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A dense tiny LLaMA."""
    tiny_llama().save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def test_compressed_on_load_and_nothing_left_behind(dense: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense, quantization_config=config())
    assert model.model.layers[2].mlp.down_proj.in_features == model.config.intermediate_size == 24
    assert not hasattr(model, "hf_quantizer") and not hasattr(model, "quantization_method")
    assert model.is_quantized is False and not hasattr(model.config, "quantization_config")
    assert not any(hasattr(module.config, "_is_quantized") for module in model.modules() if hasattr(module, "config"))
    model.save_pretrained(tmp_path / "small")
    written = json.loads((tmp_path / "small" / "config.json").read_text())
    assert "quantization_config" not in written and written["grail_config"]["ffn_sparsity"] == 0.5
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_it_is_the_compression_of_the_compressor(dense: Path) -> None:
    from optimum_grail.compressor import GrailCompressor

    model = AutoModelForCausalLM.from_pretrained(dense, quantization_config=config())
    expected = GrailCompressor.from_pretrained(dense, config()).compress()
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in expected.state_dict().items())


def test_weights_stay_on_disk_while_it_loads(dense: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(dense, quantization_config=config())
    parts = AutoModelForCausalLM.from_pretrained(dense, quantization_config=config(low_memory=True))
    assert {parameter.device.type for parameter in parts.parameters()} == {"meta"}
    assert torch.equal(parts(IDS).logits, whole(IDS).logits)


def test_the_model_can_be_cast_and_trained(dense: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense, quantization_config=config())
    assert model.half().float().bfloat16().float().dtype == torch.float32
    rows = [{"input_ids": torch.arange(4, 20), "labels": torch.arange(4, 20)} for _ in range(2)]
    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=1, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    before = model.lm_head.weight.clone()
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    assert not torch.equal(model.lm_head.weight, before)


def test_another_quantizer_takes_the_slot(dense: Path, tmp_path: Path) -> None:
    """Without its library: transformers gets as far as asking for it, which a full slot would not let it."""
    from transformers.quantizers.auto import get_hf_quantizer

    AutoModelForCausalLM.from_pretrained(dense, quantization_config=config()).save_pretrained(tmp_path / "small")
    loaded = transformers.AutoConfig.from_pretrained(tmp_path / "small")
    wanted = transformers.QuantoConfig(weights="int8")
    try:
        quantizer, *_ = get_hf_quantizer(loaded, wanted, None, True, {})
        assert quantizer.quantization_config is wanted and not quantizer.pre_quantized
    except ImportError as error:
        assert "quanto" in str(error)


def test_a_dictionary_and_a_vision_model(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    settings = {"quant_method": "grail", "preset": "magnitude", "head_sparsity": 0.5}
    model = AutoModelForImageClassification.from_pretrained(tmp_path, quantization_config=settings)
    assert model.vit.layers[0].attention.q_proj.out_features == 16


def test_the_tokenizer_of_the_configuration_is_used(dense: Path, embedded_llama: Path) -> None:
    texts = ["a line of text to calibrate on"] * 20
    with pytest.raises(GrailError, match="tokenizer"):
        AutoModelForCausalLM.from_pretrained(dense, quantization_config=config(dataset=texts, seqlen=4))
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_llama)
    folder = embedded_llama
    with_it = config(dataset=texts, seqlen=4, num_samples=5, tokenizer=tokenizer)
    assert "tokenizer" not in with_it.to_dict()
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=with_it)
    assert model.config.intermediate_size == 256


def test_recompression_is_refused_before_weights_are_read(dense: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(dense, quantization_config=config()).save_pretrained(tmp_path / "small")
    (tmp_path / "small" / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(CheckpointError, match="small' is compressed already"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small", quantization_config=config())


def test_misspelt_methods_are_told_before_weights_are_read(dense: Path) -> None:
    (dense / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(GrailError, match="Did you mean 'wanda'"):
        AutoModelForCausalLM.from_pretrained(dense, quantization_config=config(selector="wandaa"))


def test_a_checkpoint_that_names_us_as_its_quantizer_is_refused(dense: Path) -> None:
    values = json.loads((dense / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "grail", "preset": "magnitude"}
    (dense / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="remove it"):
        AutoModelForCausalLM.from_pretrained(dense)


def test_a_copy_shares_live_data() -> None:
    import copy

    original = config(tokenizer=object())
    twin = copy.deepcopy(original)
    assert twin is not original and twin.dataset is original.dataset and twin.tokenizer is original.tokenizer
    assert twin.to_dict() == original.to_dict()
    with pytest.raises(ConfigError):
        twin.update(sparsity=7)


def test_registering_twice_keeps_the_first() -> None:
    before = AUTO_QUANTIZER_MAPPING["grail"], AUTO_QUANTIZATION_CONFIG_MAPPING["grail"]
    register_quantizer()
    assert before == (AUTO_QUANTIZER_MAPPING["grail"], AUTO_QUANTIZATION_CONFIG_MAPPING["grail"])


LAZY = """
import sys
{imports}
loaded = [name for name in sys.modules if name.startswith("optimum_grail.")]
assert not {{"optimum_grail.quantizer", "optimum_grail.compressor", "datasets"}} & set(sys.modules), loaded
from optimum_grail import GrailConfig
settings = GrailConfig(preset="magnitude", ffn_sparsity=0.5)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], quantization_config=settings)
assert model.config.intermediate_size == 24
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import optimum_grail\nfrom transformers import AutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM\nimport transformers.modeling_utils, optimum_grail",
    ],
    ids=["ours first", "ours last"],
)
def test_registered_whatever_is_imported_first(imports: str, dense: Path) -> None:
    subprocess.run([sys.executable, "-c", LAZY.format(imports=imports), str(dense)], check=True, timeout=120)
