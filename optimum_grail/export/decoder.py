"""A language model as a value: sub-blocks in the order of the residual stream, with widths and names of weights.

Families whose blocks are those of LLaMA are read here: attention with q, k, v and o, then a gated feed-forward network,
each behind an RMSNorm. What differs between them (biases, norms of heads) is seen in the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.export.rope import Rope, read_rope
from optimum_grail.models.residence import hook_of, offloaded_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Classes of transformers that are read, and what their family is called."""
_OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


@dataclass(frozen=True)
class Linear:
    """A linear layer.

    Args:
        weight: name of the tensor ``[rows, columns]``.
        bias: name of the tensor ``[rows]``, if there is one.
        rows: output features.
        columns: input features.
    """

    weight: str
    bias: str | None
    rows: int
    columns: int


@dataclass(frozen=True)
class Attention:
    """An attention sub-block; it adds ``out(...)`` to the stream.

    Args:
        norm: name of the weight of the RMSNorm before it.
        query, key, value, out: its projections.
        heads, groups: query heads and key-value heads; 0 where it has gone.
        query_norm, key_norm: names of the weights of norms within a head, if it has them.
    """

    norm: str
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    heads: int
    groups: int
    query_norm: str | None = None
    key_norm: str | None = None

    @property
    def width(self) -> int:
        """Query heads: without them there is nothing, whatever is left of keys and values."""
        return self.heads


@dataclass(frozen=True)
class FeedForward:
    """A gated feed-forward sub-block; it adds ``out(silu(gate(...)) * up(...))`` to the stream.

    Args:
        norm: name of the weight of the RMSNorm before it.
        gate, up, out: its projections.
    """

    norm: str
    gate: Linear
    up: Linear
    out: Linear

    @property
    def width(self) -> int:
        """Channels."""
        return self.out.columns


SubBlock = Attention | FeedForward


@dataclass(frozen=True)
class Decoder:
    """A causal language model.

    Args:
        family: a value of :data:`FAMILIES`.
        sub_blocks: in the order in which the stream meets them, those without width too.
        embedding, norm: names of the weights of the embeddings and of the last norm.
        head: name of the weight of the output layer; ``None`` where that is the embeddings.
        vocabulary, hidden, head_dim: rows of the embeddings, features of the stream, features of a head.
        epsilon: of the norms.
        context: tokens that the model was made for, within its attention's window.
        window: tokens that attention sees, if fewer than that.
        rope: its rotary positions.
    """

    family: str
    sub_blocks: tuple[SubBlock, ...]
    embedding: str
    norm: str
    head: str | None
    vocabulary: int
    hidden: int
    head_dim: int
    epsilon: float
    context: int
    window: int | None
    rope: Rope


Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> Shapes:
    """Shapes of all parameters by name, tied ones under every name."""
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}


def reader(model: nn.Module) -> Callable[[str], Tensor]:
    """A function that gives a parameter by its name, wherever it is (see :mod:`optimum_grail.models.residence`)."""
    found: dict[str, Callable[[], Tensor]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[name] = parameter.detach
    for path, module in model.named_modules():
        hook = hook_of(module)
        for name in offloaded_names(module, hook) if hook is not None else ():
            found[f"{path}.{name}".lstrip(".")] = partial(hook.weights_map.__getitem__, name)  # type: ignore[union-attr]

    def read(name: str) -> Tensor:
        """The values of the parameter called ``name``."""
        return found[name]()

    return read


def read_decoder(model: PreTrainedModel) -> Decoder:
    """Describe a model, compressed or not.

    Args:
        model: an instance of one of :data:`FAMILIES`.

    Raises:
        ArchitectureError: it computes something that a plain decoder does not: another activation, other positions,
            weights of a kind that is not known here.
        CheckpointError: widths of a layer that do not fit each other.
    """
    config: Any = model.config
    if config.hidden_act not in ("silu", "swish"):
        raise ArchitectureError(
            f"The activation of this model is {config.hidden_act!r}; other engines have 'silu' for "
            f"{', '.join(FAMILIES.values())}. Run this model with transformers."
        )
    shapes = shapes_of(model)
    used: set[str] = set()
    blocks = [f"model.layers.{index}" for index in range(int(config.num_hidden_layers))]
    sub_blocks = [part for path in blocks for part in _sub_blocks(path, shapes, int(config.head_dim or 0), used)]
    others = sorted(set(shapes) - used - set(_OUTSIDE))
    if others:
        raise ArchitectureError(
            f"The model has {len(others)} weights that no {FAMILIES[type(model).__name__]} has, among them "
            f"{others[0]!r}, and the file would have no place for them. Run this model with transformers."
        )
    vocabulary, hidden = shapes["model.embed_tokens.weight"]
    context, window = int(config.max_position_embeddings), _window(config)
    tied = model.get_output_embeddings() is None or "lm_head.weight" in _tied(model)
    return Decoder(
        family=FAMILIES[type(model).__name__],
        sub_blocks=tuple(sub_blocks),
        embedding="model.embed_tokens.weight",
        norm="model.norm.weight",
        head=None if tied else "lm_head.weight",
        vocabulary=vocabulary,
        hidden=hidden,
        head_dim=int(config.head_dim),
        epsilon=float(config.rms_norm_eps),
        context=min(context, window or context),
        window=window if window is not None and window < context else None,
        rope=read_rope(model.get_submodule("model.rotary_emb"), config),
    )


def _tied(model: PreTrainedModel) -> Mapping[str, str]:
    """Names of parameters that are others by another name."""
    return model.all_tied_weights_keys


def _window(config: Any) -> int | None:
    """Tokens that an attention with a sliding window sees; ``None`` where all layers see all."""
    values = config.to_dict()
    kinds = values.get("layer_types")
    slides = kinds is None or "sliding_attention" in kinds
    return values.get("sliding_window") if slides else None


def _sub_blocks(path: str, shapes: Shapes, head_dim: int, used: set[str]) -> Iterator[SubBlock]:
    """The attention and the feed-forward network of one block; ``used`` learns the names of their weights."""

    def vector(name: str) -> str | None:
        """The name of a parameter of the block, if it has it."""
        found = f"{path}.{name}"
        used.add(found)
        return found if found in shapes else None

    def linear(name: str) -> Linear:
        """A linear layer of the block."""
        weight, bias = f"{path}.{name}.weight", vector(f"{name}.bias")
        used.add(weight)
        rows, columns = shapes[weight]
        return Linear(weight, bias, rows, columns)

    query, key, value, out = (linear(f"self_attn.{name}_proj") for name in "qkvo")
    heads, groups = query.rows // head_dim, key.rows // head_dim
    whole = query.rows == out.columns == heads * head_dim and key.rows == value.rows == groups * head_dim
    if not whole or (heads % groups if groups else heads):
        raise CheckpointError(
            f"{path}.self_attn has {query.rows} query, {key.rows} key, {value.rows} value and {out.columns} output "
            f"features, which are no whole heads of {head_dim}. Restore the checkpoint."
        )
    norms = vector("input_layernorm.weight"), vector("post_attention_layernorm.weight")
    inner = vector("self_attn.q_norm.weight"), vector("self_attn.k_norm.weight")
    yield Attention(str(norms[0]), query, key, value, out, heads, groups, *inner)
    yield FeedForward(str(norms[1]), *(linear(f"mlp.{name}_proj") for name in ("gate", "up", "down")))
