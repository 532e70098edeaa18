"""What rows of self-written text begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jinja2 import TemplateError
from torch import Tensor, nn

from optimum_grail.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from optimum_grail.data.foreign import Config

SHORTEST, LONGEST = 8, 32
"""Fewest and most tokens of a document that a row begins with."""
_LETTERS = 40 * LONGEST


class Starts(Protocol):
    """Gives rows their beginnings, each time others."""

    def deal(self, rows: int) -> list[Tensor]:
        """The beginnings of ``rows`` rows: int64, 1-D, at least one token each."""
        ...


@dataclass(frozen=True, eq=False)
class DrawnTokens:
    """One token, drawn by weight.

    Args:
        weights: float32 ``[vocabulary]``, not all 0.
        generator: on the device of the weights.
    """

    weights: Tensor
    generator: torch.Generator

    def deal(self, rows: int) -> list[Tensor]:
        """As :meth:`Starts.deal`."""
        return list(torch.multinomial(self.weights.expand(rows, -1), 1, generator=self.generator))


@dataclass(frozen=True, eq=False)
class DealtPrompts:
    """Prompts in random order; each comes once before any comes again.

    Args:
        order: numbers of the prompts, without end.
        prompts: the tokens of each; of those that are cut, a random number of them is taken.
        generator: draws that number; ``None``: prompts are whole.
    """

    order: Iterator[int]
    prompts: Sequence[Tensor]
    generator: torch.Generator | None = None

    def deal(self, rows: int) -> list[Tensor]:
        """As :meth:`Starts.deal`."""
        return [self._cut(self.prompts[next(self.order)]) for _ in range(rows)]

    def _cut(self, prompt: Tensor) -> Tensor:
        if self.generator is None:
            return prompt
        lengths = torch.randint(SHORTEST, LONGEST + 1, (1,), generator=self.generator, device=self.generator.device)
        return prompt[: int(lengths)]


def in_order(prompts: Tensor) -> DealtPrompts:
    """Every row of ``prompts`` (int64 ``[rows, tokens]``) once, as they come."""
    return DealtPrompts(iter(range(len(prompts))), list(prompts))


def _dealt(count: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=generator, device=generator.device).tolist()


def document_starts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, generator: torch.Generator
) -> DealtPrompts:
    """The first 8 to 32 tokens of random documents; documents of fewer than 8 tokens are left out.

    Raises:
        DataError: no document has so many tokens.
    """
    encoded = tokenizer([text[:_LETTERS] for text in texts], add_special_tokens=False, return_attention_mask=False)
    ids = [row[:LONGEST] for row in encoded["input_ids"] if len(row) >= SHORTEST]
    if not ids:
        raise DataError(f"No document has the {SHORTEST} tokens that a row begins with. Choose other starts.")
    prompts = [torch.tensor(row, device=generator.device) for row in ids]
    return DealtPrompts(_dealt(len(prompts), generator), prompts, generator)


def chat_starts(tokenizer: PreTrainedTokenizerBase | None, generator: torch.Generator) -> DealtPrompts:
    """Short instructions in the tokenizer's chat template, up to where the model's answer begins.

    Raises:
        DataError: the tokenizer has no chat template, or one that takes no instruction.
    """
    try:
        prompts = [_templated(need_template(tokenizer), line) for line in instructions()]
    except TemplateError as error:
        raise DataError(
            f"The tokenizer's chat template refuses a plain instruction ({error}). Choose other starts than chat."
        ) from error
    return DealtPrompts(_dealt(len(prompts), generator), [prompt.to(generator.device) for prompt in prompts])


def need_template(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer, which has a chat template.

    Raises:
        DataError: it has none.
    """
    if tokenizer is None or tokenizer.chat_template is None:
        raise DataError(
            "starts=chat needs a tokenizer with a chat template, as instruct models have; this one has none. Choose "
            "starts=random, frequent or general."
        )
    return tokenizer


def _templated(tokenizer: PreTrainedTokenizerBase, instruction: str) -> Tensor:
    messages = [{"role": "user", "content": instruction}]
    encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def instructions() -> list[str]:
    """The instructions that the package brings, one a line."""
    return files("optimum_grail.data").joinpath("instructions.txt").read_text(encoding="utf-8").splitlines()


def banned_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Tensor:
    """Boolean mask over the vocabulary: special tokens, and rows of the embedding that no token uses.

    Raises:
        DataError: there are no other tokens.
    """
    embedding = model.get_input_embeddings()
    size = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else model.config.vocab_size
    device = embedding.weight.device
    special = {*_ids(model.config), *_ids(model.generation_config)}
    if tokenizer is not None:
        special |= set(tokenizer.all_special_ids)
        special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(range(len(tokenizer), size))
    banned = torch.zeros(size, dtype=torch.bool, device=device)
    banned[[index for index in special if index < size]] = True
    if bool(banned.all()):
        raise DataError(
            f"All {size} tokens of the vocabulary are special ones, so the model cannot write calibration text. "
            "Check that tokenizer and model belong together, or give --dataset."
        )
    return banned


def ends_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """The tokens by which the model ends an answer."""
    own = [] if tokenizer is None or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return sorted({*own, *_ids(model.config, ("eos_token_id",)), *_ids(model.generation_config, ("eos_token_id",))})


def _ids(config: Config | None, names: tuple[str, ...] = ("bos_token_id", "eos_token_id", "pad_token_id")) -> list[int]:
    found: list[int] = []
    for name in names:
        value = getattr(config, name, None)
        found += value if isinstance(value, list) else [] if value is None else [value]
    return [index for index in found if index >= 0]


def bos_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, size: int) -> int | None:
    """The token that begins a text, where the model has one among its ``size`` tokens."""
    bos = tokenizer.bos_token_id if tokenizer is not None else None
    bos = model.config.get_text_config().bos_token_id if bos is None else bos
    return bos if isinstance(bos, int) and 0 <= bos < size else None
