"""Cards state what a report holds."""

from __future__ import annotations

import dataclasses

import jinja2
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from optimum_grail.checkpoints.identity import check_base_model, hub_id
from optimum_grail.errors import ConfigError
from optimum_grail.hub import card as card_module
from optimum_grail.hub import metadata as metadata_module
from optimum_grail.hub.card import build_card, cell, write_card
from optimum_grail.hub.citations import citations
from optimum_grail.hub.metadata import inherited_from

FORWARD = {
    "inputs": {"input_ids": {"shape": [1, 256], "dtype": "torch.int64"}},
    "outputs": {"logits": [1, 256, 4096]},
    "dtype": "float32",
    "device": "cpu",
    "latency": [{"batch": 1, "dense": 0.05, "compressed": 0.025}],
    "memory": [{"batch": 8, "dense": 3 * 2**20, "compressed": 2**21}],
}


def test_front_matter(report):
    data = build_card(report, inherited={"license": "apache-2.0", "language": ["en"]}).data.to_dict()
    assert data == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "language": ["en"],
        "pipeline_tag": "text-generation",
        "tags": ["grail", "pruned", "structured-pruning", "llama"],
    }


def test_base_model_is_linked_if_it_is_on_the_hub(report):
    card = build_card(dataclasses.replace(report, base_model="org/some-model"))
    assert card.text.lstrip().startswith("# org/some-model, compressed")
    assert card.data.base_model == "org/some-model"
    assert "(https://huggingface.co/org/some-model)" in card.text


def test_paths_of_the_authors_disk_stay_private(report):
    private = dataclasses.replace(
        report,
        model="/home/someone/models/mine",
        calibration=dataclasses.replace(report.calibration, source="/home/someone/rows.txt"),
        config={"dataset": "/home/someone/rows.txt"},
        evaluation=({"metric": "perplexity", "dataset": "/home/someone/test.txt", "dense": 1.0, "compressed": 2.0},),
        command="/home/someone/bin/optimum-cli grail compress -m /home/someone/models/mine -o out",
    )
    text = str(build_card(private))
    assert "/home" not in text
    for words in ("# mine, compressed", '"dataset": "rows.txt"', "perplexity on test.txt", "compress -m mine -o out"):
        assert words in text


def test_tables_need_the_package(report):
    standalone, tabled = build_card(report), build_card(dataclasses.replace(report, standalone=False))
    assert tabled.data.library_name == "optimum-grail"
    assert "import optimum_grail" in tabled.text and "import optimum_grail" not in standalone.text


def test_own_modules_are_loaded_by_the_package(report):
    card = build_card(dataclasses.replace(report, model_type="", model_class="ResNetCifar"))
    assert card.data.library_name == "optimum-grail"
    assert "load_compressed_(module" in card.text and "from transformers" not in card.text


@pytest.mark.parametrize("standalone", [True, False])
@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "BertModel", "ViTForImageClassification", ""])
def test_snippets_are_python(report, standalone, model_class):
    text = build_card(dataclasses.replace(report, standalone=standalone, model_class=model_class)).text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "from_pretrained(path)" in code
    assert ("generate" in code) == (model_class == "LlamaForCausalLM")


@pytest.mark.parametrize(
    ("present", "processor"),
    [
        (["preprocessor_config.json"], "AutoImageProcessor"),
        (["preprocessor_config.json", "tokenizer.json"], "AutoProcessor"),
        (["vocab.txt"], "AutoTokenizer"),
    ],
)
def test_snippets_load_the_processor_that_is_there(report, present, processor):
    text = build_card(report, present=present).text
    assert f"{processor}.from_pretrained(path)" in text
    assert ("Image.new" in text) == (processor != "AutoTokenizer")


def test_without_a_processor_tensors_of_the_real_shapes_are_shown(report):
    text = build_card(dataclasses.replace(report, forward=FORWARD), present=[]).text
    code = text.split("```python\n")[1].split("```")[0]
    assert "outputs = model(input_ids=torch.ones(1, 256, dtype=torch.long))" in code and "import torch" in code
    assert "print(outputs.logits.shape)  # [1, 256, 4096] from input_ids [1, 256]" in code
    assert "processor" not in code and "generate" not in code


