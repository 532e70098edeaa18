"""Tiny checkpoints of every kind that the metrics take, with their tokenizers and processors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte: token id = place in the alphabet + 3; ends with </s>."""
    special = ["<s>", "</s>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate([*special, *letters])}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """A folder per kind of model: llama, bert, vit, clip."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    llama = LlamaConfig(**SHAPE, vocab_size=259, max_position_embeddings=64, bos_token_id=0, eos_token_id=1)
    bert = BertConfig(**SHAPE, vocab_size=259, max_position_embeddings=64)
    vit = ViTConfig(**SHAPE, image_size=16, patch_size=8, id2label={0: "cat", 1: "dog", 2: "cow"})
    text = {**SHAPE, "vocab_size": 259, "max_position_embeddings": 24, "eos_token_id": 1, "bos_token_id": 0}
    clip = CLIPConfig(text_config=text, vision_config={**SHAPE, "image_size": 16, "patch_size": 8}, projection_dim=16)
    built = {
        "llama": LlamaForCausalLM(llama),
        "bert": BertModel(bert),
        "vit": ViTForImageClassification(vit),
        "clip": CLIPModel(clip),
    }
    for name, model in built.items():
        model.save_pretrained(root / name)
    for name in ("llama", "bert", "clip"):
        tokenizer.save_pretrained(root / name)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(root / "vit")
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        root / "clip"
    )
    return {name: root / name for name in built}
