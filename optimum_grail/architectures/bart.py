"""BART and its relatives, translators and Whisper: an encoder, and a decoder that attends to what the encoder puts out.

The norm comes after each sub-block in BART, before it in the others. Configs derive the head size from the number of
heads, so heads need the table. One config describes two chains of layers, so that whole layers cannot go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, GroupSpec, Heads, Mlp, never

ENCODER, DECODER = "encoder.layers.*", "decoder.layers.*"
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 64,
    "init_std": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
tiny_bart = tiny("BartForConditionalGeneration", **SIZES)
"""Two encoder layers of 4 heads and 48 FFN channels, two decoder layers of 2 heads and 40 FFN channels."""
tiny_mbart = tiny("MBartForConditionalGeneration", **SIZES)
tiny_whisper = tiny(
    "WhisperForConditionalGeneration", **SIZES, num_mel_bins=8, max_source_positions=12, max_target_positions=16
)


def spectrograms() -> dict[str, Tensor]:
    """Two sounds of 24 steps, and 7 tokens for each."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_features": torch.randn(2, 8, 24, generator=generator),
        "decoder_input_ids": torch.randint(3, 96, (2, 7), generator=generator),
    }


def attention(module: str, within: str, stream: str, name: str, stage: int) -> Heads:
    """The heads of the attention at ``module`` in blocks of the pattern ``within``.

    The config has one number for both attentions of a decoder layer: the table calls the second's
    ``cross_attention_heads``.
    """
    side = within.partition(".")[0] if name == "heads" else name
    return Heads(
        query=f"{module}.q_proj",
        key=f"{module}.k_proj",
        value=f"{module}.v_proj",
        out=f"{module}.out_proj",
        stream=stream,
        head_dim=f"{module}.head_dim",
        attributes=((f"{module}.num_heads", "query"),),
        query_field=f"{side}_attention_heads",
        accepts=never,
        name=name,
        stage=stage,
        within=within,
    )


def groups(streams: Sequence[str]) -> tuple[GroupSpec, ...]:
    """Of an encoder and a decoder; ``streams``: after the encoder's attention and feed-forward pair, and after the
    decoder's own attention, its attention to the encoder and its feed-forward pair."""
    encoder, encoder_mlp, decoder, cross, decoder_mlp = streams
    return (
        attention("self_attn", ENCODER, encoder, "heads", 0),
        Mlp(("fc1",), "fc2", encoder_mlp, "encoder_ffn_dim", within=ENCODER),
        attention("self_attn", DECODER, decoder, "heads", 0),
        attention("encoder_attn", DECODER, cross, "cross", 1),
        Mlp(("fc1",), "fc2", decoder_mlp, "decoder_ffn_dim", within=DECODER, stage=2),
    )


NORM_AFTER = groups(
    ("self_attn_layer_norm", "final_layer_norm", "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
)
NORM_BEFORE = groups(("final_layer_norm", "@block", "encoder_attn_layer_norm", "final_layer_norm", "@block"))
BART = ArchitectureSpec(
    model_types=("bart", "marian", "plbart", "blenderbot-small"),
    blocks=(ENCODER, DECODER),
    groups=NORM_AFTER,
    example=tiny_bart,
    mask="attention_mask",
    masks=((DECODER, "decoder_attention_mask"),),
    classifiers=("classification_head.out_proj", "qa_outputs"),
)
MBART = replace(BART, model_types=("mbart", "pegasus", "m2m_100", "blenderbot"), groups=NORM_BEFORE, example=tiny_mbart)
WHISPER = replace(
    MBART,
    model_types=("whisper",),
    example=tiny_whisper,
    mask=None,
    main_input="tensors",
    inputs=spectrograms,
    classifiers=("classifier",),
)
SPECS = (BART, MBART, WHISPER)
