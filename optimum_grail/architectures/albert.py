"""ALBERT: BERT's layer, one for all depths of the model.

A layer that runs many times in a pass cannot be calibrated as others are, each on what the one before it puts out; so
that the models that everybody has are refused when their blocks are recorded. Methods without data work, and models
whose layers are not shared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimum_grail.architectures._tiny import tiny
from optimum_grail.architectures.bert import BERT, SIZES
from optimum_grail.core.spec import Heads, Mlp, never

SHARED = "All depths share one layer, which cannot be calibrated: only methods without data can make it smaller."
ALBERT_SIZES: dict[str, Any] = {**SIZES, "embedding_size": 16, "num_labels": 5}
tiny_albert = tiny("AlbertForSequenceClassification", **ALBERT_SIZES, num_hidden_groups=3)
"""Three layers that are not shared, 4 heads of 8 dimensions, 48 FFN channels."""
tiny_shared_albert = tiny("AlbertForSequenceClassification", **ALBERT_SIZES)
"""One layer, three times."""
ALBERT = replace(
    BERT,
    model_types=("albert",),
    blocks=("encoder.albert_layer_groups.*.albert_layers.*",),
    groups=(
        Heads(
            query="attention.query",
            key="attention.key",
            value="attention.value",
            out="attention.dense",
            stream="attention.LayerNorm",
            head_dim="attention.attention_head_size",
            attributes=(("attention.num_attention_heads", "query"), ("attention.all_head_size", "width")),
            accepts=never,
        ),
        Mlp(produce=("ffn",), consume="ffn_output", stream="full_layer_layer_norm"),
    ),
    example=tiny_albert,
    depth_field=None,
    impossible={"heads": SHARED, "mlp": SHARED},
)
SPECS = (ALBERT,)
