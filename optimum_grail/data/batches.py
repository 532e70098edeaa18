"""Calibration data as a value: batches of model inputs, and what the report needs to know about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from optimum_grail.errors import DataError
from optimum_grail.report.report import SourceRows

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["fit", "held", "halves"]
_SPLITS: tuple[Split, ...] = ("halves", "fit", "held")
SampleKind = Literal["text", "image", "pair", "tensors"]

HELD_EVERY = 5
"""Every fifth sample is held out for choosing the ridge; below five samples there is nothing to hold out."""

PROBE_FRACTION = 8
"""One in so many samples takes part in the forward passes that measure sensitivities; unless there are hardly any, no
batch is larger than that."""

_GRAM = 32
_KEEP_ONE_IN = 16
_DISTINCT = 12  # runs of blank lines and rulers are the same in all texts
_HASHED_TOKENS = 2**16
LABELS = "labels"
"""Entry of a sample that is no input of the model."""
IGNORED = -100
"""Label of positions that have none."""
_PAD_VALUES = {LABELS: IGNORED}


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples that go through the model together.

    Attributes:
        inputs: keyword arguments of the model, first axis = sample. Padded positions carry 0 in ``attention_mask``;
            without that key every position counts.
        split: ``"fit"`` (statistics), ``"held"`` (choice of the ridge), or ``"halves"`` (too few samples: the
            statistics divide the rows of the batch into contiguous halves).
        labels: classes, int64 ``[samples]``, or ``[samples, tokens]`` with -100 where there is none; ``None`` where no
            labels were asked for.
        source: which of the data's sources all its samples come from, counted from 0.
    """

    inputs: dict[str, Tensor]
    split: Split
    labels: Tensor | None = None
    source: int = 0

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def head(self, count: int = 1) -> Batch:
        """A batch of the first sample alone, or the first ``count``, for checks that need no more."""
        labels = None if self.labels is None else self.labels[:count]
        return Batch({name: tensor[:count] for name, tensor in self.inputs.items()}, self.split, labels, self.source)


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """Everything the compression reads, and its provenance for the report.

    Attributes:
        batches: in a fixed order; each is wholly ``fit``, ``held`` or ``halves``.
        source: where the samples come from, as the user wrote it.
        sha256: hash of the selected samples' token ids and pixel values.
        samples: number of samples.
        tokens: number of unpadded text tokens; 0 for images.
        seqlen: length of causal windows or the truncation limit; None for images.
        kind: what a sample is.
        fingerprints: hashes that evaluation data on the same material share (see :func:`overlap`).
        notes: remarks for the report, for example that fewer rows were there than asked.
        sources: what each source gave, in the order of ``Batch.source``.
    """

    batches: tuple[Batch, ...]
    source: str
    sha256: str
    samples: int
    tokens: int
    seqlen: int | None
    kind: SampleKind
    fingerprints: frozenset[str]
    notes: tuple[str, ...] = ()
    sources: tuple[SourceRows, ...] = ()


def overlap(data: CalibrationData, fingerprints: Iterable[str]) -> int:
    """Number of fingerprints the calibration data shares with ``fingerprints``; 0 means no common material."""
    return len(data.fingerprints & frozenset(fingerprints))


def splits_of(count: int, held_out: bool) -> list[Split]:
    """The split of each of ``count`` samples: index % 5 == 4 is held out, all are halves below five samples."""
    if not held_out:
        return ["fit"] * count
    if count < HELD_EVERY:
        return ["halves"] * count
    return ["held" if index % HELD_EVERY == HELD_EVERY - 1 else "fit" for index in range(count)]


MOST_SUBSETS = 3
"""Sources are joined into at most so many subsets: each costs a Gram matrix per layer and a contest of its own."""


def subset_of(batch: Batch, crossed: bool) -> int | None:
    """Which subset of a group's statistics the rows of ``batch`` belong to; ``None``: contiguous halves of its samples
    are subsets 0 and 1.

    Of one source, what is fitted on is subset 0 and what is held out subset 1. Of several, every source is a subset,
    and some share one where there are more than :data:`MOST_SUBSETS`.

    Args:
        batch: of the calibration data.
        crossed: whether the data has several sources.
    """
    if crossed:
        return batch.source % MOST_SUBSETS
    return {"fit": 0, "held": 1, "halves": None}[batch.split]


def make_batches(
    samples: Sequence[Mapping[str, Tensor]],
    *,
    batch_size: int,
    held_out: bool = True,
    pad_id: int = 0,
    source: int = 0,
) -> tuple[Batch, ...]:
    """Group samples (tensors without a batch axis) into batches that each belong to one split, order kept.

    Args:
        samples: model inputs, all with the same keys; 1-D entries may differ in length and are padded on the right.
            The entry ``labels`` becomes the labels of the batch.
        batch_size: most samples per batch.
        held_out: whether to hold every fifth sample out.
        pad_id: token id for padded positions of ``input_ids``.
        source: which of the data's sources all samples come from.

    Raises:
        DataError: the samples have different keys, or shapes that cannot be padded.
    """
    samples = with_masks(samples)
    splits = splits_of(len(samples), held_out)
    batches: list[Batch] = []
    for split in _SPLITS:
        chosen = [sample for sample, name in zip(samples, splits, strict=True) if name == split]
        for start in range(0, len(chosen), batch_size):
            inputs = collate(chosen[start : start + batch_size], pad_id)
            labels = inputs.pop(LABELS, None)
            batches.append(Batch(inputs, split, labels, source))
    return tuple(batches)


