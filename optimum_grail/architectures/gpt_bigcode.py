"""GPT BigCode (StarCoder, SantaCoder): GPT-2's layer in plain linear layers; query heads mostly share one key."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.architectures.gpt2 import GPT2, GPT2_MLP
from optimum_grail.core.spec import Heads, Strip, never

SIZES = {**DECODER, "n_positions": 64}
ONE_KEY = Heads(
    query=Strip("attn.c_attn", 0, 3, interleaved=True),
    key=Strip("attn.c_attn", 1, 3, interleaved=True),
    value=Strip("attn.c_attn", 2, 3, interleaved=True),
    out="attn.c_proj",
    stream="ln_2",
    head_dim="attn.head_dim",
    attributes=(
        ("attn.num_heads", "query"),
        ("attn.embed_dim", "width"),
        ("attn.num_key_value_groups", "per_key"),
    ),
    query_field="n_head",
    shared=(),
    accepts=never,
    when=(("multi_query", True),),
)
tiny_many_keys_bigcode = tiny("GPTBigCodeForCausalLM", **SIZES, multi_query=False)
GPT_BIGCODE = replace(
    GPT2,
    model_types=("gpt_bigcode",),
    groups=(ONE_KEY, replace(ONE_KEY, shared=None, when=(("multi_query", False),)), GPT2_MLP),
    example=tiny("GPTBigCodeForCausalLM", **SIZES),
    depth_when=(),
)
SPECS = (GPT_BIGCODE,)
