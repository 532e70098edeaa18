"""GLM: LLaMA's attention, gate and up in one projection; in GLM-4 norms stand behind the consumers too."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA
from optimum_grail.core.spec import Mlp, Strip, always

GLM_HEADS = replace(HEADS, accepts=always, bias_flag=None)
GLM_MLP = Mlp(
    produce=(Strip("mlp.gate_up_proj", 0, 2), Strip("mlp.gate_up_proj", 1, 2)),
    consume="mlp.down_proj",
    stream="@block",
)
GLM = replace(LLAMA, model_types=("glm",), groups=(GLM_HEADS, GLM_MLP), example=tiny("GlmForCausalLM", **WIDE_HEADS))
GLM4 = replace(
    GLM,
    model_types=("glm4",),
    groups=(replace(GLM_HEADS, stream=None), replace(GLM_MLP, stream=None)),
    example=tiny("Glm4ForCausalLM", **WIDE_HEADS),
)
SPECS = (GLM, GLM4)
