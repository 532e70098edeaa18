"""``GrailConfig``: what the user asks of a compression, checked value by value, as flat JSON both ways."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers.utils.quantization_config import QuantizationConfigMixin

from optimum_grail.config.budgets import BUDGETS, TARGETS
from optimum_grail.config.building import build_allocation, build_expert_selector, build_method, build_pattern
from optimum_grail.config.options import BY_NAME, DEFAULT_SPARSITY, OPTIONS, OVERRIDES
from optimum_grail.config.presets import get_preset
from optimum_grail.config.recipe import CONFIG_FILE, METHOD, read_recipe, split_keys, stamped
from optimum_grail.config.sizes import check_sizes
from optimum_grail.config.spelling import format_method, parse_method, plain
from optimum_grail.core.contracts import Allocation, Compensator, Refit, Selector
from optimum_grail.core.pattern import Pattern, PatternSelector
from optimum_grail.errors import ConfigError, GrailError

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, Processor, Tokenizer

LIVE = ("tokenizer", "processor")
"""Arguments that are no fields."""


class GrailConfig(QuantizationConfigMixin):
    """What to remove from a model, by which methods, and on which data.

    Every argument is optional; ``None`` means "as the preset or the method says". Values that are given win over the
    preset.

    Args:
        preset: named combination of methods, ``"grail-plus"`` by default (``optimum-cli grail list presets``).
        sparsity: fraction in (0, 1) of the parameters inside the repeated blocks that goes; 0.2 when no size is given.
        ffn_sparsity: instead of ``sparsity``: fraction of the feed-forward channels that goes.
        head_sparsity: instead of ``sparsity``: fraction of the attention heads that goes.
        head_dim_sparsity: instead of ``sparsity``: fraction of the dimensions inside every head that goes.
        channel_sparsity: instead of ``sparsity``: fraction of the convolutions' inner channels that goes.
        expert_sparsity, experts: likewise: fraction of a mixture's experts that goes, or how many stay.
        expert_ffn_sparsity: likewise: fraction of the channels inside each expert that goes.
        target_parameters: instead of a fraction: parameters of the whole model afterwards; a whole number or words such
            as ``"100M"``.
        target_bytes: instead of a fraction: bytes of all weights of the saved model, such as ``"60MB"``.
        budget: what ``sparsity`` is a fraction of: ``"parameters"`` of the blocks (the default), ``"flops"`` per
            sample, ``"kv-cache"`` (keys and values per token), ``"latency"`` (measured time) or ``"bytes"``.
        protect: what stays whole: positions of layers in their stack (negative ones from the end), or patterns of the
            names of layers or of what shrinks in them (``"heads"``, ``"layers.*.mlp"``); one or a list.
        drop_layers: whether whole layers may go too, where that does less damage.
        pattern: ``"N:M"``: of M neighbouring weights of all linear layers N stay; without a size, nothing else goes.
        pattern_selector: which weights those are; same forms as ``selector``.
        selector: which units stay: ``"NAME"``, ``"NAME:key=value,..."`` or ``{"name": NAME, key: value}``.
        expert_selector: which experts of a mixture stay, where some go; same forms.
        compensator, refit: how consumers make up for it, what becomes of the producers that stay; same forms.
        allocation: how the budget is shared out; same forms.
        target: what a consumer is fitted to: ``"self"``, ``"dense"`` or ``"residual"``.
        ridge: ``"auto"`` or a number >= 0, relative to the mean diagonal.
        tau: ``"auto"`` or the share in [0, 1] of the stream's drift that a fit corrects.
        anchor: what the ridge pulls towards: ``"zero"`` or ``"naive"``.
        affine: whether the consumer's bias is fitted too.
        within_block: ``"sequential"`` or ``"joint"``.
        round_to: widths are multiples of this whole number >= 1.
        dataset: calibration data: a path, a Hub id, ``"general"``, ``"self"``, a list of texts or of tokenized dicts,
            or a ``datasets.Dataset``; several sources as a mapping to their weights, ``{"general": 2, "self": 1}``.
            Live objects are kept on the instance and described in :meth:`to_dict`.
        dataset_config_name, split: configuration and split of a Hub data set.
        text_column: column that holds the text.
        image_column: column that holds the images.
        label_column: column of each row's class, for ``taylor``, ``snip`` and ``fisher``; default: own predictions.
        num_samples, seqlen, batch_size: calibration samples, tokens of each, samples per forward pass; all >= 1.
        seed: seed of everything random, >= 0.
        standalone: whether plain transformers must be able to load the result; ``None``: where possible.
        low_memory: leave weights on disk until their block's turn comes; by default where in float32 they would take
            more than 60 % of the free memory.
        offload_streams: keep the calibration streams (two hidden states per token) in files of the temporary folder
            instead of in memory, which leaves one block and its statistics; by default where they would not fit.
        allow_recompress: accept a model that is compressed already.
        tokenizer, processor: for the calibration data of a model that is compressed while it loads; by default those
            beside the model. Not part of :meth:`to_dict`.

    Raises:
        ConfigError: an unknown argument, a value outside its accepted range, or two that contradict each other.
        UnknownNameError: no preset of that name.
    """

    def __init__(
        self,
        *,
        preset: str = "grail-plus",
        sparsity: float | None = None,
        ffn_sparsity: float | None = None,
        head_sparsity: float | None = None,
        head_dim_sparsity: float | None = None,
        channel_sparsity: float | None = None,
        expert_sparsity: float | None = None,
        experts: int | None = None,
        expert_ffn_sparsity: float | None = None,
        target_parameters: int | str | None = None,
        target_bytes: int | str | None = None,
        budget: Literal["parameters", "flops", "kv-cache", "latency", "bytes"] | None = None,
        protect: str | int | Sequence[str | int] | None = None,
        drop_layers: bool | None = None,
        pattern: str | None = None,
        pattern_selector: str | Mapping[str, Any] = "grail",
        selector: str | Mapping[str, Any] | None = None,
        expert_selector: str | Mapping[str, Any] | None = None,
        compensator: str | Mapping[str, Any] | None = None,
        refit: str | Mapping[str, Any] | None = None,
        allocation: str | Mapping[str, Any] | None = None,
        target: Literal["self", "dense", "residual"] | None = None,
        ridge: float | Literal["auto"] | None = None,
        tau: float | Literal["auto"] | None = None,
        anchor: Literal["zero", "naive"] | None = None,
        affine: bool | None = None,
        within_block: Literal["sequential", "joint"] | None = None,
        round_to: int | None = None,
        dataset: DataSource | None = None,
        dataset_config_name: str | None = None,
        split: str | None = None,
        text_column: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        num_samples: int = 128,
        seqlen: int | None = None,
        batch_size: int | None = None,
        seed: int = 42,
        standalone: bool | None = None,
        low_memory: bool | None = None,
        offload_streams: bool | None = None,
        allow_recompress: bool = False,
        tokenizer: Tokenizer | None = None,
        processor: Processor | None = None,
        **unknown: object,
    ) -> None:
        given = dict(locals())
        split_keys(unknown)
        self.quant_method = METHOD  # type: ignore[assignment]  # upstream's enum lists its own methods only
        for option in OPTIONS:
            setattr(self, option.name, option.check(given[option.name]))
        self.tokenizer, self.processor = tokenizer, processor
        self.extra: dict[str, Any] = {}
        check_sizes(vars(self))

    # -- dictionaries and files -------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Flat JSON values of every field, ``quant_method`` and the unknown keys; a live data set is described."""
        fields = {option.name: plain(getattr(self, option.name)) for option in OPTIONS}
        return {"quant_method": METHOD, **fields, **self.extra}

    def to_diff_dict(self) -> dict[str, Any]:
        """Like :meth:`to_dict`, without the fields that have their default."""
        return {
            key: value for key, value in self.to_dict().items() if key not in BY_NAME or value != BY_NAME[key].default
        }

    @classmethod
    def from_dict(  # type: ignore[override]  # the parent is untyped
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: object
    ) -> Any:
        """Build a configuration; keyword arguments that name a field win over the dictionary.

        Keys that this version does not know are an error, unless the dictionary's ``optimum_grail_version`` is a newer
        one: they are then kept, with a warning, in ``extra`` and written back out.

        Returns:
            The configuration, or ``(configuration, unused keyword arguments)`` if ``return_unused_kwargs``.

        Raises:
            ConfigError: as the constructor.
        """
        known = {key: kwargs.pop(key) for key in tuple(kwargs) if key in BY_NAME or not return_unused_kwargs}
        fields, extra = split_keys({**config_dict, **known}, LIVE)
        config = cls(**fields)
        config.extra = extra
        return (config, kwargs) if return_unused_kwargs else config

    @classmethod
    def from_file(cls, path: str | Path) -> GrailConfig:
        """Read a configuration from what :func:`optimum_grail.config.recipe.read_recipe` takes.

        Raises:
            ConfigError: no configuration there, or a wrong value; the message names the file.
            UnknownNameError: no preset of that name.
        """
        try:
            return cast(GrailConfig, cls.from_dict(read_recipe(path)))
        except GrailError as error:
            raise type(error)(str(error) if str(path) in str(error) else f"{path}: {error}") from None

    from_json_file = from_file

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``grail_config.json`` into ``save_directory``, which is created if missing."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(stamped(self.to_dict()), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str | Path, *, revision: str | None = None, token: str | bool | None = None
    ) -> GrailConfig:
        """Read a configuration from a file, a folder or a Hub repository.

        Raises:
            ConfigError: there is none, or it holds a wrong value.
        """
        if os.path.exists(folder_or_id):  # unlike a path's own, it takes names too long for the system
            return cls.from_file(folder_or_id)
        try:
            return cls.from_file(hf_hub_download(str(folder_or_id), CONFIG_FILE, revision=revision, token=token))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ConfigError(
                f"No {CONFIG_FILE} for {str(folder_or_id)!r}: it is neither a folder here nor a Hub repository in "
                f"reach that has one ({type(error).__name__})."
            ) from error

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """``dict(config)`` equals :meth:`to_dict`."""
        return iter(self.to_dict().items())

    def update(self, **kwargs: object) -> dict[str, Any]:
        """Set checked values of fields and return the arguments that name none.

        Raises:
            ConfigError: as the constructor; then nothing is changed.
        """
        known = {key: value for key, value in kwargs.items() if key in BY_NAME}
        self.__dict__.update(self._with(**known).__dict__)
        return {key: value for key, value in kwargs.items() if key not in BY_NAME}

    def _with(self, **changes: object) -> GrailConfig:
        fields = {option.name: getattr(self, option.name) for option in OPTIONS}
        copy = type(self)(**(fields | changes), tokenizer=self.tokenizer, processor=self.processor)
        copy.extra = dict(self.extra)
        return copy

    def __deepcopy__(self, memo: object) -> GrailConfig:
        """A copy that shares live data sets and tokenizers: transformers copies configurations while it loads."""
        return self._with()

    # -- meaning ----------------------------------------------------------------------------------------------------

    def methods(self) -> tuple[Selector, Compensator, Allocation, Refit]:
        """The selector, compensator, allocation and refit that this configuration means.

        Raises:
            UnknownNameError: no method of that name.
            ConfigError: the method has no such option, or refuses its value.
        """
        self.expert_method()
        self.pattern_method()
        return cast(tuple[Selector, Compensator, Allocation, Refit], tuple(self._build(part) for part in OVERRIDES))

    def _value(self, name: str) -> Any:
        """A field's value, the preset's where it is unset."""
        own = getattr(self, name)
        return own if own is not None else get_preset(self.preset).values.get(name)

    def _build(self, part: str) -> Any:
        asked = {name: getattr(self, name) for name in OVERRIDES[part] if getattr(self, name) is not None}
        if part != "allocation":
            return build_method(part, self._value(part), asked)
        for target, budget in TARGETS.items():
            if getattr(self, target) is not None:
                asked["budget"] = budget
        return build_allocation(self._value(part), asked, given=self.allocation is not None)

    def expert_method(self) -> Selector | None:
        """What chooses experts, where some are asked to go; errors as of :meth:`methods`."""
        chooser = build_expert_selector(self._value("expert_selector"))
        return None if self.experts is self.expert_sparsity is None else chooser

    def pattern_method(self) -> tuple[Pattern, PatternSelector] | None:
        """The pattern and what chooses its weights, if one is asked for; errors as of :meth:`methods`."""
        return build_pattern(self.pattern, self.pattern_selector)

    def resolved(self) -> GrailConfig:
        """A new configuration with nothing left to a preset or a method's default, for reports and for repeating a run.

        Raises:
            UnknownNameError, ConfigError: as :meth:`methods`.
        """
        changes: dict[str, Any] = {"within_block": self._value("within_block")}
        if self.expert_method() is not None:
            changes["expert_selector"] = self._value("expert_selector")
        if self.pattern is None and all(getattr(self, name) is None for name in BUDGETS):
            changes["sparsity"] = DEFAULT_SPARSITY
        for part, overrides in OVERRIDES.items():
            values = dataclasses.asdict(self._build(part))
            changes |= {name: values.pop(option) for name, option in overrides.items() if option in values}
            changes[part] = format_method(parse_method(self._value(part))[0], values)
        return self._with(**changes)
