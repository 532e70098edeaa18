"""What every model of a speed test computes: random inputs of one size, the same for all."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from optimum_grail.data.images import encode_images, image_processor
from optimum_grail.data.text import default_seqlen, model_positions
from optimum_grail.errors import ArchitectureError, ConfigError

if TYPE_CHECKING:
    from optimum_grail.data.foreign import Config, Processor, Tokenizer

Kind = Literal["generation", "sequences", "images", "pairs"]
KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "generation": "causal language models",
        "sequences": "encoders of text",
        "images": "models of images",
        "pairs": "models of image-text pairs",
    }
)
PROMPT, NEW = 256, 64
"""Tokens of a prompt or sequence, and tokens generated after a prompt, where none are asked for."""
IMAGE = 224
"""Sides of an image where neither the config nor an image processor names a size."""


@dataclass(frozen=True)
class Workload:
    """What a pass computes; the values are random, since the time hardly depends on them.

    Args:
        kind: what the model does.
        tokens: of a prompt or sequence; 0 where there is no text.
        new_tokens: generated per prompt, the first of them by the prompt's own pass; 0 where nothing is generated.
        vocabulary: token ids are drawn below it.
        image: channels, height and width; empty where there are no images.
        seed: of the draw.
    """

    kind: Kind
    tokens: int = 0
    new_tokens: int = 0
    vocabulary: int = 0
    image: tuple[int, ...] = ()
    seed: int = 42

    @property
    def parts(self) -> tuple[str, ...]:
        """What of a pass is timed by itself."""
        return ("prefill", "decode") if self.kind == "generation" else ("forward",)

    def unit(self, part: str) -> str:
        """What is counted per second."""
        return "tokens" if self.kind == "generation" else self.kind

    def amount(self, part: str, batch: int) -> int:
        """How many of them a pass over ``batch`` samples handles; the first new token belongs to the prefill."""
        return batch * {"prefill": self.tokens, "decode": self.new_tokens - 1}.get(part, 1)

    def inputs(self, batch: int, model: nn.Module) -> dict[str, Tensor]:
        """Inputs of ``batch`` samples on the model's device: ``input_ids`` and ``attention_mask``, int64
        ``[batch, tokens]``; ``pixel_values``, in the type of its weights, ``[batch, channels, height, width]``."""
        draw = torch.Generator().manual_seed(self.seed)
        weight = next(tensor for tensor in model.parameters() if tensor.is_floating_point())
        found: dict[str, Tensor] = {}
        if self.tokens:
            ids = torch.randint(self.vocabulary, (batch, self.tokens), generator=draw)
            found |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.image:
            found["pixel_values"] = torch.randn(batch, *self.image, generator=draw).to(weight.dtype)
        return {name: tensor.to(weight.device) for name, tensor in found.items()}

    @torch.no_grad()
    def flops(self, skeleton: nn.Module, batch: int) -> dict[str, float]:
        """Operations of each part, counted on a model without storage (a multiplication and an addition are two).

        A decoded token attends to as many others as one in the middle of the new ones does.
        """
        inputs = {name: tensor for name, tensor in self.inputs(batch, skeleton).items() if name != "attention_mask"}
        if self.kind != "generation":
            return {"forward": _count(skeleton, inputs)[0]}
        last = {"logits_to_keep": 1} if takes(skeleton, "logits_to_keep") else {}  # as generate() does
        prefill, _ = _count(skeleton, {**inputs, **last})
        ids = inputs["input_ids"].new_zeros(batch, self.tokens + self.new_tokens // 2)
        _, output = _count(skeleton, {"input_ids": ids, "use_cache": True, **last})
        step, _ = _count(skeleton, {"input_ids": ids[:, :1], "past_key_values": output.past_key_values, **last})
        return {"prefill": prefill, "decode": step * (self.new_tokens - 1)}


def _count(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[float, Any]:
    with FlopCounterMode(display=False) as counter:
        output = model(**inputs)
    return float(counter.get_total_flops()), output


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward pass has an argument of that name."""
    return argument in inspect.signature(model.forward).parameters