def test_measured_latency_and_memory_are_rows(report):
    text = build_card(dataclasses.replace(report, forward=FORWARD)).text
    assert "| latency, batch of 1 | 50 ms | 25 ms | -50.0 % |" in text
    assert "| memory, batch of 8 | 3.0 MiB |" in text
    assert "on cpu in float32, with\ninput_ids [1, 256] per sample" in text
    assert "latency" not in build_card(report).text


@pytest.mark.parametrize("drawn", [True, False])
def test_errors_are_a_picture_or_a_table(report, drawn):
    text = build_card(report, present=["grail_errors.png"] if drawn else []).text
    assert ("![" in text and "(grail_errors.png)" in text) == drawn
    assert ("| layers.1.mlp | 24 of 64 |" in text) != drawn


def test_results_become_a_model_index(report):
    rows = (
        {"metric": "perplexity", "dataset": "org/text", "dense": 40.0, "compressed": 50.5},
        {"metric": "perplexity", "dataset": "other", "dense": 40.0, "compressed": float("inf")},
    )
    card = build_card(dataclasses.replace(report, evaluation=rows, datasets=("org/text",)))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("perplexity", 50.5, "org/text")
    assert card.data.datasets == ["org/text"] and card.data.metrics == ["perplexity"]
    again = ModelCardData(**yaml.safe_load(card.data.to_yaml()))
    assert again.to_dict() == card.data.to_dict() and again.model_name == "some-model"


def test_remote_code_is_mentioned_if_it_is_there(report):
    tabled = dataclasses.replace(report, standalone=False)
    assert "trust_remote_code=True" in build_card(tabled, present=["modeling_grail.py"]).text
    assert "trust_remote_code" not in build_card(tabled).text


def test_the_line_that_repeats_the_run(report):
    text = build_card(dataclasses.replace(report, base_model="org/base", command="")).text
    assert "optimum-cli grail compress -m org/base -o compressed --config grail_config.json" in text


def test_a_recovery_is_told(report):
    row = {"metric": "perplexity", "dataset": "/home/me/test.txt", "dense": 40.0, "before": 60.0, "after": 45.5}
    recovery = {"steps": 200, "rank": 16, "batch_size": 8, "learning_rate": 1e-3, "dataset": "self"}
    recovery |= {"kl_before": 0.52, "kl_after": 0.2, "evaluation": row}
    text = build_card(dataclasses.replace(report, recovery=recovery)).text
    assert "| perplexity on test.txt | 40 | 60 | 45.5 |" in text and "| 0 | 0.52 | 0.2 |" in text
    assert "without any training" not in text and "200 steps of LoRA (rank 16" in text
    assert "Recovery" not in build_card(report).text and "without any training" in build_card(report).text


@pytest.mark.parametrize("name", ["org/model", "gpt2"])
def test_base_models_have_hub_ids(name):
    assert check_base_model(name) == name


@pytest.mark.parametrize("name", ["/abs/model", "./model", "../m", "a/b/c", "", "~/m", "here"])
def test_paths_are_no_base_models(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ConfigError, match="no model on the Hub"):
        check_base_model(name)


def test_a_card_rendered_again_keeps_its_licence(report, tmp_path):
    write_card(report, tmp_path, inherited={"license": "other", "license_name": "llama3", "license_link": "LICENSE"})
    write_card(report, tmp_path, tags=("mine",))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.license_name, data.license_link) == ("other", "llama3", "LICENSE")
    assert "mine" in data.tags


def test_body_tells_the_run(report):
    text = build_card(report).text
    for words in (
        "| perplexity on test.txt | 40 | inf |",
        "| parameters | 1,000 | 600 | -40.0 % |",
        "asked 50.0 % of the blocks' parameters, achieved 50.0 %",
        "optimum-cli grail compress -m some-model -o out",
        '"selector": "obs"',
        "self, 128 samples of 256 tokens, 32,768 tokens, SHA-256 `" + "ab" * 32,
        "- streams in float32",
        "1 of 3 groups lost nothing",
        "something | odd",
        "torch 2.13.0",
        "tang2026grail",
    ):
        assert words in text
    assert '"ridge"' not in text
    assert "not evaluated" not in text


def test_without_evaluation_it_says_so_and_shows_no_quality(report):
    text = build_card(dataclasses.replace(report, evaluation=())).text
    assert "**not evaluated**" in text
    assert "| perplexity" not in text and "model-index" not in text


