"""Bad input: each kind ends with its own clear error, exit code 2, before long work, and nothing is written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError

FAST = ("--preset", "grail", "--num-samples", "6", "--seqlen", "32")
Refuse = Callable[..., tuple[str, str]]


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def text(prose: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "rows.txt"
    path.write_text(prose.calibration.read_text(encoding="utf-8")[:20000], encoding="utf-8")
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the output would go; empty."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def refuse(cli: Callable[..., int], capsys: Any, place: Path) -> Refuse:
    """Run ``grail compress`` on bad input; returns the error's class and message.

    Checks that the exit code is 2, that there is one line and no traceback, that the work had not begun, and that
    nothing was written beside the output and in the model's folder.
    """

    def run(model: Path | str, *words: str | Path, output: Path | None = None, early: bool = True) -> tuple[str, str]:
        out = output or place / "out"
        before = [tree(folder) for folder in (place, Path(model)) if folder.exists()]
        command = ("grail", "compress", "-m", model, "-o", out, *words)
        assert cli(*command) == 2
        shown = capsys.readouterr()
        line = shown.err.strip().splitlines()[-1]
        assert line.startswith("Error: ") and "Traceback" not in shown.err and shown.out == ""
        if early:
            assert not re.search(r"^(survey|fit)$", shown.err, re.MULTILINE), "found out after the work had begun"
        assert cli(*command, "--debug", "--json") == 2
        kinds = re.findall(r"^optimum_grail\.errors\.(\w+): ", capsys.readouterr().err, re.MULTILINE)
        assert [tree(folder) for folder in (place, Path(model)) if folder.exists()] == before
        return kinds[-1], line

    return run


@pytest.fixture
def broken(embedded_llama: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    folder = tmp_path / "broken"
    shutil.copytree(embedded_llama, folder)
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


# -- model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["./no/such/model", "/no/such/model", "~/no-such-model"])
def test_model_path_that_does_not_exist(path: str, refuse: Refuse) -> None:
    kind, message = refuse(path, *FAST)
    assert kind == "CheckpointError"
    assert repr(path) in message and "does not exist" in message and "spelling" in message


def test_model_folder_without_a_model(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    kind, message = refuse(tmp_path / "empty", *FAST)
    assert kind == "CheckpointError"
    assert "holds no config.json" in message and "right folder" in message


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model"])
def test_model_id_out_of_reach(name: str, refuse: Refuse) -> None:
    kind, message = refuse(name, *FAST)
    assert kind == "CheckpointError"
    assert repr(name) in message and "neither a local folder nor" in message and "network" in message


def test_unknown_architecture(refuse: Refuse, tmp_path: Path, text: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=64, **sizes)).save_pretrained(tmp_path / "neox")
    kind, message = refuse(tmp_path / "neox", *FAST, "--dataset", text)
    assert kind == "UnknownNameError"
    assert "'gpt_neox'" in message and "llama" in message
    assert "register_architecture" in message or "spec=" in message


def test_class_that_transformers_does_not_have(refuse: Refuse, broken: Path) -> None:
    edit(broken / "config.json", lambda config: config.update(architectures=["LlamaForPoetry"]))
    kind, message = refuse(broken, *FAST)
    assert kind == "ArchitectureError"
    assert "'LlamaForPoetry'" in message and "Update transformers" in message


def test_broken_config(refuse: Refuse, broken: Path) -> None:
    (broken / "config.json").write_text("{", encoding="utf-8")
    kind, message = refuse(broken, *FAST)
    assert kind == "CheckpointError" and "config.json" in message and "Restore" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.layers.3.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_weights_that_are_no_numbers(value: float, name: str, refuse: Refuse, broken: Path, text: Path) -> None:
    state = load_file(broken / "model.safetensors")
    state[name][1, 2] = value
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    kind, message = refuse(broken, *FAST, "--dataset", text)
    assert kind == "StatisticsError"
    assert name in message and "NaN or infinite" in message and "Repair" in message


def test_weights_outside_the_groups_that_are_no_numbers(refuse: Refuse, broken: Path, text: Path) -> None:
    """A norm's weight is no part of any group, yet spoils every activation behind it."""
    state = load_file(broken / "model.safetensors")
    state["model.layers.2.input_layernorm.weight"][5] = float("nan")
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    for data in (("--dataset", text), ()):
        kind, message = refuse(broken, *FAST, *data)
        assert kind == "StatisticsError"
        assert "model.layers.2.input_layernorm.weight" in message