def kind_of(model: nn.Module, name: str) -> Kind:
    """What a model does, told from its class, as :func:`optimum_grail.evaluation.evaluate.default_metric` tells it.

    Args:
        model: with or without storage.
        name: of its class, as its config says it.

    Raises:
        ArchitectureError: its inputs are of other kinds.
    """
    decodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    text, images = (takes(model, name) for name in ("input_ids", "pixel_values"))
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "generation"
    if name.endswith("CLIPModel"):
        return "pairs"
    if text != images and not decodes:
        return "sequences" if text else "images"
    raise ArchitectureError(
        f"The speed of a {name} cannot be measured here: it is none of {', '.join(KINDS.values())}. Time it with a "
        "script of your own."
    )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model of the test before its weights are read.

    Args:
        path: folder or Hub id.
        kind: what it does.
        skeleton: the model without storage.
        config: its configuration.
        tokenizer: if it has one.
        processor: its image processor, if it has one.
    """

    path: str
    kind: Kind
    skeleton: nn.Module
    config: Config
    tokenizer: Tokenizer | None
    processor: Processor | None

    @property
    def vocabulary(self) -> int:
        """Number of tokens that it knows; 0 where there is no text."""
        return 0 if self.kind == "images" else int(self.config.get_text_config().vocab_size)

    def longest(self, tokens: int) -> int:
        """``tokens``, or fewer where the model or its tokenizer takes no more; 0 where there is no text."""
        if self.kind == "images":
            return 0
        config = self.config.text_config if self.kind == "pairs" else self.config
        return default_seqlen(config, self.tokenizer, most=tokens)

    def image(self) -> tuple[int, ...]:
        """Channels, height and width, by the config, else by the image processor; empty where there are no images."""
        if self.kind not in ("images", "pairs"):
            return ()
        config = self.config.vision_config if self.kind == "pairs" else self.config
        size = getattr(config, "image_size", None) or _processed(self.processor) or IMAGE
        height, width = (size, size) if isinstance(size, int) else size
        return int(getattr(config, "num_channels", 3)), int(height), int(width)


def _processed(processor: Processor | None) -> tuple[int, int] | None:
    """Height and width of what an image processor makes of an image."""
    if processor is None:
        return None
    from PIL import Image

    image = Image.new("RGB", (IMAGE, IMAGE))
    height, width = encode_images([image], image_processor(processor, "The model"))["pixel_values"].shape[-2:]
    return height, width


def workload_of(
    candidates: Sequence[Candidate], prompt_tokens: int | None, new_tokens: int | None, seed: int
) -> Workload:
    """The work that all candidates do.

    Args:
        candidates: at least one.
        prompt_tokens: of a prompt, or of a sequence where the models take so many; default :data:`PROMPT`.
        new_tokens: at least 2; default :data:`NEW`.
        seed: of the inputs.

    Raises:
        ConfigError: the models do different things, a prompt with its new tokens is longer than a model's context, or a
            number is asked for that such models have no use for.
    """
    first = candidates[0]
    for other in candidates:
        if other.kind != first.kind:
            raise ConfigError(
                f"{first.path!r} is one of the {KINDS[first.kind]}, {other.path!r} one of the {KINDS[other.kind]}; "
                "their speeds cannot be compared. Name models that do the same."
            )
        if other.image() != first.image():
            raise ConfigError(
                f"{first.path!r} takes images of {first.image()}, {other.path!r} of {other.image()}. Name models that "
                "take images of one size."
            )
    if first.kind != "generation" and new_tokens is not None:
        raise ConfigError(f"--new-tokens is {new_tokens}, but {KINDS[first.kind]} generate nothing. Leave it out.")
    if first.kind == "images" and prompt_tokens is not None:
        raise ConfigError(f"--prompt-tokens is {prompt_tokens}, but models of images read no text. Leave it out.")
    prompt, new = prompt_tokens or PROMPT, new_tokens or NEW
    vocabulary = min(candidate.vocabulary for candidate in candidates)
    if first.kind == "generation":
        _check_context(candidates, prompt, new)
        return Workload(first.kind, prompt, new, vocabulary, seed=seed)
    tokens = min(candidate.longest(prompt) for candidate in candidates)
    return Workload(first.kind, tokens, 0, vocabulary, first.image(), seed)


def _check_context(candidates: Sequence[Candidate], prompt: int, new: int) -> None:
    if new < 2:
        raise ConfigError(
            f"--new-tokens is {new}; expected at least 2, since the first new token comes with the prompt's own pass."
        )
    for candidate in candidates:
        positions = model_positions(candidate.config)
        if positions is not None and prompt + new > positions:
            raise ConfigError(
                f"--prompt-tokens {prompt} and --new-tokens {new} are {prompt + new} tokens; {candidate.path!r} has a "
                f"context of {positions}. Ask for fewer."
            )
