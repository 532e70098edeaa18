"""T5, its gated variants (v1.1, Flan) and mT5: pre-RMSNorm encoder and decoder, whose self-attention adds a bias by
distance that the first layer of each makes for all.

Blocks hand each other that bias beside the hidden state. What runs one by one are therefore the sub-blocks of one
block, and the bias is an argument of which a layer picks the slices of its own heads. The config has one head count for
all attentions, so heads need the table; and two chains of layers, so that whole layers cannot go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.groups import HeadArgument
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

ENCODER, DECODER = "encoder.block.*.layer.*", "decoder.block.*.layer.*"
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
    "initializer_factor": 2.0,
}
tiny_t5 = tiny("T5ForConditionalGeneration", **SIZES)
"""Two encoder and two decoder layers, 4 heads of 6 dimensions, 40 FFN channels."""
tiny_mt5 = tiny("MT5ForConditionalGeneration", **SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
tiny_t5_encoder = tiny("T5EncoderModel", **SIZES, feed_forward_proj="gated-gelu")


def own_bias(attention: nn.Module, arguments: Mapping[str, object]) -> Tensor | None:
    """The bias by distance of all heads, where this layer makes it."""
    module: Any = attention
    if not module.has_relative_attention_bias:
        return None
    hidden: Any = arguments["hidden_states"]
    cache: Any = arguments.get("past_key_values")
    seen = 0 if cache is None else cache.get_seq_length(module.layer_idx)
    length = hidden.shape[1]
    bias: Tensor = module.compute_bias(length, length + seen, device=hidden.device, past_seen_tokens=seen)
    return bias


def attention(module: str, block_class: str, field: str, name: str) -> Heads:
    """The heads of the attention at ``module`` in sub-blocks of this class."""
    return Heads(
        query=f"{module}.q",
        key=f"{module}.k",
        value=f"{module}.v",
        out=f"{module}.o",
        stream="@block",
        head_dim=f"{module}.key_value_proj_dim",
        attributes=((f"{module}.n_heads", "query"), (f"{module}.inner_dim", "width")),
        query_field=field,
        accepts=never,
        name=name,
        block_class=block_class,
        arguments=(HeadArgument("position_bias", own_bias, 1),),
    )


def family(model_type: str, name: str) -> ArchitectureSpec:
    """The map of a family whose sub-blocks' classes begin with ``name``."""
    plain = Mlp(
        produce=("DenseReluDense.wi",),
        consume="DenseReluDense.wo",
        stream="@block",
        field="d_ff",
        block_class=f"{name}LayerFF",
        when=(("is_gated_act", False),),
    )
    gated = replace(plain, produce=("DenseReluDense.wi_0", "DenseReluDense.wi_1"), when=(("is_gated_act", True),))
    return ArchitectureSpec(
        model_types=(model_type,),
        blocks=(ENCODER, DECODER),
        chain="container",
        groups=(
            attention("SelfAttention", f"{name}LayerSelfAttention", "num_heads", "heads"),
            attention("EncDecAttention", f"{name}LayerCrossAttention", "cross_attention_heads", "cross"),
            plain,
            gated,
        ),
        mask="attention_mask",
        masks=((DECODER, "decoder_attention_mask"),),
        classifiers=("classification_head.out_proj", "classifier", "qa_outputs"),
    )


T5 = replace(family("t5", "T5"), example=tiny_t5)
MT5 = replace(family("mt5", "MT5"), example=tiny_mt5)
SPECS = (T5, MT5)
