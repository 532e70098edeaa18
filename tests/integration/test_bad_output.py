"""Output folders: refused before the work, complete or absent after it, whatever ends the run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_grail.compressor import GrailCompressor

FAST = ("--preset", "grail", "--num-samples", "6", "--seqlen", "32")
Refuse = Callable[..., tuple[str, str]]


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


def test_output_that_is_a_file(refuse: Refuse, embedded_llama: Path, place: Path) -> None:
    (place / "file").write_bytes(b"precious")
    kind, message = refuse(embedded_llama, *FAST, output=place / "file")
    assert kind == "OutputError" and "is a file" in message
    kind, message = refuse(embedded_llama, *FAST, output=place / "file" / "below")
    assert kind == "OutputError" and "cannot be written" in message
    assert (place / "file").read_bytes() == b"precious"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_output_that_cannot_be_written(refuse: Refuse, embedded_llama: Path, place: Path) -> None:
    place.chmod(0o500)
    kind, message = refuse(embedded_llama, *FAST)
    place.chmod(0o700)
    assert kind == "OutputError" and "cannot be written" in message


def test_existing_output(refuse: Refuse, embedded_llama: Path, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "config.json").write_bytes(b"{}")
    kind, message = refuse(embedded_llama, *FAST)
    assert kind == "OutputError" and "--overwrite" in message
    (place / "home").mkdir()
    (place / "home" / "thesis.tex").write_bytes(b"years of work")
    kind, message = refuse(embedded_llama, *FAST, "--overwrite", output=place / "home")
    assert kind == "OutputError" and "nothing in it says that optimum-grail wrote it" in message


def test_output_over_the_model(refuse: Refuse, broken: Path) -> None:
    for output in (broken, broken.parent):
        kind, message = refuse(broken, *FAST, "--overwrite", output=output)
        assert kind == "OutputError" and "the model itself" in message


@pytest.fixture(params=["weights", "plan", "tokenizer", "card"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: Any) -> Iterator[str]:
    """Each stage of saving in turn meets a full disk, after writing something."""

    def fail(*args: Any, **kwargs: Any) -> None:
        folder = next(Path(item) for item in (*args, *kwargs.values()) if isinstance(item, str | Path))
        (folder if folder.is_dir() else folder.parent).joinpath("half-written").write_bytes(b"x" * 1000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    places = {
        "weights": "transformers.PreTrainedModel.save_pretrained",
        "plan": "optimum_grail.pipeline.saving.save_plan",
        "tokenizer": "transformers.PreTrainedTokenizerBase.save_pretrained",
        "card": "optimum_grail.pipeline.saving.write_card",
    }
    monkeypatch.setattr(places[request.param], fail)
    yield request.param


def test_disk_full_while_saving(full_disk: str, refuse: Refuse, embedded_llama: Path, place: Path) -> None:
    words = ("--preset", "magnitude")
    kind, message = refuse(embedded_llama, *words, early=False)
    assert kind == "OutputError"
    assert "is full" in message and "bytes are free" in message and "another disk" in message
    (place / "out").mkdir()
    for name in ("config.json", "grail_report.json"):
        (place / "out" / name).write_bytes(b"old")
    kind, _ = refuse(embedded_llama, *words, "--overwrite", early=False)
    assert kind == "OutputError" and (place / "out" / "config.json").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("where", "measured"),
    [
        ("optimum_grail.checkpoints.loading.load_config", False),
        ("optimum_grail.pipeline.stages.load_calibration", False),
        ("optimum_grail.survey.survey.Survey.run", False),
        ("optimum_grail.models.surgery._apply_one_", True),
        ("optimum_grail.pipeline.saving.save_plan", True),
        ("optimum_grail.pipeline.saving.write_card", True),
    ],
)
def test_interrupt_leaves_no_output(
    where: str, measured: bool, cli: Any, capsys: Any, monkeypatch: Any, embedded_llama: Path, text: Path, place: Path
) -> None:
    """What was measured stays in a state, and where that is is told."""

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    before = tree(embedded_llama)
    words = ("-m", embedded_llama, "-o", place / "out", "--num-samples", "6", "--seqlen", "32", "--dataset", text)
    assert cli("grail", "compress", *words) == 130
    shown = capsys.readouterr()
    assert shown.err.endswith("Error: interrupted; no output folder was written or changed.\n")
    assert "Traceback" not in shown.err and shown.out == ""
    assert [path.name for path in place.iterdir()] == [".grail-out.state"] * measured
    assert ("Go on with --resume" in shown.err) == measured and tree(embedded_llama) == before


def test_failure_after_compressing_in_memory_can_be_saved_elsewhere(
    embedded_llama: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    """A full disk at the end does not throw the work away for users of the Python API."""
    compressor = GrailCompressor.from_pretrained(embedded_llama, {"preset": "magnitude"})
    with monkeypatch.context() as patch:
        patch.setattr(
            "optimum_grail.pipeline.saving.write_card", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, ""))
        )
        with pytest.raises(ValueError, match="is full"):
            compressor.compress(save_directory=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    compressor.save_pretrained(tmp_path / "elsewhere")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "elsewhere")
    ids = torch.arange(5, 30)[None]
    assert torch.equal(again(input_ids=ids).logits, compressor.model(input_ids=ids).logits)
