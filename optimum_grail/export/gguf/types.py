"""The types of weights that a file may have, and which one each tensor gets."""

from __future__ import annotations

from typing import Literal, get_args

Type = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
TYPES: tuple[Type, ...] = get_args(Type)
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
"""``general.file_type`` by type of most tensors."""
BLOCK = 32
"""Weights of a row that share a scale in the quantized types."""
BYTES = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (BLOCK, 34), "q4_0": (BLOCK, 18)}
"""Weights of a block, and its bytes."""
LARGEST = {"f32": 3.4e38, "bf16": 3.3e38, "f16": 65504.0, "q8_0": 127 * 65504.0, "q4_0": 8 * 65504.0}
"""The largest number that fits; scales of quantized types are f16."""
_TABLES = ("token_embd.weight", "output.weight")


def is_quantized(kind: str) -> bool:
    """Whether rows of this type consist of blocks."""
    return BYTES[kind][0] > 1


def type_of(name: str, shape: tuple[int, ...], kind: Type) -> Type:
    """The type of a tensor where the file shall be of type ``kind``.

    Vectors stay f32, as llama.cpp wants norms and biases. A matrix whose rows are no multiple of :data:`BLOCK` cannot
    be quantized and becomes f16. With q4_0 the embeddings and the output layer get q8_0, since every token depends on
    them.

    Args:
        name: in the file.
        shape: rows first.
        kind: what was asked for.
    """
    if len(shape) == 1:
        return "f32"
    if is_quantized(kind) and shape[-1] % BLOCK:
        return "f16"
    return "q8_0" if kind == "q4_0" and name in _TABLES else kind


def bytes_of(shape: tuple[int, ...], kind: Type) -> int:
    """Bytes of a tensor in a file, padding aside."""
    per_block, size = BYTES[kind]
    count = 1
    for length in shape:
        count *= length
    return count // per_block * size
