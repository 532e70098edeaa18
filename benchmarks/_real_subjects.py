"""One subject per kind of model: how it is loaded, what calibrates it, what it is measured by."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from _common import REPOSITORY, data_folder
from _real_models import CLASSES, Model
from corpora import python_documentation
from datasets import Dataset
from torch import Tensor, nn

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.data.images import open_image
from optimum_grail.data.rows import read_rows
from optimum_grail.evaluation.agreement import Answers, Classes
from optimum_grail.evaluation.evaluate import make_metric
from optimum_grail.evaluation.metrics._metric import Readers
from optimum_grail.evaluation.perturbations import perturb_images
from optimum_grail.proposals.propose import propose

Sets = Mapping[str, tuple[Any, Mapping[str, Any]]]
"""Name of an evaluation set to its data and the options of the metric."""


class Subject(ABC):
    """A model with its data.

    Args:
        model: what is measured.
    """

    metric: str
    headline: str
    spec: ArchitectureSpec | None = None

    def __init__(self, model: Model) -> None:
        self.model = model
        self.folder = str(model.folder())

    @cached_property
    def processors(self) -> tuple[Any, Any]:
        """Tokenizer and image processor."""
        return load_processors(self.folder, False)

    def load(self) -> Any:
        """The dense model, in float32."""
        return load_model(self.folder, dtype="float32", device="cpu")

    @abstractmethod
    def calibration(self, other: bool) -> Any:
        """Calibration data; ``other``: of the other corpus."""

    @abstractmethod
    def sets(self) -> Sets:
        """What it is measured on; the first set is the headline's."""

    def scores(self, module: nn.Module) -> dict[str, float]:
        """The metric on every set."""
        found = {}
        for name, (data, options) in self.sets().items():
            metric = make_metric(self.metric, dict(options))
            found[name] = float(metric(module, *self.processors, metric.read(data))[metric.headline])
        return found

    def answers(self, module: nn.Module) -> Answers | None:
        """What it answers on the set by which it is compared with the dense model."""
        data, options = self.compared()
        metric = make_metric(self.metric, dict(options))
        return metric.measure(module, Readers.of(module, *self.processors), metric.read(data), None).answers

    def compared(self) -> tuple[Any, Mapping[str, Any]]:
        """The set by which it is compared with the dense model."""
        return next(iter(self.sets().values()))

    def shown(self, module: nn.Module) -> str:
        """Something that it says; empty where it says nothing."""
        return ""

    def example(self) -> dict[str, Tensor]:
        """Inputs to try it with."""
        ids = self.processors[0]("The old house stood by the sea.", return_tensors="pt")
        return {name: ids[name] for name in ("input_ids", "attention_mask")}


class Language(Subject):
    """A causal language model: perplexity on four texts."""

    metric, headline = "perplexity", "wikitext-2"

    def calibration(self, other: bool) -> Any:
        return str(data_folder() / "wikitext-2/train.parquet") if other else None

    @property
    def seqlen(self) -> int:
        """Tokens of a window."""
        return 256 if self.model.name == "llama-books-3m" else 512

    def sets(self) -> Sets:
        data, options = data_folder(), {"seqlen": self.seqlen, "num_samples": self.model.rows}
        return {
            "wikitext-2": (str(data / "wikitext-2/test.parquet"), options),
            "books": (str(data / "classic-books/test.parquet"), options),
            "tinystories": (str(data / "tinystories-sample/sample.parquet"), options),
            "python-docs": (python_documentation(), options),
        }

    def compared(self) -> tuple[Any, Mapping[str, Any]]:
        return self.sets()["books"][0], {"seqlen": self.seqlen, "num_samples": 4}

    def shown(self, module: nn.Module) -> str:
        tokenizer, any_module = self.processors[0], module
        inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            said = any_module.generate(**inputs, max_new_tokens=32, do_sample=False)  # type: ignore[operator]
        return str(tokenizer.decode(said[0], skip_special_tokens=True))


class Embedder(Subject):
    """A model of embeddings: STS-B, and how near its embeddings of other text are to the dense model's."""

    metric, headline = "spearman", "STS-B"

    def calibration(self, other: bool) -> Any:
        return "general" if other else str(data_folder() / "stsb/train.csv")

    def sets(self) -> Sets:
        return {"STS-B": (str(data_folder() / "stsb/dev.csv"), {"num_samples": self.model.rows})}

    def compared(self) -> tuple[Any, Mapping[str, Any]]:
        """Lines of WikiText-2: text of another kind than what calibrates."""
        lines = read_rows(str(data_folder() / "wikitext-2/test.parquet")).data["text"]
        chosen = [line for text in lines for line in text.split("\n") if len(line) > 80][:200]
        return Dataset.from_dict(
            {"sentence1": chosen[:100], "sentence2": chosen[100:], "score": [float(i % 2) for i in range(100)]}
        ), {}


