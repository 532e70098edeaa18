"""ModernBERT: pre-LayerNorm encoder with fused queries, keys and values, and a fused gated feed-forward pair.

Its config derives the head size from the number of heads, so heads need the table. Whole layers cannot go: the first
one has no norm in front of its attention, and whichever comes first would be built so.
"""

from __future__ import annotations

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, Strip, never

tiny_modernbert = tiny(
    "ModernBertForSequenceClassification",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
    local_attention=4,
    initializer_range=0.2,
    pad_token_id=0,
    bos_token_id=1,
    cls_token_id=1,
    eos_token_id=2,
    sep_token_id=2,
    num_labels=5,
)
"""Three layers, the last two with attention to neighbours only; 4 heads of 8 dimensions, 24 FFN channels."""
MODERNBERT = ArchitectureSpec(
    model_types=("modernbert",),
    blocks=("layers.*",),
    groups=(
        Heads(
            query=Strip("attn.Wqkv", 0, 3),
            key=Strip("attn.Wqkv", 1, 3),
            value=Strip("attn.Wqkv", 2, 3),
            out="attn.Wo",
            stream="mlp_norm",
            head_dim="attn.head_dim",
            accepts=never,
            bias_flag="attention_bias",
        ),
        Mlp(
            produce=(Strip("mlp.Wi", 0, 2), Strip("mlp.Wi", 1, 2)),
            consume="mlp.Wo",
            stream="@block",
            bias_flag="mlp_bias",
        ),
    ),
    example=tiny_modernbert,
    mask="attention_mask",
    classifiers=("classifier", "qa_outputs"),
)
SPECS = (MODERNBERT,)