@pytest.mark.parametrize("preset", ["grail", "grail-plus"])
def test_activations_that_overflow(preset: str, refuse: Refuse, broken: Path, text: Path) -> None:
    """Every weight is finite, what they compute is not: the error names where it was seen, whenever that is."""
    state = load_file(broken / "model.safetensors")
    for name in ("gate_proj", "up_proj"):
        state[f"model.layers.4.mlp.{name}.weight"].mul_(0).add_(1e37)
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    words = ("--preset", preset, "--num-samples", "6", "--seqlen", "32", "--dataset", text)
    kind, message = refuse(broken, *words, early=False)
    assert kind == "StatisticsError"
    assert "model.layers.4" in message or "model.layers.5" in message


def test_a_model_that_cannot_write(refuse: Refuse, broken: Path) -> None:
    state = load_file(broken / "model.safetensors")
    state["model.norm.weight"].fill_(3e38)
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    kind, message = refuse(broken, *FAST)
    assert kind == "StatisticsError" and "finite" in message


def test_compressed_checkpoint(refuse: Refuse, llama_run: Callable[[str], Any], text: Path) -> None:
    for name in ("default", "free"):
        kind, message = refuse(llama_run(name).folder, *FAST, "--dataset", text)
        assert kind == "CheckpointError"
        assert "compressed already" in message and "dense" in message and "--allow-recompress" in message


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100_000])


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * 5000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_one(path: Path) -> None:
    state = load_file(path)
    del state["model.layers.3.mlp.up_proj.weight"]
    save_file(state, path, {"format": "pt"})


def reshape_one(path: Path) -> None:
    state = load_file(path)
    state["model.layers.3.mlp.up_proj.weight"] = state["model.layers.3.mlp.up_proj.weight"][:500].clone()
    save_file(state, path, {"format": "pt"})


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, garble, empty, drop_one, reshape_one, remove])
def test_damaged_weights(damage: Callable[[Path], None], refuse: Refuse, broken: Path) -> None:
    damage(broken / "model.safetensors")
    kind, message = refuse(broken, *FAST)
    assert kind == "CheckpointError" and repr(str(broken)) in message
    if damage in (drop_one, reshape_one):
        assert "model.layers.3.mlp.up_proj.weight" in message
    else:
        assert re.search(r"corrupt or truncated|again", message)


