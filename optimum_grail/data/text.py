"""Text rows to token samples: windows of running text for causal models, one sample per row for encoders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimum_grail.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from optimum_grail.data.foreign import Config

MAX_SEQLEN = 2048
"""Longest default window; longer ones only on request, since memory grows with them."""

_INSANE_LENGTH = 10**7
_TEXT_COLUMNS = ("text", "sentence1", "sentence", "content", "caption")
_PIECE = 2**16
_CHARS_PER_TOKEN = 4
_SURPLUS = 64
_SURPLUS_TOKENS = 2**21
_LEAST_SURPLUS = 8
_ROW_BLOCK = 1024
_ROW_BLOCKS = 1024
_CUT = re.compile(r"(?<=\S)(?=[^\S\n]*\n)")


def default_seqlen(
    config: Config | None,
    tokenizer: PreTrainedTokenizerBase | None,
    seqlen: int | None = None,
    most: int = MAX_SEQLEN,
) -> int:
    """The length of a text sample: ``seqlen``, or the least of ``most``, the model's positions, the tokenizer's limit.

    Args:
        config: the model's configuration, or None for a module without one.
        tokenizer: its ``model_max_length`` counts where it is a real limit.
        seqlen: an explicit choice; neither ``most`` nor the tokenizer's limit binds it.
        most: longest length that is not asked for.

    Raises:
        DataError: ``seqlen`` is below 2 or above the model's positions.
    """
    positions = model_positions(config)
    if seqlen is not None:
        if seqlen < 2:
            raise DataError(f"seqlen={seqlen} is too short: expected at least 2 tokens. Choose a larger --seqlen.")
        if positions is not None and seqlen > positions:
            raise DataError(
                f"seqlen={seqlen} is above the {positions} positions of the model. "
                f"Choose --seqlen {positions} or less, or leave it out."
            )
        return seqlen
    limits = [most]
    if positions is not None:
        limits.append(positions)
    if tokenizer is not None and 0 < tokenizer.model_max_length < _INSANE_LENGTH:
        limits.append(int(tokenizer.model_max_length))
    return min(limits)


def model_positions(config: Config | None) -> int | None:
    """``max_position_embeddings`` of the (text) configuration, or None where the model states no limit."""
    from transformers import PretrainedConfig

    if not isinstance(config, PretrainedConfig):
        return None
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if isinstance(positions, int) and positions > 0 else None


def text_column(rows: Dataset, asked: str | None = None) -> str:
    """Name of the column that holds the text: ``asked``, else ``text``, ``sentence1`` …, else the first of strings.

    Raises:
        DataError: the asked column is missing or holds no strings, or there is no string column at all.
    """
    strings = [name for name, feature in rows.features.items() if _is_string(feature)]
    if asked is not None:
        require_column(rows, asked, "--text-column")
        if asked not in strings:
            raise DataError(
                f"Column {asked!r} holds {rows.features[asked]}, expected text. "
                f"Choose one of {strings or 'the text columns (there are none)'} with --text-column."
            )
        return asked
    if not strings:
        raise DataError(
            f"The dataset has no text column, only {describe_columns(rows)}. "
            "Choose a dataset with a column of strings and name it with --text-column."
        )
    return next((name for name in _TEXT_COLUMNS if name in strings), strings[0])


def require_column(rows: Dataset, name: str, flag: str) -> None:
    """Check that ``rows`` has the column ``name``.

    Raises:
        DataError: it has not; the message lists the columns and names ``flag``.
    """
    if name not in rows.features:
        raise DataError(f"The dataset has no column {name!r}, only {list(rows.features)}. Name one with {flag}.")


def describe_columns(rows: Dataset) -> str:
    """Names and types of the columns, for messages."""
    return ", ".join(f"{name} ({getattr(kind, 'dtype', type(kind).__name__)})" for name, kind in rows.features.items())


def _is_string(feature: object) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


@dataclass(frozen=True, eq=False)
class RunningText:
    """Token ids of joined rows.

    Attributes:
        ids: int64, 1-D.
        partial: whether only a part of the corpus was read.
    """

    ids: Tensor
    partial: bool


def joined_tokens(
    rows: Dataset, column: str, tokenizer: PreTrainedTokenizerBase, *, need: int | None = None, seed: int = 0
) -> RunningText:
    """Tokens of the rows joined by blank lines, without special tokens.

    The joined text is tokenized in pieces of 65,536 characters or a little more, cut only where a line of text ends;
    byte-level and word tokenizers give the same ids as for the whole text, others may mark the start of a piece like
    the start of a text. Where the corpus is larger than 64 times ``need`` (8 times, once that is above 2 million
    tokens), pieces drawn at seeded random places, in their original order, stand for the whole.

    Args:
        rows: the dataset.
        column: its text column.
        tokenizer: applied without special tokens.
        need: number of tokens that will be used; None reads everything.
        seed: of the draw of pieces.
    """
    picked, fewer = _row_blocks(rows, seed) if need is not None else (rows, False)
    pieces = list(text_pieces(_texts(picked, column)))
    if need is not None:
        budget = max(min(_SURPLUS * need, _SURPLUS_TOKENS), _LEAST_SURPLUS * need) * _CHARS_PER_TOKEN
        count = max(1, -(-budget // _PIECE))
        if len(pieces) > count:
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(pieces), generator=generator)[:count].sort().values.tolist()
            pieces, fewer = [pieces[index] for index in chosen], True
    return RunningText(_encode_pieces(pieces, tokenizer), fewer)


def first_tokens(rows: Dataset, column: str, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Tensor:
    """The first ``limit`` tokens (int64, 1-D) of the rows joined as in :func:`joined_tokens`; all for None."""
    parts: list[Tensor] = []
    total = 0
    for piece in text_pieces(_texts(rows, column)):
        parts.append(_encode_pieces([piece], tokenizer))
        total += len(parts[-1])
        if limit is not None and total >= limit:
            break
    return torch.cat(parts)[:limit] if parts else torch.zeros(0, dtype=torch.int64)


def _row_blocks(rows: Dataset, seed: int) -> tuple[Dataset, bool]:
    # a corpus of tens of millions of rows is not walked through: blocks of rows at seeded random places stand for it
    blocks = -(-len(rows) // _ROW_BLOCK)
    if blocks <= _ROW_BLOCKS:
        return rows, False
    chosen = torch.randperm(blocks, generator=torch.Generator().manual_seed(seed))[:_ROW_BLOCKS].sort().values
    spans = (range(start, min(start + _ROW_BLOCK, len(rows))) for start in (chosen * _ROW_BLOCK).tolist())
    return rows.select([index for span in spans for index in span]), True


def _texts(rows: Dataset, column: str) -> Iterator[str]:
    for batch in rows.select_columns([column]).iter(batch_size=1000):
        yield from (text for text in batch[column] if text is not None)


def text_pieces(texts: Iterator[str] | Sequence[str]) -> Iterator[str]:
    """Cut ``"\\n\\n".join(texts)`` into pieces of 65,536 characters or more, each cut where a line ends."""
    buffer: list[str] = []
    size = 0
    for index, text in enumerate(texts):
        part = text if index == 0 else f"\n\n{text}"
        buffer.append(part)
        size += len(part)
        if size >= _PIECE:
            *done, rest = _cut("".join(buffer))
            yield from done
            buffer, size = [rest], len(rest)
    last = "".join(buffer)
    if last:
        yield last


def _cut(text: str) -> list[str]:
    parts: list[str] = []
    start = 0
    while (found := _CUT.search(text, start + _PIECE)) is not None:
        parts.append(text[start : found.start()])
        start = found.start()
    return [*parts, text[start:]]


def _encode_pieces(pieces: list[str], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    if not pieces:
        return torch.zeros(0, dtype=torch.int64)
    encoded = tokenizer(pieces, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return torch.cat([torch.tensor(ids, dtype=torch.int64) for ids in encoded])


def random_windows(
    ids: Tensor, *, num_samples: int, seqlen: int, seed: int, what: str, remedy: str | None = None
) -> Tensor:
    """Draw non-overlapping windows of exactly ``seqlen`` tokens at seeded random places.

    Args:
        ids: token ids, 1-D.
        num_samples: number of windows.
        seqlen: their length.
        seed: of the common offset and of the choice.
        what: name of the data for the message.
        remedy: what the message advises beside more text, where it is not fewer samples.

    Returns:
        int64 ``[num_samples, seqlen]``, in random order.

    Raises:
        DataError: the text has fewer windows than asked; the message says how many.
    """
    count = len(ids) // seqlen
    if count < num_samples:
        raise DataError(
            f"{what} has {len(ids)} tokens, which is {count} windows of seqlen={seqlen}; expected {num_samples}. "
            f"Give more text, or {remedy or f'lower --num-samples to {max(count, 1)} or --seqlen'}."
        )
    generator = torch.Generator().manual_seed(seed)
    offset = int(torch.randint(len(ids) - count * seqlen + 1, (1,), generator=generator))
    order = torch.randperm(count, generator=generator)[:num_samples]
    return ids[offset : offset + count * seqlen].view(count, seqlen)[order]


def encode_rows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, seqlen: int, *, pad_to: int | None = None
) -> list[dict[str, Tensor]]:
    """One sample per text, with special tokens, truncated to ``seqlen``; padded to ``pad_to`` where given.

    Returns:
        per text: ``input_ids``, ``attention_mask`` and what else the tokenizer gives, int64, 1-D.
    """
    padding = {"padding": "max_length", "max_length": pad_to} if pad_to else {"max_length": seqlen}
    encoded = tokenizer(list(texts), truncation=True, return_attention_mask=True, verbose=False, **padding)
    return [
        {key: torch.tensor(values[index], dtype=torch.int64) for key, values in encoded.items()}
        for index in range(len(texts))
    ]


def pick_rows(count: int, num_samples: int, seed: int, usable: Callable[[int], bool] | None = None) -> list[int]:
    """Row numbers of up to ``num_samples`` samples: all in order where they suffice, else a seeded random draw.

    Args:
        count: number of rows.
        num_samples: number of samples wanted.
        seed: of the draw.
        usable: tells of a row number whether the row can be a sample; unusable rows are passed over.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    if count <= num_samples:
        order = sorted(order)
    chosen: list[int] = []
    for index in order:
        if len(chosen) == num_samples:
            break
        if usable is None or usable(index):
            chosen.append(index)
    return chosen
