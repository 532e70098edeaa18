"""A model whose vocabulary is what its data needs: the one public function."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from optimum_grail.checkpoints.files import MODEL_WEIGHTS, PROCESSORS
from optimum_grail.checkpoints.loading import load_config
from optimum_grail.checkpoints.output import check_output
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import CheckpointError, DataError
from optimum_grail.report.environment import versions
from optimum_grail.vocabulary.counting import (
    JOINTS,
    Comparison,
    Corpus,
    compare,
    count,
    is_same,
    passed_over,
    plain,
    read_texts,
    template_texts,
)
from optimum_grail.vocabulary.kinds import Kind, kind_of
from optimum_grail.vocabulary.plan import VocabularyPlan, Wishes, make_plan
from optimum_grail.vocabulary.renumbering import named_ids, template_ids, tokenizer_values
from optimum_grail.vocabulary.rows import TokenRows, size, token_rows
from optimum_grail.vocabulary.writing import Smaller

if TYPE_CHECKING:
    from optimum_grail.data.foreign import EvaluationSets

CONFIGS = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Trimmed:
    """What became of a vocabulary.

    Args:
        output: the folder that was written; ``None`` if none was to be.
        tokens_before, tokens_after: of the tokenizer.
        rows_before, rows_after: of the embedding.
        bytes_before, bytes_after: of the model's parameters.
        reasons: why tokens stay, and how many for that reason and none before it.
        data: tokens of the data, in both vocabularies where ``min_count`` is above 1; else they are the same.
        evaluation: tokens of other data sets in both.
    """

    output: str | None
    tokens_before: int
    tokens_after: int
    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int
    reasons: Mapping[str, int]
    data: tuple[Comparison, ...] = ()
    evaluation: tuple[Comparison, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "reasons": dict(self.reasons)}


@dataclass(frozen=True)
class _Dense:
    """What is known of the dense model before any work.

    Args:
        folder: where its files are.
        companions: its tokenizer, first, and processor.
        backend: the tokenizer without truncation and padding.
        values: what its ``tokenizer.json`` holds.
        kind: its model.
        rows: where the model has a row for every token.
        fixed: ids that stay whatever the data holds, by the reason for it.
    """

    folder: Path
    companions: tuple[Any, ...]
    backend: Tokenizer
    values: Mapping[str, Any]
    kind: Kind
    rows: TokenRows
    fixed: Mapping[str, frozenset[int]]


def trim_vocabulary(
    model: str | Path,
    output: str | Path | None,
    dataset: EvaluationSets,
    wishes: Wishes = Wishes(),  # noqa: B008  # frozen
    eval_dataset: EvaluationSets | None = None,
    *,
    overwrite: bool = False,
) -> Trimmed:
    """Write a model without the tokens that ``dataset`` never uses.

    Text of the data has the same tokens as before, but for their numbers, and the model says the same of them. Bytes,
    single characters, special and added tokens stay, so that other text still has tokens, if more of them.

    Args:
        model: folder or Hub id.
        output: the folder to be; ``None``: only tell what would stay.
        dataset: text as calibration data has it, or several by name in a mapping.
        wishes: how often a token has to be used, further tokens that stay, and what rows are rounded to.
        eval_dataset: other text, on which both vocabularies are compared.
        overwrite: whether what a run wrote at ``output`` may be replaced.

    Returns:
        what became of it.

    Raises:
        DataError: no text there, or the model has no fast tokenizer.
        CheckpointError: a tokenizer of an unknown kind, one that does not fit the embedding, or damaged files.
        ArchitectureError: a model whose embedding cannot be made smaller.
        ConfigError: a token that is to stay is none.
        OutputError: the output exists or cannot be written.
    """
    if output is not None:
        check_output(output, overwrite, source=model)
    dense = _open(model)
    data = read_texts(dataset)
    others = () if eval_dataset is None else read_texts(eval_dataset)
    texts = [text for corpus in data for text in corpus.texts]
    passed = passed_over(dense.backend, dense.kind, texts)
    counts = count(dense.backend, (*texts, *JOINTS))
    fixed = {**dense.fixed, "chat template": frozenset(count(dense.backend, template_texts(dense.companions[0])))}
    plan = make_plan(dense.kind, counts, passed, fixed, wishes)
    smaller = Smaller(
        dense.folder, dense.companions, tokenizer_values(dense.values, dense.kind, plan.ids), plan, dense.rows
    )

    def result(after: Tokenizer) -> Trimmed:
        """The result, with what ``after`` makes of the text."""
        vocabulary = dense.backend.get_vocab().items()
        if after.get_vocab() != {token: plan.ids[id_] for token, id_ in vocabulary if id_ in plan.ids}:
            wrong = "has other tokens than it should"
        elif wishes.min_count == 1 and not is_same(dense.backend, after, plan.ids, texts):
            wrong = "splits the data differently"
        else:
            return _result(dense, plan, after, (data, others))
        raise CheckpointError(
            f"The tokenizer of {str(model)!r} {wrong} once it has fewer, so nothing is written. Leave its vocabulary "
            "whole, and tell the authors of this package which tokenizer it is."
        )

    if output is None:
        return result(plain(Tokenizer.from_str(json.dumps(smaller.tokenizer))))
    results: list[Trimmed] = []

    def note(tokenizer: Any) -> tuple[dict[str, Any], str]:
        """What the folder says of itself."""
        results.append(replace(result(plain(tokenizer.backend_tokenizer)), output=str(output)))
        told = {key: value for key, value in results[0].to_dict().items() if key != "output"}
        return {**told, "wishes": asdict(wishes), "versions": versions()}, paragraph(results[0])

    smaller.save(output, note, overwrite)
    return results[0]


def _open(model: str | Path) -> _Dense:
    """Everything but the weights; refuses what cannot be made smaller."""
    load_config(model)
    folder = _folder(str(model))
    tokenizer, processor = load_processors(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        what = "no tokenizer" if tokenizer is None else f"a slow tokenizer ({type(tokenizer).__name__})"
        raise DataError(
            f"{str(model)!r} has {what}; only fast ones, with a tokenizer.json, say what tokens are built from. "
            "Convert it: AutoTokenizer.from_pretrained(MODEL, use_fast=True).save_pretrained(MODEL)."
        )
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    kind, rows = kind_of(values, str(model)), token_rows(folder)
    last = max(tokenizer.get_vocab().values())
    if last >= rows.count:
        raise CheckpointError(
            f"The tokenizer of {str(model)!r} has the token {last}, but the embedding has {rows.count:,} rows. Resize "
            "the model first (resize_token_embeddings), or give it the tokenizer that it was trained with."
        )
    named = [named_ids(_read(folder / name), rows.count, name) for name in CONFIGS if (folder / name).is_file()]
    special = {token["id"] for token in values["added_tokens"]} | template_ids(values) | set(tokenizer.all_special_ids)
    fixed = {"special and added tokens": frozenset(special), "named by a config": frozenset().union(*named)}
    companions = tuple(found for found in (tokenizer, processor) if found is not None)
    return _Dense(folder, companions, plain(tokenizer.backend_tokenizer), values, kind, rows, fixed)


def _folder(model: str) -> Path:
    """The files of a model; those of a Hub model are fetched where they are not there yet."""
    if os.path.isdir(os.path.expanduser(model)):
        return Path(model).expanduser()
    try:
        return Path(snapshot_download(model, allow_patterns=[*MODEL_WEIGHTS, *PROCESSORS, "*.json", "README.md"]))
    except Exception as error:  # offline, private, interrupted: the Hub's client has many names for it
        raise CheckpointError(
            f"The files of {model!r} cannot be fetched ({str(error)[:300]}). Check the network, and HF_TOKEN if the "
            "model is private."
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file.name} in {str(file.parent)!r} cannot be read ({error}). Restore it.") from error


def _result(
    dense: _Dense, plan: VocabularyPlan, after: Tokenizer, texts: tuple[tuple[Corpus, ...], tuple[Corpus, ...]]
) -> Trimmed:
    data, others = (tuple(compare(dense.backend, after, plan.ids, corpus) for corpus in part) for part in texts)
    return Trimmed(
        output=None,
        tokens_before=dense.backend.get_vocab_size(),
        tokens_after=after.get_vocab_size(),
        rows_before=dense.rows.count,
        rows_after=plan.rows,
        bytes_before=size(dense.rows, dense.rows.count),
        bytes_after=size(dense.rows, plan.rows),
        reasons=plan.reasons,
        data=data,
        evaluation=others,
    )


def paragraph(result: Trimmed) -> str:
    """What a card says of it."""
    names = ", ".join(f"`{_public(found.name)}`" for found in result.data)
    told = [
        "The vocabulary was trimmed with [optimum-grail](https://pypi.org/project/optimum-grail/) to the text of "
        f"{names}: {result.tokens_after:,} of {result.tokens_before:,} tokens stay, {result.bytes_after:,} of "
        f"{result.bytes_before:,} bytes of parameters. The rows of the tokens that stay are unchanged. Other text is "
        "spelled in more tokens."
    ]
    for found in result.evaluation:
        told.append(
            f"Of the tokens of `{_public(found.name)}`, {100 * found.share:.1f} % stay; it has "
            f"{100 * found.growth:.1f} % more."
        )
    return " ".join(told)


def _public(name: str) -> str:
    """A data set's name without the folders of this machine."""
    return Path(name).name if os.path.exists(name) else name
