"""BERT: post-LayerNorm encoder; its config derives the head size from the number of heads, so heads need the table."""

from __future__ import annotations

from torch import nn

from optimum_grail.architectures._tiny import seeded
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never


def tiny_bert() -> nn.Module:
    """Three layers, 4 heads of 8 dimensions, 48 FFN channels."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    return seeded(lambda: BertModel(config))


BERT = ArchitectureSpec(
    model_types=("bert",),
    blocks=("encoder.layer.*",),
    groups=(
        Heads(
            query="attention.self.query",
            key="attention.self.key",
            value="attention.self.value",
            out="attention.output.dense",
            stream="attention.output.LayerNorm",
            head_dim="attention.self.attention_head_size",
            attributes=(
                ("attention.self.num_attention_heads", "query"),
                ("attention.self.all_head_size", "width"),
            ),
            accepts=never,
        ),
        Mlp(produce=("intermediate.dense",), consume="output.dense", stream="output.LayerNorm"),
    ),
    example=tiny_bert,
    mask="attention_mask",
    depth_field="num_hidden_layers",
    classifiers=("classifier", "qa_outputs"),
)
SPECS = (BERT,)