def test_plain_pruning_is_a_column_if_measured(report):
    row = {"metric": "perplexity", "dataset": "x|y", "dense": 40.0, "plain": 90.0, "compressed": 50.0}
    text = build_card(dataclasses.replace(report, evaluation=(row,))).text
    assert r"| perplexity on x\|y | 40 | 90 | 50 | +25.0 % |" in text
    header = next(line for line in text.splitlines() if "plainly pruned" in line)
    assert header.count("|") == 6


def test_without_data_it_says_so(report):
    assert "No calibration data was used." in build_card(dataclasses.replace(report, calibration=None)).text


def test_written_card_is_read_back(report, tmp_path):
    path = write_card(report, tmp_path, inherited={"license": "mit"})
    again = ModelCard.load(path)
    assert path.name == "README.md"
    assert again.data.license == inherited_from(tmp_path)["license"] == "mit"
    assert again.text.strip() == build_card(report, inherited={"license": "mit"}, present=[]).text.strip()


def test_a_template_that_names_something_else_fails_loudly(report, monkeypatch, tmp_path):
    (tmp_path / "card.md.jinja").write_text("{{ report.nonsense }}")
    monkeypatch.setattr(card_module, "files", lambda package: tmp_path)
    with pytest.raises(jinja2.UndefinedError, match="nonsense"):
        build_card(report)


@pytest.mark.parametrize("name", ["org/model", "Org-1/model.v2"])
def test_hub_ids(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id(name) == name
    (tmp_path / name).mkdir(parents=True)
    assert hub_id(name) is None


@pytest.mark.parametrize("name", ["ResNetCifar", "/abs/path", "./here", "a/b/c", "", "../up"])
def test_paths_are_no_hub_ids(name):
    assert hub_id(name) is None


@pytest.mark.parametrize("text", ["", "# no front matter", "---\nlicense: [a, b]\n---\n", "---\n- x\n---\n", None])
def test_no_licence_is_no_error(tmp_path, text):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert inherited_from(tmp_path) == {}


def test_cells():
    assert cell("a|b\nc`d") == "a\\|b c'd"


def test_citations_follow_the_methods():
    def keys(**config):
        return [entry.split("{")[1].split(",")[0] for entry in citations(config)]

    ours = ["tang2026grail", "kurtic2023ziplm", "wang2024liar"]
    assert keys(selector="obs:damping=0.1", compensator="grail-plus", allocation="balanced") == ours
    assert keys(compensator={"name": "grail-plus"}, affine=False) == ["tang2026grail"]
    assert keys(selector="wanda", compensator="grail:ridge=0.001") == ["tang2026grail", "sun2024wanda"]
    assert keys(selector="flap", compensator="bias", allocation="flap") == ["tang2026grail", "an2024flap"]
    assert keys(selector="prunenet", compensator="none") == ["tang2026grail", "sengupta2025prunenet"]
    assert keys() == ["tang2026grail"]


def test_licence_of_a_name_that_is_no_repository_asks_nobody(monkeypatch):
    monkeypatch.setattr(metadata_module, "hf_hub_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    assert inherited_from("ResNetCifar") == {}


def test_licence_out_of_reach_is_no_error(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(metadata_module, "hf_hub_download", offline)
    assert inherited_from("org/model") == {}


@pytest.mark.parametrize(("spread", "told"), [(0.004, "0.75"), (0.006, "not told apart")])
def test_the_time_of_what_was_made_from_it_is_a_ratio_or_not_told_apart(report, spread, told):
    seconds = {"compressed": 0.04, "derived": 0.03, "compressed_spread": 0.005, "derived_spread": spread}
    row = {"name": "int8", "metric": "perplexity", "dataset": "x", "value": 9.0, "bytes": 7, "seconds": seconds}
    line = next(
        line for line in build_card(dataclasses.replace(report, derived=(row,))).text.splitlines() if "int8" in line
    )
    assert line.endswith(f"| {told} |")


@pytest.mark.parametrize(
    ("spreads", "told"), [({}, "best of several"), ({"dense_spread": 0.001}, "median of passes in turns")]
)
def test_says_how_passes_were_timed(report, spreads, told):
    forward = {**FORWARD, "latency": [{**row, **spreads} for row in FORWARD["latency"]]}
    assert f"Latency is the {told}" in build_card(dataclasses.replace(report, forward=forward)).text