class Images(Subject):
    """A classifier of images: top-1, on clean and on noisy images."""

    metric, headline = "accuracy", "top-1"

    @property
    def imagenet(self) -> bool:
        """Whether its data are the thousand photographs, which both calibrate (even rows) and measure (odd rows)."""
        return self.model.name != "vit-cifar10"

    @cached_property
    def processors(self) -> tuple[Any, Any]:
        """The photographs are cropped already, so they are not cropped once more."""
        tokenizer, processor = load_processors(self.folder, False)
        if self.imagenet:
            processor.do_resize = processor.do_center_crop = False
        return tokenizer, processor

    def calibration(self, other: bool) -> Any:
        return half(0) if self.imagenet else read_rows(str(data_folder() / "cifar10-jpeg"), split="train").data

    def sets(self) -> Sets:
        data = half(1) if self.imagenet else str(data_folder() / "cifar10-jpeg/test.parquet")
        options = {"num_samples": self.model.rows}
        return {"top-1": (data, options), "top-1, noisy": (data, {**options, "perturb": "noise"})}

    def example(self) -> dict[str, Tensor]:
        picture = open_image(half(1)[0]["image"], "the first row")
        return {"pixel_values": self.processors[1](images=[picture], return_tensors="pt")["pixel_values"]}


def half(odd: int) -> Dataset:
    """Every second row of the photographs."""
    data = read_rows(str(data_folder() / "imagenet-sample-1000/test.parquet")).data
    return data.select(range(odd, len(data), 2))


class Module(Subject):
    """A classifier of images that is a plain module, with a map of its own."""

    metric, headline = "accuracy", "top-1"
    name: str
    """Of the argument that takes the images."""

    @abstractmethod
    def images(self, odd: int, noise: bool) -> tuple[Tensor, Tensor]:
        """Images that calibrate (0) or measure (1), and their classes."""

    def calibration(self, other: bool) -> Any:
        return [{self.name: image} for image in self.images(0, False)[0]]

    def sets(self) -> Sets:
        return {}

    def classes(self, module: nn.Module, images: Tensor) -> Tensor:
        """The class of every image."""
        with torch.inference_mode():
            return torch.cat([module(part).argmax(dim=1) for part in images.split(50)])

    def scores(self, module: nn.Module) -> dict[str, float]:
        found = {}
        for name, noise in (("top-1", False), ("top-1, noisy", True)):
            images, labels = self.images(1, noise)
            found[name] = float((self.classes(module, images) == labels).double().mean())
        return found

    def answers(self, module: nn.Module) -> Answers | None:
        return Classes(self.classes(module, self.images(1, False)[0]))

    def example(self) -> dict[str, Tensor]:
        return {self.name: self.images(1, False)[0][:1]}


class EfficientNet(Module):
    """EfficientNet-Lite0, whose map is a proposal."""

    name = "inputs"

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        sys.path.insert(0, str(CLASSES))
        from efficientnet_lite_pytorch import EfficientNet as Kind

        torch.manual_seed(0)
        self.kind: Any = Kind.from_name("efficientnet-lite0").eval()
        self.spec = propose(self.kind, {"inputs": torch.randn(2, 3, 96, 96)}).spec

    def load(self) -> Any:
        path = f"{self.folder}/pytorch_model.pth"
        self.kind.load_state_dict(torch.load(path, weights_only=True))
        return self.kind

    def images(self, odd: int, noise: bool) -> tuple[Tensor, Tensor]:
        import numpy

        rows = half(odd)
        pictures = [open_image(row["image"], "the photographs") for row in rows]
        pictures = perturb_images("noise" if noise else None, pictures, range(len(rows)))
        pixels = torch.stack([torch.from_numpy(numpy.array(picture)) for picture in pictures]).permute(0, 3, 1, 2)
        return (pixels / 255 - 0.498) / 0.502, torch.tensor(rows["label"])


class ResNet(Module):
    """The ResNet-20 of ``examples/custom_module.py``."""

    name = "images"

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        sys.path.insert(0, str(REPOSITORY / "examples"))
        import custom_module

        self.example_file, self.spec = custom_module, custom_module.SPEC

    def load(self) -> Any:
        return self.example_file.load_model(data_folder())[0]

    def images(self, odd: int, noise: bool) -> tuple[Tensor, Tensor]:
        """Noise is added to the pixels before they are normalised, not to pictures."""
        file = data_folder() / "cifar10-lossless" / ("test.parquet" if odd else "train.parquet")
        config = self.example_file.load_model(data_folder())[1]
        images, labels = self.example_file.load_images(file, config, self.model.rows if odd else self.model.samples)
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        deviation = torch.tensor(config["std"])[:, None, None]
        return images + noise * 0.05 * drawn / deviation, labels


def subject_of(model: Model) -> Subject:
    """The subject of a model."""
    if model.kind == "speech":
        from _real_speech import Speech

        return Speech(model)
    if model.kind == "module":
        return ResNet(model) if model.name == "resnet20" else EfficientNet(model)
    kinds: Mapping[str, type[Subject]] = {"language": Language, "embeddings": Embedder, "images": Images}
    return kinds[model.kind](model)


def joined(samples: Sequence[Mapping[str, Tensor]], size: int) -> Iterator[dict[str, Tensor]]:
    """Batches of samples of one shape."""
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        yield {name: torch.stack([sample[name] for sample in part]) for name in part[0]}
