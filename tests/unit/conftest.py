"""Values that several unit tests share."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartModel, LlavaConfig, LlavaForConditionalGeneration

from optimum_grail.architectures import clip, llama
from optimum_grail.architectures._tiny import seeded
from optimum_grail.core.spec import ArchitectureSpec, Mlp
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.report.report import Calibration, GroupRow, Report

DIAGNOSTICS = {
    "plain_error": 0.3,
    "fit_error": 0.1,
    "held_error": 0.15,
    "ridge": 1e-4,
    "tau": 0.75,
    "chosen": "fit",
    "affine": True,
}


@pytest.fixture
def report() -> Report:
    return Report(
        model="some-model",
        model_type="llama",
        model_class="LlamaForCausalLM",
        asked={"sparsity": 0.5},
        parameters_before=1000,
        parameters_after=600,
        block_parameters_before=800,
        block_parameters_after=400,
        bytes_before=2000,
        bytes_after=1200,
        groups=(
            GroupRow.of("layers.0.heads", "heads", 4, 4, {}),
            GroupRow.of("layers.0.mlp", "mlp", 64, 24, DIAGNOSTICS),
            GroupRow.of("layers.1.mlp", "mlp", 64, 24, DIAGNOSTICS | {"chosen": "plain"}),
        ),
        calibration=Calibration("self", "ab" * 32, 128, 32768, 256, ("streams in float32",)),
        config={"selector": "obs", "compensator": "grail-plus", "ridge": None},
        evaluation=({"metric": "perplexity", "dataset": "test.txt", "dense": 40.0, "compressed": float("inf")},),
        seconds={"fit": 1.5},
        peak_memory=10**9,
        versions={"python": "3.12.1", "torch": "2.13.0"},
        hardware={"processor": "a", "cores": 2},
        warnings=("something | odd",),
        command="optimum-cli grail compress -m some-model -o out",
    )


@dataclass(frozen=True)
class Fed:
    """A model one of whose stacks feeds another.

    Args:
        model: in eval mode.
        spec: its map; ``None``: the registered ones.
        samples: inputs.
    """

    model: nn.Module
    spec: ArchitectureSpec | None
    samples: list[dict[str, Tensor]]

    def batches(self, count: int = 20, batch_size: int = 2) -> tuple[Batch, ...]:
        """The first samples."""
        return make_batches(self.samples[:count], batch_size=batch_size)


def fed_llava() -> Fed:
    """CLIP's image encoder in front of LLaMA; as in the released models, the last layer but one is what feeds it."""
    config = LlavaConfig(
        vision_config={**clip.SIZES, **clip.VISION, "model_type": "clip_vision_model", "num_hidden_layers": 3},
        text_config={**llama.SIZES, "model_type": "llama"},
        image_token_index=95,
        vision_feature_layer=-2,
    )
    model = seeded(lambda: LlavaForConditionalGeneration(config))
    draw, samples = torch.Generator().manual_seed(1), []
    for _ in range(40):
        ids = torch.randint(3, 90, (22,), generator=draw)
        ids[2:18] = 95
        samples.append({"input_ids": ids, "pixel_values": torch.randn(3, 16, 16, generator=draw)})
    return Fed(model, None, samples)


def fed_bart() -> Fed:
    """An encoder whose last hidden states every block of a decoder attends to."""
    sizes = {"d_model": 32, "vocab_size": 96, "max_position_embeddings": 64, "init_std": 0.2}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in SIDE.items()}
    model = seeded(lambda: BartModel(BartConfig(**sizes, **sides)))
    spec = ArchitectureSpec(
        model_types=("bart",),
        blocks=("layers.*",),
        groups=(Mlp(produce=("fc1",), consume="fc2", stream="final_layer_norm"),),
    )
    draw = torch.Generator().manual_seed(1)
    names = ("input_ids", "decoder_input_ids")
    samples = [{name: torch.randint(3, 90, (12,), generator=draw) for name in names} for _ in range(40)]
    return Fed(model, spec, samples)


SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}


@pytest.fixture(params=[fed_llava, fed_bart], ids=["llava", "bart"])
def fed(request: pytest.FixtureRequest) -> Fed:
    """Models one of whose stacks feeds another."""
    return request.param()


@pytest.fixture
def llava() -> Fed:
    """An image encoder in front of a language model."""
    return fed_llava()
