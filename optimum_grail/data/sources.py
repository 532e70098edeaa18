"""From what the user names to calibration batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from optimum_grail.data import images, text
from optimum_grail.data.batches import (
    HELD_EVERY,
    LABELS,
    PROBE_FRACTION,
    CalibrationData,
    Kind,
    count_tokens,
    digest,
    fingerprint_image,
    fingerprint_tensors,
    fingerprint_text,
    fingerprint_tokens,
    make_batches,
)
from optimum_grail.data.labels import class_numbers
from optimum_grail.data.rows import Rows, input_names, only_inputs, read_rows, ready_samples
from optimum_grail.data.selfgen import generate_self_text
from optimum_grail.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from optimum_grail.report.progress import Progress

SELF = "self"
_TOKENS_PER_BATCH = 2048
_ROWS_PER_BATCH = 32


@dataclass(frozen=True, eq=False)
class _Samples:
    inputs: Sequence[dict[str, Tensor]]
    fingerprints: frozenset[str]
    seqlen: int | None = None
    notes: tuple[str, ...] = ()
    picked: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class _Request:
    """The arguments of :func:`load_calibration` that the samplers share."""

    model: nn.Module
    tokenizer: Any
    processor: Any
    text_column: str | None
    image_column: str | None
    num_samples: int
    seqlen: int | None
    seed: int
    label_column: str | None = None

    @property
    def config(self) -> Any:
        """The model's config, or ``None``."""
        return getattr(self.model, "config", None)

    @property
    def name(self) -> str:
        """What messages call the model."""
        return getattr(self.config, "name_or_path", "") or type(self.model).__name__

    def need_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, or a DataError that tells what the model folder lacks."""
        if self.tokenizer is None:
            raise DataError(
                f"Text must be tokenized, but {self.name!r} has no tokenizer (tokenizer.json is missing). "
                "Put the tokenizer's files into the model folder, pass tokenizer=…, or give tokenized data."
            )
        return self.tokenizer

    def length(self) -> int:
        """Tokens per sample."""
        return text.default_seqlen(self.config, self.tokenizer, self.seqlen)


def load_calibration(
    model: nn.Module,
    dataset: Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: Any = None,
    config_name: str | None = None,
    split: str | None = None,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    num_samples: int = 128,
    seqlen: int | None = None,
    batch_size: int | None = None,
    seed: int = 42,
    causal: bool,
    main_input: Kind,
    held_out: bool = True,
    progress: Progress | None = None,
) -> CalibrationData:
    """Read, draw and batch calibration samples; the same arguments give the same batches.

    Args:
        model: tells positions and input names, and writes the text for ``"self"``.
        dataset: what :func:`optimum_grail.data.rows.read_rows` reads, or ``"self"``.
        tokenizer: for text.
        processor: an image processor, or a processor that contains one, for images.
        config_name: configuration of a Hub dataset.
        split: default ``train``, or the only one.
        text_column: default ``text``, ``sentence1`` …, or the first column of strings.
        image_column: default the first column of images, image bytes or paths.
        label_column: column (or entry of ready-made samples) with the classes; by default none are read.
        num_samples: windows or rows to use; fewer rows than that are a note, fewer windows an error.
        seqlen: default min(2048, the model's positions, the tokenizer's limit).
        batch_size: default 32 rows, for text as many as make 2048 tokens.
        seed: of every random choice.
        causal: text becomes windows of exactly ``seqlen`` tokens instead of one padded sample per row.
        main_input: what a sample is.
        held_out: hold out the samples with index % 5 == 4.
        progress: told how far the model is with writing text.

    Raises:
        DataError: the data is missing, empty, too short, of the wrong type, or needs a tokenizer or processor that
            is not there; ``"self"`` for a model that is no causal language model.
        StatisticsError: the model cannot write text, since its logits are not finite.
    """
    if num_samples < 1 or (batch_size is not None and batch_size < 1):
        raise DataError(f"num_samples={num_samples}, batch_size={batch_size}: expected at least 1. Raise the number.")
    request = _Request(model, tokenizer, processor, text_column, image_column, num_samples, seqlen, seed, label_column)
    request.length()
    if label_column is not None and (causal or main_input == "pair"):
        raise DataError(
            f"label_column={label_column!r}: {request.name!r} does not tell classes apart. Leave it out; a causal "
            "language model's labels are the next tokens."
        )
    if isinstance(dataset, str) and dataset == SELF:
        samples, source = _self_samples(request, causal, batch_size, progress), f"{SELF}, seed {seed}"
    else:
        rows = read_rows(
            dataset,
            config_name=config_name,
            split=split,
            documents=causal and main_input == "text",
            strings="image" if main_input == "image" else "text",
        )
        samples, source = _row_samples(request, rows, causal, main_input), rows.source
    return _finish(samples, source, main_input, batch_size, held_out, tokenizer)


def _finish(
    samples: _Samples, source: str, kind: Kind, batch_size: int | None, held_out: bool, tokenizer: Any
) -> CalibrationData:
    inputs, notes = samples.inputs, samples.notes
    if held_out and len(inputs) < HELD_EVERY:
        notes += (f"{len(inputs)} samples, fewer than 5: rows are held out by contiguous halves",)
    longest = max((len(sample["input_ids"]) for sample in inputs if "input_ids" in sample), default=0)
    share = len(inputs) // PROBE_FRACTION if len(inputs) >= _ROWS_PER_BATCH else len(inputs)
    size = batch_size or max(1, min(_ROWS_PER_BATCH, _TOKENS_PER_BATCH // max(1, longest), share))
    pad_id = tokenizer.pad_token_id if tokenizer is not None else None
    return CalibrationData(
        batches=make_batches(inputs, batch_size=size, held_out=held_out, pad_id=pad_id or 0),
        source=source,
        sha256=digest(inputs),
        samples=len(inputs),
        tokens=0 if kind == "image" else count_tokens(inputs),
        seqlen=samples.seqlen,
        kind=kind,
        fingerprints=samples.fingerprints,
        notes=notes,
    )


def _self_samples(request: _Request, causal: bool, batch_size: int | None, progress: Progress | None) -> _Samples:
    if not causal:
        raise DataError(
            f"dataset='self' needs a causal language model that can write text, and {request.name!r} is none. "
            "Name calibration data with --dataset."
        )
    ids = generate_self_text(
        request.model,
        request.tokenizer,
        num_samples=request.num_samples,
        seqlen=request.length(),
        seed=request.seed,
        progress=progress,
    )
    return _Samples([{"input_ids": row} for row in ids], fingerprint_tokens(ids), ids.shape[1])


def _row_samples(request: _Request, rows: Rows, causal: bool, kind: Kind) -> _Samples:
    if rows.ready:
        return _ready(request, rows, kind)
    if kind == "text" and causal:
        return _windows(request, rows)
    samples = _texts(request, rows) if kind == "text" else _images(request, rows, kind)
    inputs = only_inputs(samples.inputs, type(request.model))
    if request.label_column is not None:
        numbers = class_numbers(rows.data, request.label_column, request.config, samples.picked)
        inputs = [{**sample, LABELS: number} for sample, number in zip(inputs, numbers, strict=True)]
    return replace(samples, inputs=inputs)


def _ready(request: _Request, rows: Rows, kind: Kind) -> _Samples:
    inputs = ready_samples(rows.data, input_names(type(request.model)), request.num_samples, request.label_column)
    limit = text.model_positions(request.config)
    longest = max((len(sample["input_ids"]) for sample in inputs if "input_ids" in sample), default=None)
    if limit is not None and longest is not None and longest > limit:
        raise DataError(
            f"A tokenized sample of {rows.source} has {longest} tokens, above the {limit} positions of the model. "
            "Truncate it."
        )
    fingerprints = frozenset(mark for sample in inputs for mark in fingerprint_tensors(sample))
    return _Samples(inputs, fingerprints, None if kind == "image" else longest, _fewer(request, len(inputs)))


def _fewer(request: _Request, count: int) -> tuple[str, ...]:
    return (f"{count} samples, fewer than the {request.num_samples} asked",) if count < request.num_samples else ()


def _windows(request: _Request, rows: Rows) -> _Samples:
    column = text.text_column(rows.data, request.text_column)
    tokenizer, seqlen = request.need_tokenizer(), request.length()
    running = text.joined_tokens(rows.data, column, tokenizer, need=request.num_samples * seqlen, seed=request.seed)
    windows = text.random_windows(
        running.ids, num_samples=request.num_samples, seqlen=seqlen, seed=request.seed, what=rows.source
    )
    notes = ("windows drawn from pieces of the text at random places",) if running.partial else ()
    return _Samples([{"input_ids": row} for row in windows], fingerprint_tokens(windows), seqlen, notes)


def _texts(request: _Request, rows: Rows) -> _Samples:
    column = text.text_column(rows.data, request.text_column)
    tokenizer, seqlen = request.need_tokenizer(), request.length()
    chosen = _chosen_texts(request, rows, column)
    samples = text.encode_rows(list(chosen.values()), tokenizer, seqlen)
    prints = frozenset(fingerprint_text(line) for line in chosen.values())
    return _Samples(samples, prints, seqlen, _fewer(request, len(samples)), list(chosen))


def _chosen_texts(request: _Request, rows: Rows, column: str) -> dict[int, str]:
    """Row number to text, for a draw among the rows that are not blank."""
    data = rows.data.select_columns([column])
    picked = text.pick_rows(
        len(data), request.num_samples, request.seed, lambda index: bool((data[index][column] or "").strip())
    )
    if not picked:
        raise DataError(f"Column {column!r} of {rows.source} holds blank rows only. Name another with --text-column.")
    return {index: data[index][column] for index in picked}


def _images(request: _Request, rows: Rows, kind: Kind) -> _Samples:
    column = images.image_column(rows.data, request.image_column)
    processor = images.image_processor(request.processor, repr(request.name))
    captions: dict[int, str] = {}
    if kind == "pair":
        caption = text.text_column(rows.data, request.text_column)
        request.need_tokenizer()
        captions = _chosen_texts(request, rows, caption)
    picked = list(captions) or text.pick_rows(len(rows.data), request.num_samples, request.seed)
    pictures = list(images.read_images(rows.data.select_columns([column]), column, picked))
    prints = frozenset(fingerprint_image(picture) for picture in pictures)
    notes = _fewer(request, len(pictures))
    if kind == "image":
        return _Samples(images.image_samples(pictures, processor), prints, None, notes, picked)
    length = request.length()
    texts = text.encode_rows(list(captions.values()), request.need_tokenizer(), length, pad_to=length)
    return _Samples(images.pair_samples(pictures, texts, processor), prints, length, notes)
