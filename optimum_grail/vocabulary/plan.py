"""Which tokens stay, as a value; nothing is read or written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optimum_grail.errors import ConfigError, did_you_mean, shorten
from optimum_grail.vocabulary.kinds import Kind, closure


@dataclass(frozen=True)
class Wishes:
    """What may be asked of a smaller vocabulary.

    Args:
        min_count: a token stays if the data uses it so often, at least 1; with more than 1 the data's own tokens may
            change.
        keep: tokens that stay whatever the data holds, as the tokenizer spells them (``"Ġthe"``).
        round_to: the embedding gets a multiple of so many rows, at least 1; rows without a token are zeros.

    Raises:
        ConfigError: a count below 1, or ``keep`` is one string.
    """

    min_count: int = 1
    keep: Sequence[str] = ()
    round_to: int = 1

    def __post_init__(self) -> None:
        for name, value in (("min_count", self.min_count), ("round_to", self.round_to)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name}={shorten(value)}; expected a whole number of at least 1.")
        if isinstance(self.keep, str):
            raise ConfigError(f"keep={shorten(self.keep)} is one string; expected a list of tokens.")


@dataclass(frozen=True)
class VocabularyPlan:
    """Which tokens stay.

    Args:
        kept: their ids, in ascending order; a token's new id is its place here.
        rows: of the new embedding; those from ``len(kept)`` on are zeros.
        reasons: why they stay, and how many for that reason and none before it.
    """

    kept: tuple[int, ...]
    rows: int
    reasons: Mapping[str, int]

    @cached_property
    def ids(self) -> Mapping[int, int]:
        """From old ids to new ones."""
        return {old: new for new, old in enumerate(self.kept)}


def make_plan(
    kind: Kind, counts: Mapping[int, int], passed: frozenset[str], fixed: Mapping[str, frozenset[int]], wishes: Wishes
) -> VocabularyPlan:
    """Decide which tokens stay.

    Args:
        kind: the tokenizer's model.
        counts: how often the data uses each id.
        passed: tokens that the data needs without using them.
        fixed: further ids that stay, by the reason for it.
        wishes: what is asked.

    Raises:
        ConfigError: a token that is asked to stay is none.
    """
    tokens = kind.tokens
    for token in wishes.keep:
        if token not in tokens:
            raise ConfigError(
                f"The token {shorten(token)} is not in the vocabulary.{did_you_mean(token, tokens)} Spell it as "
                "tokenizer.json does; byte-level tokenizers write a space as Ġ, SentencePiece as ▁."
            )
    names = {id_: token for token, id_ in tokens.items()}
    used = frozenset(id_ for id_, count in counts.items() if count >= wishes.min_count)
    reasons = {
        **fixed,
        "bytes, characters": frozenset(tokens[token] for token in kind.alphabet | kind.indispensable),
        "asked for": frozenset(tokens[token] for token in wishes.keep),
        "used by the data": used | {tokens[token] for token in passed},
    }
    stays = frozenset().union(*reasons.values())
    built = closure(kind, [names[id_] for id_ in sorted(stays) if id_ in names])
    reasons["what these are built from"] = frozenset(tokens[token] for token in built if token in tokens)
    kept, told = set[int](), dict[str, int]()
    for reason, ids in reasons.items():
        told[reason] = len(ids - kept)
        kept |= ids
    return VocabularyPlan(tuple(sorted(kept)), -(-len(kept) // wishes.round_to) * wishes.round_to, told)
