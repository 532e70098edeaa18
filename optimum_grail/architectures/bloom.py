"""BLOOM and MPT: the position of a head decides how far it sees, so only the feed-forward channels can go."""

from __future__ import annotations

from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.core.spec import ArchitectureSpec, Mlp, never

ALIBI = (
    "ALiBi gives each head a slope by its place among all heads, once for all layers: those of the heads that stay "
    "would change."
)
BLOOM = ArchitectureSpec(
    model_types=("bloom",),
    blocks=("h.*",),
    groups=(
        Mlp(
            produce=("mlp.dense_h_to_4h",),
            consume="mlp.dense_4h_to_h",
            stream="@block",
            default=lambda config: 4 * int(config.hidden_size),
            accepts=never,
        ),
    ),
    example=tiny("BloomForCausalLM", **DECODER),
    mask="attention_mask",
    depth_field="n_layer",
    impossible={"heads": ALIBI},
)
MPT = ArchitectureSpec(
    model_types=("mpt",),
    blocks=("blocks.*",),
    groups=(
        Mlp(
            produce=("ffn.up_proj",),
            consume="ffn.down_proj",
            stream="@block",
            default=lambda config: 4 * int(config.d_model),
            accepts=never,
        ),
    ),
    example=tiny("MptForCausalLM", **DECODER, max_seq_len=64),
    mask="attention_mask",
    depth_field="n_layers",
    impossible={"heads": ALIBI},
)
SPECS = (BLOOM, MPT)