def interleave(groups: Sequence[Sequence[Batch]]) -> tuple[Batch, ...]:
    """The batches of several sources in one order: what is held out comes last, and each source's batches are spread
    evenly over both parts, so that the first of them are a fair sample of all sources.

    Args:
        groups: batches of one source each, in the order of the sources.
    """
    placed: list[tuple[bool, float, Batch]] = []
    for group in groups:
        for split in _SPLITS:
            own = [batch for batch in group if batch.split == split]
            placed += [(split == "held", (index + 0.5) / len(own), batch) for index, batch in enumerate(own)]
    return tuple(batch for _, _, batch in sorted(placed, key=lambda item: item[:2]))


def with_masks(samples: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Copies of the samples, with an ``attention_mask`` of ones added where token counts differ and none is given."""
    lengths = {len(sample["input_ids"]) for sample in samples if "input_ids" in sample}
    if len(lengths) < 2:
        return [dict(sample) for sample in samples]
    return [{"attention_mask": torch.ones_like(sample["input_ids"]), **sample} for sample in samples]


def collate(samples: Sequence[Mapping[str, Tensor]], pad_id: int = 0) -> dict[str, Tensor]:
    """Stack samples along a new first axis; 1-D tensors are padded on the right to the longest.

    Raises:
        DataError: the samples have different keys, or shapes that cannot be padded.
    """
    keys = list(samples[0])
    for index, sample in enumerate(samples):
        if set(sample) != set(keys):
            raise DataError(
                f"Calibration sample {index} has the inputs {sorted(sample)}, the first has {sorted(keys)}. "
                "Give every sample the same inputs."
            )
    return {key: _stack(key, [sample[key] for sample in samples], pad_id) for key in keys}


def _stack(key: str, tensors: Sequence[Tensor], pad_id: int) -> Tensor:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) == 1:
        return torch.stack(list(tensors))
    if any(len(shape) != 1 for shape in shapes):
        raise DataError(
            f"The samples' {key!r} have different shapes {sorted(shapes)}, and only token sequences can be padded. "
            "Bring all samples to one size first, for example with the model's image processor."
        )
    value = pad_id if key == "input_ids" else _PAD_VALUES.get(key, 0)
    return torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True, padding_value=value)


def count_tokens(samples: Sequence[Mapping[str, Tensor]]) -> int:
    """Number of text tokens that are not padding, over all samples."""
    return sum(
        int(sample["attention_mask"].sum()) if "attention_mask" in sample else sample["input_ids"].numel()
        for sample in samples
        if "input_ids" in sample
    )


def few_of(batches: Sequence[Batch]) -> list[int]:
    """Indices of the batches that short forward passes take: at most an eighth of the samples."""
    sizes = [batch.size for batch in batches]
    few, seen = [0], sizes[0]
    for index in range(1, len(sizes)):
        if seen + sizes[index] <= sum(sizes) / PROBE_FRACTION:
            few.append(index)
            seen += sizes[index]
    return few


def digest(samples: Sequence[Mapping[str, Tensor]]) -> str:
    """sha256 (hex) over names, shapes, dtypes and bytes of all inputs of all samples, in order."""
    state = hashlib.sha256()
    for sample in samples:
        for key in sorted(sample):
            tensor = sample[key].detach().cpu().contiguous()
            state.update(f"{key}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
            state.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def fingerprint_tensors(sample: Mapping[str, Tensor]) -> frozenset[str]:
    """Fingerprints of a ready-made sample: of its tokens where it has enough, else one hash of all inputs."""
    if "input_ids" in sample and "pixel_values" not in sample:
        grams = fingerprint_tokens(sample["input_ids"])
        if grams:
            return grams
    inputs = {key: value for key, value in sample.items() if key != LABELS}
    return frozenset({f"tensor:{digest([inputs])[:16]}"})


def fingerprint_text(text: str) -> str:
    """Fingerprint of one row of text; white space at its ends and runs of it do not matter."""
    return f"text:{hashlib.sha256(' '.join(text.split()).encode()).hexdigest()[:16]}"


def fingerprint_image(image: Image) -> str:
    """Fingerprint of one decoded RGB image: its size and its pixels."""
    return f"image:{hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:16]}"


def fingerprint_tokens(ids: Tensor) -> frozenset[str]:
    """Fingerprints of running text that do not depend on where its windows start.

    Every run of 32 token ids is hashed and one in 16 hashes is kept, chosen by the hash itself, so two windows cut
    from the same text at different places share the fingerprints of their common part (winnowing). Runs of fewer
    than 12 different tokens do not count.

    Args:
        ids: token ids, 1-D, or 2-D with one window per row.
    """
    rows = ids.reshape(1, -1) if ids.dim() == 1 else ids
    if rows.shape[1] < _GRAM:
        return frozenset()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-(2**62), 2**62, (_GRAM,), generator=generator, dtype=torch.int64) | 1
    found: set[int] = set()
    for part in rows.split(max(1, _HASHED_TOKENS // rows.shape[1])):
        found.update(_telling_hashes(part.to(torch.int64), weight).tolist())
    return frozenset(f"gram:{value & (2**64 - 1):016x}" for value in found)


def _telling_hashes(rows: Tensor, weight: Tensor) -> Tensor:
    grams = (rows + 1).unfold(1, _GRAM, 1)
    # int64 products wrap around, which is what such a hash wants; the shift takes the well mixed bits
    hashes = (grams * weight).sum(dim=-1)
    chosen = (hashes >> 40) % _KEEP_ONE_IN == 0
    ordered = grams[chosen].sort(dim=-1).values
    telling = (ordered.diff(dim=-1) != 0).sum(dim=-1) + 1 >= _DISTINCT
    return hashes[chosen][telling]
