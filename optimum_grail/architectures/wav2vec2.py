"""wav2vec 2.0 and HuBERT: BERT-like encoders of sound, with the norm after each sub-block (base models) or before it.

The mask is over sound, not over what the layers see, so that all rows count. Configs derive the head size from the
number of heads, so heads need the table. Adapters behind the layers are left as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, GroupSpec, Heads, Mlp, never

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "conv_dim": [8, 8],
    "conv_kernel": [4, 3],
    "conv_stride": [4, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "initializer_range": 0.2,
    "vocab_size": 16,
    "mask_time_prob": 0.0,
}
tiny_wav2vec2 = tiny("Wav2Vec2ForCTC", **SIZES)
"""Three layers, 4 heads of 8 dimensions, 48 FFN channels."""
tiny_wav2vec2_large = tiny("Wav2Vec2ForCTC", **SIZES, do_stable_layer_norm=True, feat_extract_norm="layer")
tiny_unispeech = tiny("UniSpeechForCTC", **SIZES)
tiny_unispeech_sat = tiny("UniSpeechSatForCTC", **SIZES)
tiny_data2vec_audio = tiny("Data2VecAudioForCTC", **SIZES, conv_pos_kernel_size=3)
tiny_hubert = tiny("HubertForSequenceClassification", **SIZES, num_labels=5)


def sounds() -> dict[str, Tensor]:
    """Two sounds of 100 samples."""
    return {"input_values": torch.randn(2, 100, generator=torch.Generator().manual_seed(1))}


def groups(block_class: str, heads_stream: str, mlp_stream: str) -> tuple[GroupSpec, ...]:
    """Of layers of this class."""
    return (
        Heads(
            query="attention.q_proj",
            key="attention.k_proj",
            value="attention.v_proj",
            out="attention.out_proj",
            stream=heads_stream,
            head_dim="attention.head_dim",
            attributes=(("attention.num_heads", "query"),),
            accepts=never,
            block_class=block_class,
        ),
        Mlp(
            produce=("feed_forward.intermediate_dense",),
            consume="feed_forward.output_dense",
            stream=mlp_stream,
            block_class=block_class,
        ),
    )


def family(model_type: str, name: str) -> ArchitectureSpec:
    """The map of a family whose layers' classes begin with ``name``."""
    return ArchitectureSpec(
        model_types=(model_type,),
        blocks=("encoder.layers.*",),
        groups=(
            *groups(f"{name}EncoderLayer", "layer_norm", "final_layer_norm"),
            *groups(f"{name}EncoderLayerStableLayerNorm", "final_layer_norm", "@block"),
        ),
        main_input="tensors",
        depth_field="num_hidden_layers",
        inputs=sounds,
        classifiers=("lm_head", "classifier"),
    )


WAV2VEC2 = replace(family("wav2vec2", "Wav2Vec2"), example=tiny_wav2vec2)
HUBERT = replace(family("hubert", "Hubert"), example=tiny_hubert)
UNISPEECH = replace(family("unispeech", "UniSpeech"), example=tiny_unispeech)
UNISPEECH_SAT = replace(family("unispeech-sat", "UniSpeechSat"), example=tiny_unispeech_sat)
DATA2VEC_AUDIO = replace(family("data2vec-audio", "Data2VecAudio"), example=tiny_data2vec_audio)
SPECS = (WAV2VEC2, HUBERT, UNISPEECH, UNISPEECH_SAT, DATA2VEC_AUDIO)
