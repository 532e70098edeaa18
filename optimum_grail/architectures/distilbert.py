"""DistilBERT: BERT's layer under other names, with the output projection inside the attention module."""

from __future__ import annotations

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

tiny_distilbert = tiny(
    "DistilBertForSequenceClassification",
    vocab_size=96,
    dim=32,
    hidden_dim=48,
    n_layers=3,
    n_heads=4,
    max_position_embeddings=128,
    initializer_range=0.2,
    num_labels=5,
)
"""Three layers, 4 heads of 8 dimensions, 48 FFN channels."""
DISTILBERT = ArchitectureSpec(
    model_types=("distilbert",),
    blocks=("transformer.layer.*",),
    groups=(
        Heads(
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            out="attention.out_lin",
            stream="sa_layer_norm",
            head_dim="attention.attention_head_size",
            attributes=(("attention.n_heads", "query"),),
            query_field="n_heads",
            accepts=never,
        ),
        Mlp(produce=("ffn.lin1",), consume="ffn.lin2", stream="output_layer_norm", field="hidden_dim"),
    ),
    example=tiny_distilbert,
    mask="attention_mask",
    depth_field="n_layers",
    classifiers=("classifier", "qa_outputs"),
)
SPECS = (DISTILBERT,)
