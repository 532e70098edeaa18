"""What kinds of groups, and sizes that were asked for, are called in tables."""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "heads": "attention",
    "mlp": "feed-forward channels",
    "conv": "inner channels",
    "expert-channels": "channels inside each expert",
    "shared-channels": "channels of each shared expert",
}
ASKED_NAMES: Mapping[str, str] = {
    "ffn_sparsity": "of the FFN channels",
    "head_sparsity": "of the heads",
    "channel_sparsity": "of the inner channels",
    "expert_sparsity": "of the experts",
    "expert_ffn_sparsity": "of the channels inside experts",
}
ASKED_KINDS: Mapping[str, str] = {
    "ffn_sparsity": "mlp",
    "head_sparsity": "heads",
    "channel_sparsity": "conv",
    "expert_sparsity": "experts",
    "expert_ffn_sparsity": "expert-channels",
}
"""Of which kind of group a size is a fraction."""
