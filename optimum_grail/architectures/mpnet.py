"""MPNet: BERT's layer with a bias by distance that all layers share, a slice of it for every head."""

from __future__ import annotations

from optimum_grail.architectures._tiny import tiny
from optimum_grail.architectures.bert import HEADS, SIZES
from optimum_grail.core.groups import HeadArgument
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

tiny_mpnet = tiny("MPNetForSequenceClassification", **SIZES, num_labels=5)
"""Three layers, 4 heads of 8 dimensions, 48 FFN channels."""
MPNET = ArchitectureSpec(
    model_types=("mpnet",),
    blocks=("encoder.layer.*",),
    groups=(
        Heads(
            query="attention.attn.q",
            key="attention.attn.k",
            value="attention.attn.v",
            out="attention.attn.o",
            stream="attention.LayerNorm",
            head_dim="attention.attn.attention_head_size",
            attributes=(
                ("attention.attn.num_attention_heads", "query"),
                ("attention.attn.all_head_size", "width"),
            ),
            accepts=never,
            arguments=(HeadArgument("position_bias"),),
        ),
        Mlp(produce=("intermediate.dense",), consume="output.dense", stream="output.LayerNorm"),
    ),
    example=tiny_mpnet,
    mask="attention_mask",
    depth_field="num_hidden_layers",
    classifiers=HEADS,
)
SPECS = (MPNET,)
