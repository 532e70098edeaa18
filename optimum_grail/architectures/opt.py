"""OPT: norms before the sub-blocks, or after them (the 350M model); XGLM and BioGPT. Heads need the table."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

SIZES = {
    **{name: value for name, value in DECODER.items() if name != "initializer_range"},
    "init_std": 0.2,
    "ffn_dim": 48,
    "max_position_embeddings": 64,
}
BEFORE, AFTER = (("do_layer_norm_before", True),), (("do_layer_norm_before", False),)
OPT_HEADS = Heads(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    out="self_attn.out_proj",
    stream="final_layer_norm",
    head_dim="self_attn.head_dim",
    attributes=(("self_attn.num_heads", "query"),),
    accepts=never,
    when=BEFORE,
)
OPT_MLP = Mlp(produce=("fc1",), consume="fc2", stream="@block", field="ffn_dim", when=BEFORE)
tiny_opt_350m = tiny("OPTForCausalLM", **SIZES, do_layer_norm_before=False, word_embed_proj_dim=16)
OPT = ArchitectureSpec(
    model_types=("opt",),
    blocks=("layers.*",),
    groups=(
        OPT_HEADS,
        OPT_MLP,
        replace(OPT_HEADS, stream="self_attn_layer_norm", when=AFTER),
        replace(OPT_MLP, stream="final_layer_norm", when=AFTER),
    ),
    example=tiny("OPTForCausalLM", **SIZES),
    mask="attention_mask",
    depth_field="num_hidden_layers",
)
XGLM = replace(
    OPT,
    model_types=("xglm",),
    groups=(
        replace(
            OPT_HEADS,
            attributes=(*OPT_HEADS.attributes, ("self_attn.embed_dim", "width")),
            query_field="attention_heads",
            when=(),
        ),
        replace(OPT_MLP, when=()),
    ),
    example=tiny("XGLMForCausalLM", **SIZES),
    depth_field="num_layers",
)
BIOGPT = replace(
    OPT,
    model_types=("biogpt",),
    groups=(replace(OPT_HEADS, when=()), replace(OPT_MLP, field="intermediate_size", when=())),
    example=tiny("BioGptForCausalLM", **DECODER, intermediate_size=48, max_position_embeddings=64),
)
SPECS = (OPT, XGLM, BIOGPT)
