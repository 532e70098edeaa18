"""BERT and the encoders that share its layer: post-LayerNorm; their configs derive the head size from the number of
heads, so heads need the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimum_grail.architectures._rigid import NO_POSITIONS
from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
HEADS = ("classifier", "classifier.out_proj", "qa_outputs")
"""What puts out the answers of models for classification and question answering; one of them in each."""
tiny_bert = tiny("BertModel", **SIZES)
"""Three layers, 4 heads of 8 dimensions, 48 FFN channels."""
tiny_roberta = tiny("RobertaForSequenceClassification", **SIZES, num_labels=5)
tiny_electra = tiny(
    "ElectraForSequenceClassification", **SIZES | {"intermediate_size": 40}, embedding_size=16, num_labels=5
)

BERT = ArchitectureSpec(
    model_types=("bert", "ernie", "layoutlm", "splinter"),
    blocks=("encoder.layer.*",),
    groups=(
        Heads(
            rigid=NO_POSITIONS,
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
    classifiers=HEADS,
)
ROBERTA = replace(BERT, model_types=("roberta", "xlm-roberta", "camembert", "data2vec-text"), example=tiny_roberta)
ELECTRA = replace(BERT, model_types=("electra",), example=tiny_electra)
SPECS = (BERT, ROBERTA, ELECTRA)