def test_damaged_weights_when_evaluating(cli: Any, capsys: Any, broken: Path, text: Path) -> None:
    truncate(broken / "model.safetensors")
    assert cli("grail", "evaluate", "-m", broken, "--dataset", text, "--metric", "perplexity") == 2
    assert "truncated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers["0"].update(intermediate_size=5), "do not fit config.json"),
        (lambda layers: layers["0"].update(intermediate_size=-1), "positive integer"),
        (lambda layers: layers["0"].update(intermediate_size="many"), "positive integer"),
        (lambda layers: layers["0"].update(intermediate_size=10**9), "above the 512"),
        (lambda layers: layers.update({"77": {"intermediate_size": 4}}), "no such layer"),
        (lambda layers: layers.clear(), "do not fit config.json"),
    ],
    ids=["other", "negative", "word", "huge", "layer", "empty"],
)
def test_table_that_does_not_fit_the_weights(
    change: Any, message: str, cli: Any, capsys: Any, llama_run: Callable[[str], Any], text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(llama_run("free").folder, folder)
    edit(folder / "config.json", lambda config: change(config["grail_config"]["layers"]))
    for words in (("evaluate", "--dataset", text, "--metric", "perplexity"), ("compress", "-o", tmp_path / "out")):
        assert cli("grail", words[0], "-m", folder, *words[1:]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
        assert message in line or (words[0] == "compress" and "compressed already" in line)
    assert not (tmp_path / "out").exists()
    with pytest.raises((CheckpointError, RuntimeError)):
        AutoModelForCausalLM.from_pretrained(folder)


def test_missing_tokenizer(refuse: Refuse, broken: Path, text: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    kind, message = refuse(broken, *FAST, "--dataset", text)
    assert kind == "DataError"
    assert repr(str(broken)) in message and "tokenizer.json is missing" in message


def test_broken_tokenizer(refuse: Refuse, broken: Path, text: Path) -> None:
    (broken / "tokenizer.json").write_text("{", encoding="utf-8")
    kind, message = refuse(broken, *FAST, "--dataset", text)
    assert kind == "DataError" and "tokenizer.json" in message and "Restore" in message


# -- request --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "value", "guess"),
    [
        (("--selector", "wnda"), "'wnda'", "'wanda'"),
        (("--selector", "magnitud:p=2"), "'magnitud'", "'magnitude'"),
        (("--compensator", "grail-pls"), "'grail-pls'", "'grail-plus'"),
        (("--allocation", "balancd"), "'balancd'", "'balanced'"),
        (("--preset", "grial-plus"), "'grial-plus'", "'grail-plus'"),
    ],
)
def test_unknown_names(
    words: tuple[str, ...], value: str, guess: str, embedded_llama: Path, cli: Any, capsys: Any
) -> None:
    assert cli("grail", "compress", "-m", embedded_llama, "-o", "never", *words) == 2
    shown = capsys.readouterr().err
    assert value in shown and f"Did you mean {guess}" in shown and "Available: " in shown
    assert "Loading weights" not in shown and not Path("never").exists()


@pytest.mark.parametrize("flag", ["--sparsity", "--ffn-sparsity", "--head-sparsity", "--channel-sparsity"])
@pytest.mark.parametrize("value", ["0", "1", "-0.5", "1.5", "50", "half", "nan", "inf"])
def test_sparsity_outside_its_range(flag: str, value: str, cli: Any, capsys: Any, embedded_llama: Path) -> None:
    assert cli("grail", "compress", "-m", embedded_llama, "-o", "never", flag, value) == 2
    shown = capsys.readouterr().err
    assert value in shown and "a number in (0, 1)" in shown and flag in shown
    assert not Path("never").exists()


@pytest.mark.parametrize("text_form", ["file", "self"])
@pytest.mark.parametrize(
    ("words", "value", "remedy"),
    [
        (("--ffn-sparsity", "0.9999"), "--ffn-sparsity 0.9999 leaves no unit of 512", "at most 0.998"),
        (("--head-sparsity", "0.95"), "--head-sparsity 0.95 leaves no unit of 6", "at most 0.833"),
        (("--sparsity", "0.99"), "A sparsity of 0.99 cannot be reached", "at most 0.95"),
        (("--sparsity", "0.9", "--round-to", "400"), "cannot be reached", "--round-to"),
        (("--channel-sparsity", "0.5"), "no groups of kind 'conv'", "--ffn-sparsity"),
        (("--sparsity", "0.5", "--allocation", "knapsack", "--standalone"), "free widths per layer", "--no-standalone"),
    ],
)
def test_request_that_cannot_be_met(
    words: tuple[str, ...], value: str, remedy: str, text_form: str, refuse: Refuse, embedded_llama: Path, text: Path
) -> None:
    data = ("--dataset", text) if text_form == "file" else ()
    kind, message = refuse(embedded_llama, "--num-samples", "6", "--seqlen", "32", *data, *words)
    assert kind == "BudgetError"
    assert value in message and remedy in message


@pytest.mark.parametrize("preset", ["grail", "grail-plus"])
def test_request_that_prunes_nothing(preset: str, refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    words = ("--preset", preset, "--num-samples", "6", "--seqlen", "32", "--dataset", text)
    kind, message = refuse(embedded_llama, *words, "--ffn-sparsity", "0.0005", early=preset == "grail")
    assert kind == "BudgetError" and "prunes nothing" in message and "higher sparsity" in message


def test_two_budgets(refuse: Refuse, embedded_llama: Path) -> None:
    kind, message = refuse(embedded_llama, "--sparsity", "0.5", "--ffn-sparsity", "0.5")
    assert kind == "ConfigError" and "contradict" in message


def test_broken_configuration_file(refuse: Refuse, embedded_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for content, words in (("{", "not JSON"), ("[]", "JSON object"), ('{"sparsity": 7}', "(0, 1)")):
        file.write_text(content, encoding="utf-8")
        kind, message = refuse(embedded_llama, "--config", file)
        assert kind == "ConfigError" and words in message
    kind, message = refuse(embedded_llama, "--config", tmp_path / "none.json")
    assert kind == "ConfigError" and "none.json" in message


# -- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--dataset", "--eval-dataset"])
@pytest.mark.parametrize("path", ["./no/such/rows.txt", "/no/such/folder", "rows.jsonl"])
def test_dataset_path_that_does_not_exist(
    path: str, flag: str, refuse: Refuse, embedded_llama: Path, text: Path
) -> None:
    kind, message = refuse(embedded_llama, *FAST, *(("--dataset", text) if flag != "--dataset" else ()), flag, path)
    assert kind == "DataError"
    assert repr(path) in message and "does not exist" in message and "spelling" in message


def test_dataset_id_out_of_reach(refuse: Refuse, embedded_llama: Path) -> None:
    kind, message = refuse(embedded_llama, *FAST, "--dataset", "nobody/no-such-dataset")
    assert kind == "DataError"
    assert "'nobody/no-such-dataset'" in message and "network" in message and "local file" in message


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pictures(folder: Path) -> Path:
    from PIL import Image

    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "one.png")
    return folder / "pictures"


DATA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda folder: write(folder / "e.txt", b""), "empty|0 tokens|0 windows"),
    "blank": (lambda folder: write(folder / "b.txt", b"\n \n\n"), "windows"),
    "short": (
        lambda folder: write(folder / "s.txt", b"Only a few words."),
        r"which is 0 windows of seqlen=32; expected 6",
    ),
    "numbers": (lambda folder: write(folder / "n.csv", b"a,b\n1,2\n3,4\n"), "no text column.*--text-column"),
    "binary": (lambda folder: write(folder / "x.txt", bytes(range(256)) * 40), "cannot be read"),
    "broken": (lambda folder: write(folder / "x.parquet", b"no parquet"), "cannot be read"),
    "ending": (lambda folder: write(folder / "x.docx", b"words"), "not a dataset file.*parquet"),
    "nothing": (lambda folder: folder, "holds no dataset files"),
    "images": (pictures, "no text column"),
}


@pytest.mark.parametrize("name", DATA)
def test_unusable_data(name: str, refuse: Refuse, embedded_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make, words = DATA[name]
    path = make(folder)
    kind, message = refuse(embedded_llama, *FAST, "--dataset", path)
    assert kind == "DataError"
    assert re.search(words, message), message
    assert path.name in message or name in ("numbers", "images")


def test_unusable_data_in_memory(embedded_llama: Path) -> None:
    for data, words in (
        ([], "is empty"),
        (3, "not a dataset"),
        ([1, 2, 3], "text"),
        ([{"labels": [1]}], "no text column"),
        (["a few words"], "windows"),
    ):
        compressor = GrailCompressor.from_pretrained(
            embedded_llama, {"preset": "grail", "num_samples": 4, "seqlen": 16}
        )
        with pytest.raises(ValueError, match=words):
            compressor.compress(data)


@pytest.mark.parametrize("data", ["file", "self"])
def test_seqlen_above_the_positions(data: str, refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    words = ("--dataset", text) if data == "file" else ()
    kind, message = refuse(embedded_llama, "--seqlen", "1025", *words)
    assert kind == "DataError"
    assert "seqlen=1025" in message and "1024 positions" in message and "--seqlen 1024" in message


def test_missing_column(refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    kind, message = refuse(embedded_llama, *FAST, "--dataset", text, "--text-column", "body")
    assert kind == "DataError" and "'body'" in message and "['text']" in message and "--text-column" in message


def test_missing_split(refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    kind, message = refuse(embedded_llama, *FAST, "--dataset", text, "--split", "dev")
    assert kind == "DataError" and "'dev'" in message and "['train']" in message and "--split" in message


def test_self_written_text_of_an_encoder(refuse: Refuse, minilm: Path) -> None:
    for words in ((), ("--dataset", "self")):
        kind, message = refuse(minilm, *FAST, *words)
        assert kind == "DataError" and "--dataset" in message and "causal" in message.lower()


# -- output ---------------------------------------------------------------------------------------------------------


def test_output_that_is_a_file(refuse: Refuse, embedded_llama: Path, place: Path) -> None:
    write(place / "file", b"precious")
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
    write(place / "out" / "config.json", b"{}")
    kind, message = refuse(embedded_llama, *FAST)
    assert kind == "OutputError" and "--overwrite" in message
    (place / "home").mkdir()
    write(place / "home" / "thesis.tex", b"years of work")
    kind, message = refuse(embedded_llama, *FAST, "--overwrite", output=place / "home")
    assert kind == "OutputError" and "does not look like a checkpoint" in message


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
        "plan": "optimum_grail.saving.save_plan",
        "tokenizer": "transformers.PreTrainedTokenizerBase.save_pretrained",
        "card": "optimum_grail.saving.write_card",
    }
    monkeypatch.setattr(places[request.param], fail)
    yield request.param


def test_disk_full_while_saving(full_disk: str, refuse: Refuse, embedded_llama: Path, text: Path, place: Path) -> None:
    words = (*FAST, "--dataset", text)
    kind, message = refuse(embedded_llama, *words, early=False)
    assert kind == "OutputError"
    assert "is full" in message and "bytes are free" in message and "another disk" in message
    (place / "out").mkdir()
    write(place / "out" / "config.json", b"old")
    kind, _ = refuse(embedded_llama, *words, "--overwrite", early=False)
    assert kind == "OutputError" and (place / "out" / "config.json").read_bytes() == b"old"


@pytest.mark.parametrize(
    "where",
    [
        "optimum_grail.evaluation.evaluate.load_config",
        "optimum_grail.compressor.calibration_data",
        "optimum_grail.pipeline.survey.Survey.run",
        "optimum_grail.models.surgery._apply_one_",
        "optimum_grail.saving.save_plan",
        "optimum_grail.saving.write_card",
    ],
)
def test_interrupt_leaves_nothing(
    where: str, cli: Any, capsys: Any, monkeypatch: Any, embedded_llama: Path, text: Path, place: Path
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    before = tree(embedded_llama)
    words = ("-m", embedded_llama, "-o", place / "out", "--num-samples", "6", "--seqlen", "32", "--dataset", text)
    assert cli("grail", "compress", *words) == 1
    shown = capsys.readouterr()
    assert shown.err.endswith("Error: interrupted; no output folder was written or changed.\n")
    assert "Traceback" not in shown.err and shown.out == ""
    assert tree(place) == {} and tree(embedded_llama) == before


def test_failure_after_compressing_in_memory_can_be_saved_elsewhere(
    embedded_llama: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    """A full disk at the end does not throw the work away for users of the Python API."""
    compressor = GrailCompressor.from_pretrained(embedded_llama, {"preset": "magnitude"})
    with monkeypatch.context() as patch:
        patch.setattr(
            "optimum_grail.saving.write_card", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, ""))
        )
        with pytest.raises(ValueError, match="is full"):
            compressor.compress(save_directory=tmp_path / "out")
    assert tree(tmp_path) == {}
    compressor.save_pretrained(tmp_path / "elsewhere")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "elsewhere")
    ids = torch.arange(5, 30)[None]
    assert torch.equal(again(input_ids=ids).logits, compressor.model(input_ids=ids).logits)
