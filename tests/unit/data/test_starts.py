"""What rows of self-written text begin with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from optimum_grail.data.starts import (
    LONGEST,
    SHORTEST,
    DrawnTokens,
    chat_starts,
    document_starts,
    ends_of_turn,
    in_order,
    instructions,
    need_template,
)
from optimum_grail.errors import DataError

TEMPLATE = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}<s>assistant"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    found = copy.deepcopy(tokenizer)
    found.chat_template = TEMPLATE
    return found


def test_tokens_are_drawn_by_weight() -> None:
    starts = DrawnTokens(torch.tensor([0.0, 1.0, 3.0]), generator())
    drawn = torch.cat(starts.deal(4000))
    assert torch.bincount(drawn, minlength=3).tolist()[0] == 0
    assert 0.72 < (drawn == 2).float().mean() < 0.78


def test_documents_lend_their_first_tokens(tokenizer: Any, lines: list[str]) -> None:
    texts = [" ".join(lines[number : number + 8]) for number in range(0, 80, 8)]
    dealt = document_starts([*texts, "a cat"], tokenizer, generator()).deal(40)
    lengths = {len(start) for start in dealt}
    assert min(lengths) >= SHORTEST and max(lengths) <= LONGEST and len(lengths) > 5
    whole = {text: tokenizer(text)["input_ids"] for text in texts}
    owners = [next(text for text, ids in whole.items() if ids[: len(s)] == s.tolist()) for s in dealt]
    assert all(set(owners[number : number + 10]) == set(texts) for number in (0, 10, 20, 30)), (
        "each once before any again"
    )
    with pytest.raises(DataError, match="No document has the 8 tokens"):
        document_starts(["a cat"], tokenizer, generator())


def test_instructions_are_short_and_diverse() -> None:
    lines = instructions()
    assert 40 <= len(lines) == len(set(lines)) <= 60
    assert all(0 < len(line) <= 120 and line == line.strip() for line in lines)
    assert sum(not line.isascii() for line in lines) >= 8


def test_chats_begin_with_an_instruction_in_the_template(chatty: Any) -> None:
    (first, second) = chat_starts(chatty, generator()).deal(2)
    text = chatty.decode(first)
    assert any(text == f"<s>user\n{line}</s><s>assistant" for line in instructions())
    assert first[0] == chatty.bos_token_id and not torch.equal(first, second)


def test_a_template_is_needed(tokenizer: Any) -> None:
    for missing in (None, tokenizer):
        with pytest.raises(DataError, match="starts=chat needs a tokenizer with a chat template"):
            need_template(missing)
    broken = copy.deepcopy(tokenizer)
    broken.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(DataError, match=r"refuses a plain instruction .*no users here"):
        chat_starts(broken, generator())


def test_answers_end_with_any_token_that_the_model_or_its_tokenizer_ends_with(llama: Any, tokenizer: Any) -> None:
    model = copy.deepcopy(llama)
    model.generation_config.eos_token_id = [1, 5]
    assert ends_of_turn(model, tokenizer) == [1, 5]
    assert ends_of_turn(model, None) == [1, 5]


def test_given_prompts_come_in_their_order() -> None:
    prompts = torch.arange(6).view(3, 2)
    starts = in_order(prompts)
    assert torch.equal(torch.stack(starts.deal(2) + starts.deal(1)), prompts)
