"""From what the user names to calibration batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from optimum_grail.config.source import SELF
from optimum_grail.data import images, opening, text
from optimum_grail.data.batches import (
    HELD_EVERY,
    LABELS,
    PROBE_FRACTION,
    Batch,
    CalibrationData,
    count_tokens,
    digest,
    fingerprint_image,
    fingerprint_tensors,
    fingerprint_text,
    fingerprint_tokens,
    interleave,
    make_batches,
)
from optimum_grail.data.decoder_side import with_decoder_side
from optimum_grail.data.genres import read_genre
from optimum_grail.data.labels import class_numbers
from optimum_grail.data.own_text import Keep, own_text
from optimum_grail.data.parts import Part, check_sources, parts_of
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.rows import Rows, input_names, only_inputs, read_rows, ready_samples
from optimum_grail.data.selfgen import SelfText
from optimum_grail.data.starts import need_template
from optimum_grail.errors import DataError, shorten
from optimum_grail.processes.ranks import ALONE, Ranks
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.report.report import SourceRows

_TOKENS_PER_BATCH, _ROWS_PER_BATCH = 2048, 32


@dataclass(frozen=True, eq=False)
class _Samples:
    inputs: Sequence[dict[str, Tensor]]
    fingerprints: frozenset[str]
    seqlen: int | None = None
    notes: tuple[str, ...] = ()
    picked: Sequence[int] = ()
    source: str = ""


def load_calibration(
    recipient: Recipient,
    request: DataRequest,
    *,
    held_out: bool = True,
    progress: Progress | None = None,
    keep: Keep | None = None,
    ranks: Ranks = ALONE,
) -> CalibrationData:
    """Read, draw and batch calibration samples; the same arguments give the same batches.

    The sources of a mixture share the samples by weight; every batch is of one source.

    Args:
        recipient: the model that the samples are for; it writes the text for ``"self"``.
        request: which rows.
        held_out: hold out the samples of every source with index % 5 == 4.
        progress: told what is going on.
        keep: knows the text that the model has written already; ``None``: there is none. ``ranks`` write it together.

    Raises:
        DataError: the data is missing, empty, too short, of the wrong type, or needs a tokenizer or processor that
            is not there; ``"self"``, or nothing at all, for a model that is no causal language model; fewer samples
            than sources.
        StatisticsError: the model cannot write text, since its logits are not finite.
    """
    parts = parts_of(request)
    _check(recipient, request, parts)
    progress, samples = progress or Silent(), {}
    if not all(part.own for part in parts):
        progress.message("Reading calibration data")
    for number, part in sorted(enumerate(parts), key=lambda item: item[1].own):  # what takes longest comes last
        samples[number] = _read(recipient, part, progress, keep, ranks)
    return _finish([samples[number] for number in range(len(parts))], parts, recipient, request, held_out)


def _check(recipient: Recipient, request: DataRequest, parts: Sequence[Part]) -> None:
    """Refuse what no data could mend, before any is read."""
    if request.dataset is None and not recipient.causal:
        raise DataError(
            f"{type(recipient.model).__name__} needs calibration data: name it with --dataset (calibration_dataset=). "
            "Only causal language models can write their own."
        )
    recipient.length(request.seqlen)
    if request.label_column is not None and (recipient.causal or recipient.main_input == "pair"):
        raise DataError(
            f"label_column={request.label_column!r}: {recipient.name!r} does not tell classes apart. Leave it out; a "
            "causal language model's labels are the next tokens."
        )
    if any(part.own for part in parts) and not recipient.causal:
        raise DataError(
            f"dataset='self' needs a causal language model that can write text, and {recipient.name!r} is none. "
            "Name calibration data with --dataset."
        )
    check_sources(request.dataset)
    if any(part.genre for part in parts) and recipient.main_input != "text":
        raise DataError(
            f"The general corpus holds text, and {recipient.name!r} needs a data set of {recipient.main_input}s. Name "
            "one with --dataset."
        )
    if any(part.writing is not None and part.writing.starts == "chat" for part in parts):
        need_template(recipient.tokenizer)


def _read(recipient: Recipient, part: Part, progress: Progress, keep: Keep | None, ranks: Ranks) -> _Samples:
    """The samples of one source; in a mixture, messages name it."""
    request = part.request
    try:
        if part.own:
            written = own_text(recipient, part, progress, keep, ranks)
            samples = replace(_self_samples(written), source=f"{SELF}, seed {request.seed}")
        else:
            rows = _rows(recipient, part)
            samples = replace(_row_samples(recipient, request, rows, shared=bool(part.name)), source=rows.source)
    except DataError as error:
        if not part.name:
            raise
        raise DataError(f"Source {shorten(part.name, 200)}, {request.num_samples} samples: {error}") from error
    return replace(samples, source=part.name) if part.name else samples


def _rows(recipient: Recipient, part: Part) -> Rows:
    if part.genre:
        return Rows(read_genre(part.name), part.name)
    return read_rows(
        part.dataset,
        config_name=part.request.config_name,
        split=part.request.split,
        documents=recipient.causal and recipient.main_input == "text",
        strings="image" if recipient.main_input == "image" else "text",
    )


def _finish(
    samples: Sequence[_Samples], parts: Sequence[Part], recipient: Recipient, request: DataRequest, held_out: bool
) -> CalibrationData:
    kind = recipient.main_input
    sources = tuple(
        SourceRows(
            found.source,
            part.weight,
            len(found.inputs),
            0 if kind == "image" else count_tokens(found.inputs),
            digest(found.inputs),
        )
        for found, part in zip(samples, parts, strict=True)
    )
    return CalibrationData(
        batches=_batches([found.inputs for found in samples], recipient, request, held_out),
        source=sources[0].name if request.mixture is None else request.mixture.spelled(),
        sha256=digest([sample for found in samples for sample in found.inputs]),
        samples=sum(rows.samples for rows in sources),
        tokens=sum(rows.tokens for rows in sources),
        seqlen=max((found.seqlen for found in samples if found.seqlen is not None), default=None),
        kind=kind,
        fingerprints=frozenset().union(*(found.fingerprints for found in samples)),
        notes=_notes(samples, held_out),
        sources=sources,
    )


def _notes(samples: Sequence[_Samples], held_out: bool) -> tuple[str, ...]:
    """The notes of all sources; what holds for some of several names them, what holds for all is said once."""
    about: dict[str, list[str]] = {}
    for found in samples:
        few = len(found.inputs) < HELD_EVERY and held_out
        halved = (f"{len(found.inputs)} samples, fewer than 5: rows are held out by contiguous halves",) if few else ()
        for note in (*found.notes, *halved):
            about.setdefault(note, []).append(found.source)
    return tuple(note if len(names) == len(samples) else f"{', '.join(names)}: {note}" for note, names in about.items())


def _batches(
    groups: Sequence[Sequence[dict[str, Tensor]]], recipient: Recipient, request: DataRequest, held_out: bool
) -> tuple[Batch, ...]:
    """The batches of all sources; each gives at least four where there are several, so that a quarter of the batches
    can hold all of them."""
    inputs = [sample for group in groups for sample in group]
    longest = max((len(sample["input_ids"]) for sample in inputs if "input_ids" in sample), default=0)
    share = len(inputs) // PROBE_FRACTION if len(inputs) >= _ROWS_PER_BATCH else len(inputs)
    size = request.batch_size or max(1, min(_ROWS_PER_BATCH, _TOKENS_PER_BATCH // max(1, longest), share))
    pad_id = recipient.tokenizer.pad_token_id if recipient.tokenizer is not None else None
    found = []
    for source, group in enumerate(groups):
        most = size if len(groups) == 1 or request.batch_size else max(1, min(size, len(group) // HELD_EVERY))
        found.append(make_batches(group, batch_size=most, held_out=held_out, pad_id=pad_id or 0, source=source))
    return interleave(found)


def _self_samples(written: SelfText) -> _Samples:
    ids, times = written.ids, written.restarts
    notes = (f"rows that went round in circles were begun anew {times} times",) if times else ()
    return _Samples([{"input_ids": row} for row in ids], fingerprint_tokens(ids), ids.shape[1], notes)


def _row_samples(recipient: Recipient, request: DataRequest, rows: Rows, shared: bool) -> _Samples:
    if rows.ready:
        return _ready(recipient, request, rows)
    if recipient.main_input == "tensors":
        raise DataError(
            f"{recipient.name!r} takes neither text nor images, and nothing here makes its inputs of {rows.source}. "
            "Pass a list of inputs as its processor returns them (GrailCompressor.compress)."
        )
    if recipient.main_input == "text" and recipient.causal:
        return _windows(recipient, request, rows, shared)
    samples = (_texts if recipient.main_input == "text" else _images)(recipient, request, rows)
    inputs = with_decoder_side(recipient.model, only_inputs(samples.inputs, type(recipient.model)))
    if request.label_column is not None:
        numbers = class_numbers(rows.data, request.label_column, recipient.config, samples.picked)
        inputs = [{**sample, LABELS: number} for sample, number in zip(inputs, numbers, strict=True)]
    return replace(samples, inputs=inputs)


def _ready(recipient: Recipient, request: DataRequest, rows: Rows) -> _Samples:
    accepted = input_names(type(recipient.model))
    inputs = ready_samples(rows.data, accepted, request.num_samples, request.label_column)
    limit = text.model_positions(recipient.config)
    longest = max((len(sample["input_ids"]) for sample in inputs if "input_ids" in sample), default=None)
    if limit is not None and longest is not None and longest > limit:
        raise DataError(
            f"A tokenized sample of {rows.source} has {longest} tokens, above the {limit} positions of the model. "
            "Truncate it."
        )
    fingerprints = frozenset(mark for sample in inputs for mark in fingerprint_tensors(sample))
    seqlen = None if recipient.main_input == "image" else longest
    return _Samples(inputs, fingerprints, seqlen, _fewer(request, len(inputs)))


def _fewer(request: DataRequest, count: int) -> tuple[str, ...]:
    return (f"{count} samples, fewer than the {request.num_samples} asked",) if count < request.num_samples else ()


def _windows(recipient: Recipient, request: DataRequest, rows: Rows, shared: bool) -> _Samples:
    column = text.text_column(rows.data, request.text_column)
    tokenizer, seqlen = recipient.need_tokenizer(), recipient.length(request.seqlen)
    running = text.joined_tokens(rows.data, column, tokenizer, need=request.num_samples * seqlen, seed=request.seed)
    begun = opening.opening_of(recipient.config, tokenizer)
    windows = text.random_windows(
        running.ids,
        num_samples=request.num_samples,
        seqlen=seqlen - (begun is not None),
        seed=request.seed,
        what=rows.source,
        remedy="lower its weight, --num-samples or --seqlen" if shared else None,
    )
    windows = opening.opened(windows, begun)
    notes = ("windows drawn from pieces of the text at random places",) if running.partial else ()
    return _Samples([{"input_ids": row} for row in windows], fingerprint_tokens(windows), seqlen, notes)


def _texts(recipient: Recipient, request: DataRequest, rows: Rows) -> _Samples:
    column = text.text_column(rows.data, request.text_column)
    tokenizer, seqlen = recipient.need_tokenizer(), recipient.length(request.seqlen)
    chosen = _chosen_texts(request, rows, column)
    samples = text.encode_rows(list(chosen.values()), tokenizer, seqlen)
    prints = frozenset(fingerprint_text(line) for line in chosen.values())
    return _Samples(samples, prints, seqlen, _fewer(request, len(samples)), list(chosen))


def _chosen_texts(request: DataRequest, rows: Rows, column: str) -> dict[int, str]:
    """Row number to text, for a draw among the rows that are not blank."""
    data = rows.data.select_columns([column])
    picked = text.pick_rows(
        len(data), request.num_samples, request.seed, lambda index: bool((data[index][column] or "").strip())
    )
    if not picked:
        raise DataError(f"Column {column!r} of {rows.source} holds blank rows only. Name another with --text-column.")
    return {index: data[index][column] for index in picked}


def _images(recipient: Recipient, request: DataRequest, rows: Rows) -> _Samples:
    column = images.image_column(rows.data, request.image_column)
    processor = images.image_processor(recipient.processor, repr(recipient.name))
    captions: dict[int, str] = {}
    if recipient.main_input == "pair":
        caption = text.text_column(rows.data, request.text_column)
        recipient.need_tokenizer()
        captions = _chosen_texts(request, rows, caption)
    picked = list(captions) or text.pick_rows(len(rows.data), request.num_samples, request.seed)
    pictures = list(images.read_images(rows.data.select_columns([column]), column, picked))
    prints = frozenset(fingerprint_image(picture) for picture in pictures)
    notes = _fewer(request, len(pictures))
    if recipient.main_input == "image":
        return _Samples(images.image_samples(pictures, processor), prints, None, notes, picked)
    length = recipient.length(request.seqlen)
    texts = text.encode_rows(list(captions.values()), recipient.need_tokenizer(), length, pad_to=length)
    return _Samples(images.pair_samples(pictures, texts, processor), prints, length, notes)
