"""Every block of the guides and of the README runs, on small models that stand where the pages name large ones."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, ViTImageProcessor

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.config.config import GrailConfig
from optimum_grail.selectors import SELECTORS
from optimum_grail.signals import SIGNALS

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDES = sorted(path for path in (REPOSITORY / "docs" / "guides").glob("*.md") if path.name != "README.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"quantize.md": ("torchao", "bitsandbytes"), "export.md": ("onnxruntime", "onnxscript", "gguf")}
QUICK = {
    "compress": ("--num-samples", "16", "--seqlen", "64"),
    "sweep": ("--num-samples", "16", "--seqlen", "64"),
    "recover": ("--num-samples", "20", "--steps", "10"),
    "evaluate": ("--seqlen", "64"),
    "benchmark": ("--prompt-tokens", "16", "--new-tokens", "4", "--repeats", "2"),
}
"""What is added to the commands of the pages."""
SHORTER = {
    "GrailConfig(sparsity=0.3)": "GrailConfig(sparsity=0.3, num_samples=16, seqlen=64)",
    '"num_samples": 32': '"num_samples": 16, "seqlen": 64',
}
"""What stands in their Python for less."""
LAUNCHER = "torchrun --nproc-per-node 2 --no-python "
"""Before a command that two processes share; here forks of this one stand in for what it starts."""
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def place(tmp_path: Path, embedded_llama: Path, prose: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages name."""
    monkeypatch.chdir(tmp_path)
    for registry in (SELECTORS, ALLOCATIONS, SIGNALS):  # one page adds to them
        monkeypatch.setattr(registry, "_entries", dict(registry))
    shortened(embedded_llama, tmp_path / "meta-llama" / "Llama-3.2-1B")
    shortened(embedded_llama, tmp_path / "examples" / embedded_llama.name)
    shortened(REPOSITORY / "examples" / "mixtral-books-5m", tmp_path / "mistralai" / "Mixtral-8x7B-v0.1")
    (tmp_path / "corpus.txt").write_text(prose.calibration.read_text(encoding="utf-8")[:40000], encoding="utf-8")
    (tmp_path / "test.txt").write_text(prose.held.read_text(encoding="utf-8")[:5000], encoding="utf-8")
    (tmp_path / "sentences.txt").write_text("\n".join(prose.sentences[:64]), encoding="utf-8")
    pairs = [f'"{one}","{two}",{index % 5}' for index, (one, two) in enumerate(_pairs(prose.sentences[:32]))]
    (tmp_path / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *pairs]), encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for index in range(16):
        pixels = torch.randint(0, 255, (16, 16, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{index}.png")
    tiny_vit().save_pretrained("google/vit-base-patch16-224")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained("google/vit-base-patch16-224")
    return tmp_path


def shortened(source: Path, folder: Path) -> None:
    """A copy with two layers: the commands are the same, and sooner done."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (name,) = AutoConfig.from_pretrained(source).architectures
    getattr(transformers, name).from_pretrained(source, num_hidden_layers=2).save_pretrained(folder)


def _pairs(sentences: list[str]) -> list[tuple[str, str]]:
    plain = [sentence.replace('"', "'") for sentence in sentences]
    return list(zip(plain[::2], plain[1::2], strict=True))


def run(page: Path, place: Path, cli: Callable[..., int], shared: Callable[..., list[Any]]) -> dict[str, Any]:
    """Execute the blocks of a page, one after the other; returns what names its Python leaves."""
    names: dict[str, Any] = {"__name__": page.stem}
    found = blocks(page)
    assert {language for language, _ in found} <= {"python", "bash", "yaml", "text"}
    for language, code in found:
        if language == "python":
            for long, short in SHORTER.items():
                code = code.replace(long, short)
            exec(compile(code, str(page), "exec", dont_inherit=True), names)
        elif language == "yaml":
            (place / "run.yaml").write_text(code, encoding="utf-8")
            GrailConfig.from_file(place / "run.yaml").methods()
        elif language == "bash":
            for line in code.strip().splitlines():
                launcher, program, rest = line.rpartition("optimum-cli ")
                grail, command, *words = shlex.split(rest, comments=True)
                assert (program, grail) == ("optimum-cli ", "grail")
                assert launcher in ("", LAUNCHER)
                arguments = (grail, command, *words, *QUICK.get(command, ()))
                if launcher:
                    assert shared(2, lambda arguments=arguments: cli(*arguments)) == [0, 0], line
                else:
                    assert cli(*arguments) == 0, line
    return names


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_guide(
    page: Path,
    place: Path,
    cli: Callable[..., int],
    in_processes: Callable[..., list[Any]],
    request: pytest.FixtureRequest,
) -> None:
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module)
    if page.name == "quantize.md":
        request.getfixturevalue("quanto")
    if "all-MiniLM" in page.read_text(encoding="utf-8"):
        shortened(request.getfixturevalue("minilm"), place / "sentence-transformers" / "all-MiniLM-L6-v2")
    run(page, place, cli, in_processes)


def test_blocks_that_do_not_run_are_few() -> None:
    """What is marked ``text`` is not executed: only the upload, which the tests of publishing run."""
    idle = [code for page in GUIDES for language, code in blocks(page) if language == "text"]
    assert len(idle) == 1 and idle[0].startswith("optimum-cli grail push")


def test_the_index_names_every_guide() -> None:
    index = (REPOSITORY / "docs" / "guides" / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(([\w-]+\.md)\)", index)) == [page.name for page in GUIDES]


@pytest.mark.timeout(900)  # a dozen commands, some with processes of their own
def test_the_journey_of_the_readme(
    place: Path, embedded_llama: Path, cli: Callable[..., int], in_processes: Callable[..., list[Any]]
) -> None:
    for module in ("gguf", "xllamacpp"):
        pytest.importorskip(module)
    shortened(embedded_llama, place / "HuggingFaceTB" / "SmolLM2-135M-Instruct")
    names = run(REPOSITORY / "README.md", place, cli, in_processes)
    assert len(names["answer"]["choices"][0]["text"]) > 0
    assert "What they write" in (place / "report.html").read_text(encoding="utf-8")
    assert len(names["model"].state_dict()) > 0


def test_the_readme_installs_and_nothing_else_of_it_is_idle() -> None:
    idle = [code for language, code in blocks(REPOSITORY / "README.md") if language not in ("python", "bash")]
    assert len(idle) == 1 and idle[0].startswith("git clone")
