"""The text of data sets, and the tokens it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding, Tokenizer

from optimum_grail.config.source import SELF
from optimum_grail.data.rows import read_rows
from optimum_grail.data.text import text_column
from optimum_grail.errors import DataError
from optimum_grail.evaluation.sets import named_sets, reading_of
from optimum_grail.vocabulary.kinds import Kind

if TYPE_CHECKING:
    from optimum_grail.data.foreign import EvaluationSets

BATCH = 2**20
"""Characters that are encoded together, unless one text alone has more."""
JOINTS = ("\n", "\n\n")
"""What texts are joined by where windows are cut from them."""


@dataclass(frozen=True)
class Corpus:
    """The text of one data set.

    Args:
        name: as the user calls it.
        texts: those that are not blank.
    """

    name: str
    texts: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """The tokens of a data set before and after.

    Args:
        name: of the data set.
        before: tokens as the dense model's tokenizer has them.
        after: tokens of the smaller vocabulary.
        same: those of ``before`` that are there after, at the same place.
    """

    name: str
    before: int
    after: int
    same: int

    @property
    def share(self) -> float:
        """Share of the tokens that stay the same, from 0 to 1."""
        return self.same / self.before if self.before else 1.0

    @property
    def growth(self) -> float:
        """How many more tokens there are, as a share of those before."""
        return self.after / self.before - 1 if self.before else 0.0


def read_texts(dataset: EvaluationSets) -> tuple[Corpus, ...]:
    """The text of one data set, or of several by name.

    Raises:
        DataError: no text there; not found, unreadable, of no known form; or ``"self"``.
        ConfigError: a source with an option that it has not.
    """
    found = []
    for name, data in named_sets(dataset):
        source, reading = reading_of(data)
        if source == SELF:
            raise DataError(
                "'self' is text that a model writes, and whatever it is given to read is not among it. Name text that "
                "the model is going to read, with --dataset."
            )
        rows = read_rows(source, config_name=reading.config_name, split=reading.split, documents=True)
        if rows.ready:
            raise DataError(f"{rows.source} holds inputs of a model; expected text. Name text that they were made of.")
        column = text_column(rows.data, reading.text_column)
        texts = [text for text in rows.data[column] if text and text.strip()]
        if not texts:
            raise DataError(f"Column {column!r} of {rows.source} holds blank rows only. Name another one.")
        found.append(Corpus(name or rows.source, texts))
    return tuple(found)


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads."""
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Encoding]:
    """The encoding of every text with its special tokens, in order."""
    batch: list[str] = []
    for index, text in enumerate(texts):
        batch.append(text)
        if index + 1 == len(texts) or sum(map(len, batch)) > BATCH:
            yield from tokenizer.encode_batch(batch)
            batch = []


def count(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[int]:
    """How often ``texts`` have each id."""
    found: Counter[int] = Counter()
    for encoding in encoded(tokenizer, texts):
        found.update(encoding.ids)
    return found


def passed_over(tokenizer: Tokenizer, kind: Kind, texts: Sequence[str]) -> frozenset[str]:
    """The tokens that ``kind`` tries on words of ``texts`` and gives up: without them a shorter one might lead on."""
    words = set[str]()
    if type(kind).passed is Kind.passed:
        return frozenset()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer is not None else text
        split = tokenizer.pre_tokenizer
        words |= {word for word, _ in split.pre_tokenize_str(normal)} if split is not None else {normal}
    return frozenset().union(*(kind.passed(word) for word in words))


def template_texts(tokenizer: Any) -> tuple[str, ...]:
    """What the chat template puts around messages; none where it takes none of these."""
    if not tokenizer.chat_template:
        return ()
    from jinja2 import TemplateError

    ask, answer, system = ({"role": role, "content": "\n"} for role in ("user", "assistant", "system"))
    found = []
    for messages in ([ask], [ask, answer, ask], [system, ask, answer]):
        for opened in (False, True):
            try:
                found.append(str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)))
            except (TemplateError, TypeError, ValueError):  # a template takes what its author thought of
                continue
    return tuple(found)


def compare(before: Tokenizer, after: Tokenizer, ids: Mapping[int, int], corpus: Corpus) -> Comparison:
    """The tokens of ``corpus`` in both vocabularies; a token is the same at the same place in the text."""
    counts = Counter[str]()
    for old, new in zip(encoded(before, corpus.texts), encoded(after, corpus.texts), strict=True):
        first = Counter((ids.get(id_, -1), place) for id_, place in zip(old.ids, old.offsets, strict=True))
        second = Counter(zip(new.ids, new.offsets, strict=True))
        counts.update(before=len(old.ids), after=len(new.ids), same=(first & second).total())
    return Comparison(corpus.name, counts["before"], counts["after"], counts["same"])


def is_same(before: Tokenizer, after: Tokenizer, ids: Mapping[int, int], texts: Sequence[str]) -> bool:
    """Whether every text has the same tokens in both, but for their numbers."""
    pairs = zip(encoded(before, texts), encoded(after, texts), strict=True)
    return all([ids.get(id_, -1) for id_ in old.ids] == new.ids for old, new in pairs)
