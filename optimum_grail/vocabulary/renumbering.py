"""Ids in the files of a model, found and renumbered; values in, values out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optimum_grail.errors import CheckpointError, shorten
from optimum_grail.vocabulary.kinds import Kind

SINGLE = ("_token_id", "_token_ids")
"""How names of fields end that hold an id or ids."""
NESTED = ("force_words_ids", "forced_decoder_ids", "lang_to_id", "task_to_id")
"""Other fields with ids of tokens that have to stay."""
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
"""Fields with ids of tokens that must not be written; of those that have gone nothing needs to be said."""
REFUSED = ("sequence_bias",)
Ids = Mapping[int, int]


def named_ids(values: Mapping[str, Any], rows: int, where: str) -> frozenset[int]:
    """The ids that a config's values name and that have to stay; negative ones stand for none.

    Args:
        values: of ``config.json`` or ``generation_config.json``.
        rows: of the embedding.
        where: what messages call the file.

    Raises:
        CheckpointError: an id beyond the embedding, or a field that is not known here.
    """
    found = set[int]()
    for key, value in _fields(values):
        if key in REFUSED and value:
            raise CheckpointError(
                f"{where} has {key!r}, which is not renumbered here. Take it out, and put it in again by the new ids."
            )
        if key in NESTED or key.endswith(SINGLE):
            found |= set(_numbers(_without_positions(key, value)))
    beyond = sorted(id_ for id_ in found if id_ >= rows)
    if beyond:
        raise CheckpointError(f"{where} names the token {beyond[0]}, but the embedding has {rows:,} rows. Correct it.")
    return frozenset(id_ for id_ in found if id_ >= 0)


def renumbered(values: Mapping[str, Any], ids: Ids) -> dict[str, Any]:
    """A config's values with the new ids.

    Args:
        values: of ``config.json`` or ``generation_config.json``; every id of :func:`named_ids` is in ``ids``.
        ids: from old to new.
    """
    return {key: _field(key, value, ids) for key, value in values.items()}


def _field(key: str, value: Any, ids: Ids) -> Any:
    if key in SUPPRESSED and isinstance(value, list):
        if all(isinstance(item, list) for item in value):
            return [[ids[id_] for id_ in word] for word in value if all(id_ in ids for id_ in word)] or None
        return [ids.get(item, item) for item in value if item in ids or item < 0] or None
    if key == "forced_decoder_ids" and isinstance(value, list):
        return [[position, _mapped(id_, ids)] for position, id_ in value]
    if key in NESTED or key.endswith(SINGLE):
        return _mapped(value, ids)
    return renumbered(value, ids) if isinstance(value, dict) else value


def _mapped(value: Any, ids: Ids) -> Any:
    """``value`` with every number in it renumbered; negative ones stay."""
    if isinstance(value, list):
        return [_mapped(item, ids) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, ids) for key, item in value.items()}
    return ids[value] if _is_id(value) and value >= 0 else value


def _fields(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield key, value
        if isinstance(value, dict) and key not in NESTED:
            yield from _fields(value)


def _without_positions(key: str, value: Any) -> Any:
    return [pair[1] for pair in value] if key == "forced_decoder_ids" and isinstance(value, list) else value


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif _is_id(value):
        yield value


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def tokenizer_values(values: Mapping[str, Any], kind: Kind, ids: Ids) -> dict[str, Any]:
    """What ``tokenizer.json`` holds, with fewer tokens.

    Args:
        values: of the dense model's file; all its added tokens are in ``ids``.
        kind: its model.
        ids: from old to new.

    Raises:
        CheckpointError: a post-processor that is not known here.
    """
    padding = values.get("padding")
    return {
        **values,
        "model": kind.trimmed(ids),
        "added_tokens": [{**token, "id": ids[token["id"]]} for token in values["added_tokens"]],
        "post_processor": _post_processor(values.get("post_processor"), lambda id_: ids[id_]),
        "padding": None if padding is None else {**padding, "pad_id": ids.get(padding["pad_id"], 0)},
    }


def template_ids(values: Mapping[str, Any]) -> frozenset[int]:
    """Ids that the post-processor of ``tokenizer.json`` puts around a text, and the one it is padded with."""
    met = set[int]()

    def meet(id_: int) -> int:
        """Note an id and leave it."""
        met.add(id_)
        return id_

    _post_processor(values.get("post_processor"), meet)
    padding = values.get("padding")
    return frozenset(met if padding is None else met | {padding["pad_id"]})


def _post_processor(values: Mapping[str, Any] | None, new: Callable[[int], int]) -> dict[str, Any] | None:
    if values is None:
        return None
    name = values["type"]
    if name == "Sequence":
        return {**values, "processors": [_post_processor(inner, new) for inner in values["processors"]]}
    if name == "TemplateProcessing":
        special = {
            word: {**token, "ids": [new(id_) for id_ in token["ids"]]}
            for word, token in values["special_tokens"].items()
        }
        return {**values, "special_tokens": special}
    if name in ("BertProcessing", "RobertaProcessing"):
        return {**values, **{end: [values[end][0], new(values[end][1])] for end in ("sep", "cls")}}
    if name == "ByteLevel":
        return dict(values)
    raise CheckpointError(
        f"The tokenizer's post-processor {shorten(name)} is not known here. Leave its vocabulary whole."
    )


def settings_values(values: Mapping[str, Any], ids: Ids) -> dict[str, Any]:
    """What ``tokenizer_config.json`` holds, with the new ids."""
    added = values.get("added_tokens_decoder")
    if added is None:
        return dict(values)
    return {**values, "added_tokens_decoder": {str(ids[int(id_)]): token for id_, token in added.items()}}
