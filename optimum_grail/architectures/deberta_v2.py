"""DeBERTa v2 and v3: BERT's layer, whose attention also looks at projections of distances onto the same heads. v3 makes
them with the queries' and keys' own projections.

A checkpoint with a convolution after its first layer (xlarge, xxlarge of v2) is refused when its blocks are recorded:
what enters the second layer is not what left the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimum_grail.architectures._tiny import tiny
from optimum_grail.architectures.bert import BERT, SIZES
from optimum_grail.core.spec import Heads, never

POSITIONS: dict[str, Any] = {
    **SIZES,
    "relative_attention": True,
    "position_biased_input": False,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
    "num_labels": 5,
}
tiny_deberta_v2 = tiny("DebertaV2ForSequenceClassification", **POSITIONS, share_att_key=False)
"""Three layers, 4 heads of 8 dimensions, 48 FFN channels; distances have projections of their own."""
tiny_deberta_v3 = tiny("DebertaV2ForSequenceClassification", **POSITIONS, share_att_key=True)
"""The same with the projections of queries and keys."""
DEBERTA_V2 = replace(
    BERT,
    model_types=("deberta-v2",),
    groups=(
        Heads(
            query="attention.self.query_proj",
            key="attention.self.key_proj",
            value="attention.self.value_proj",
            out="attention.output.dense",
            stream="attention.output.LayerNorm",
            head_dim="attention.self.attention_head_size",
            attributes=(
                ("attention.self.num_attention_heads", "query"),
                ("attention.self.all_head_size", "width"),
            ),
            accepts=never,
            also=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
        ),
        BERT.groups[1],
    ),
    example=tiny_deberta_v2,
)
SPECS = (DEBERTA_V2,)
