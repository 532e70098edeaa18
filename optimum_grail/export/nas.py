"""The values and tensors of a ``nemotron-nas`` checkpoint; nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from optimum_grail.export.decoder import Attention, Decoder, FeedForward, Linear
from optimum_grail.export.packing import Layer, Part, heads_of, pack
from optimum_grail.export.padding import Room, rooms

Read = Callable[[str], Tensor]
Named = Iterator[tuple[str, Tensor]]
KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "hidden_act", "rope_parameters", "dtype")


def layers_of(decoder: Decoder) -> tuple[tuple[Layer, ...], list[Room]]:
    """The layers of a model, and the heads of each; the first has an attention, with which vLLM starts the stream."""
    layers = pack(decoder.sub_blocks)
    if layers and layers[0].attention is None:
        layers = (Layer(Part(None), layers[0].feed_forward), *layers[1:])
    real = [layer.attention is not None and layer.attention.block is not None for layer in layers]
    return layers, rooms([heads_of(layer) if here else (0, 0) for layer, here in zip(layers, real, strict=True)])


def config_values(
    values: dict[str, Any], decoder: Decoder, layers: Sequence[Layer], spaces: Sequence[Room]
) -> dict[str, Any]:
    """What ``config.json`` says.

    Args:
        values: of the model's own configuration.
        decoder: the model.
        layers, spaces: as of :func:`layers_of`.
    """
    return {
        **{name: values.get(name) for name in KEPT},
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "vocab_size": decoder.vocabulary,
        "hidden_size": decoder.hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": spaces[0].all_heads,
        "num_key_value_heads": max(space.all_groups for space in spaces),
        "head_dim": decoder.head_dim,
        "intermediate_size": max(_channels(layer) for layer in layers),
        "max_position_embeddings": decoder.context,
        "rms_norm_eps": decoder.epsilon,
        "tie_word_embeddings": decoder.head is None,
        "attention_bias": any(_is_biased(layer.attention) for layer in layers),
        "mlp_bias": any(_is_biased(layer.feed_forward) for layer in layers),
        "block_configs": [
            {
                "attention": {"no_op": layer.attention is None, "n_heads_in_group": room.all_heads // room.all_groups},
                "ffn": {"no_op": layer.feed_forward is None, "intermediate_size": _channels(layer)},
            }
            for layer, room in zip(layers, spaces, strict=True)
        ],
    }


def tensors_of(
    decoder: Decoder, layers: Sequence[Layer], spaces: Sequence[Room], config: dict[str, Any], read: Read
) -> Named:
    """Name and values of every tensor, in the dtypes of the model.

    Args:
        decoder: the model.
        layers, spaces: as of :func:`layers_of`.
        config: as of :func:`config_values`.
        read: gives a tensor of the model by its name.
    """
    yield "model.embed_tokens.weight", read(decoder.embedding)
    yield "model.norm.weight", read(decoder.norm)
    if decoder.head is not None:
        yield "lm_head.weight", read(decoder.head)
    for index, (layer, room) in enumerate(zip(layers, spaces, strict=True)):
        for part, make in ((layer.attention, _attention), (layer.feed_forward, _network)):
            for name, tensor in make(part, room, decoder, read) if part is not None else ():
                if config["attention_bias" if "self_attn" in name else "mlp_bias"] or not name.endswith("bias"):
                    yield f"model.layers.{index}.{name}", tensor.contiguous()


def _attention(part: Part, room: Room, decoder: Decoder, read: Read) -> Named:
    """An attention with the heads of ``room``, all biases included; of nothing, heads of zeros."""
    block, dim, like = part.block, decoder.head_dim, read(decoder.norm)
    if isinstance(block, Attention):
        yield "input_layernorm.weight", read(block.norm)
        projections = (("q", block.query, room.query), ("k", block.key, room.key), ("v", block.value, room.key))
        for name, linear, padded in projections:
            yield f"self_attn.{name}_proj.weight", padded(read(linear.weight), dim)
            yield f"self_attn.{name}_proj.bias", padded(_bias(linear, like, read), dim)
        yield "self_attn.o_proj.weight", room.out(read(block.out.weight), dim)
    else:
        yield "input_layernorm.weight", like.new_zeros(decoder.hidden)
        for name, heads in (("q", room.all_heads), ("k", room.all_groups), ("v", room.all_groups)):
            yield f"self_attn.{name}_proj.weight", like.new_zeros(heads * dim, decoder.hidden)
            yield f"self_attn.{name}_proj.bias", like.new_zeros(heads * dim)
        yield "self_attn.o_proj.weight", like.new_zeros(decoder.hidden, room.all_heads * dim)
    yield "self_attn.o_proj.bias", _sum(part, like.new_zeros(decoder.hidden), read)


def _network(part: Part, room: Room, decoder: Decoder, read: Read) -> Named:
    """A feed-forward network as it is, all biases included."""
    block, like = part.block, read(decoder.norm)
    if isinstance(block, FeedForward):
        yield "post_attention_layernorm.weight", read(block.norm)
        for name, linear in (("gate", block.gate), ("up", block.up)):
            yield f"mlp.{name}_proj.weight", read(linear.weight)
            yield f"mlp.{name}_proj.bias", _bias(linear, like, read)
        yield "mlp.down_proj.weight", read(block.out.weight)
        yield "mlp.down_proj.bias", _sum(part, like.new_zeros(decoder.hidden), read)


def _bias(linear: Linear, like: Tensor, read: Read) -> Tensor:
    return like.new_zeros(linear.rows) if linear.bias is None else read(linear.bias)


def _sum(part: Part, total: Tensor, read: Read) -> Tensor:
    for name in part.biases:
        total = total + read(name)
    return total


def _channels(layer: Layer) -> int:
    block = layer.feed_forward.block if layer.feed_forward is not None else None
    return block.width if isinstance(block, FeedForward) else 0


def _is_biased(part: Part | None) -> bool:
    """Whether any of its linear layers has a bias."""
    if part is None:
        return False
    block = part.block
    inner: tuple[Linear, ...] = ()
    if isinstance(block, Attention):
        inner = (block.query, block.key, block.value)
    elif isinstance(block, FeedForward):
        inner = (block.gate, block.up)
    return bool(part.biases) or any(linear.bias is not None for linear in inner)
