"""Cards state what a report holds."""

from __future__ import annotations

import dataclasses

import jinja2
import pytest
from huggingface_hub import ModelCard

from optimum_grail.hub import card as card_module
from optimum_grail.hub.card import build_card, cell, hub_id, licence_of, write_card
from optimum_grail.hub.citations import citations


def test_front_matter(report):
    data = build_card(report, licence="apache-2.0").data.to_dict()
    assert data == {
        "library_name": "transformers",
        "license": "apache-2.0",
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
    for words in ("# mine, compressed", "| dataset | rows.txt |", "perplexity on test.txt", "compress -m mine -o out"):
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


@pytest.mark.parametrize(("model_type", "processor"), [("vit", "AutoImageProcessor"), ("clip", "AutoProcessor")])
def test_snippets_name_the_processor(report, model_type, processor):
    text = build_card(dataclasses.replace(report, model_type=model_type, model_class="CLIPModel")).text
    assert f"from transformers import {processor}, CLIPModel" in text or f"import CLIPModel, {processor}" in text


def test_body_tells_the_run(report):
    text = build_card(report).text
    for words in (
        "| perplexity on test.txt | 40 | inf |",
        "| parameters | 1,000 | 600 | -40.0 % |",
        "asked 50.0 % of the blocks' parameters, achieved 50.0 %",
        "optimum-cli grail compress -m some-model -o out",
        "| selector | obs |",
        "self, 128 samples of 256 tokens, 32,768 rows, SHA-256 `" + "ab" * 32,
        "- streams in float32",
        "1 of 3 groups lost nothing",
        "something | odd",
        "torch 2.13.0",
        "tang2026grail",
    ):
        assert words in text
    assert "| ridge |" not in text
    assert "not evaluated" not in text


def test_without_evaluation_it_says_so_and_shows_no_quality(report):
    text = build_card(dataclasses.replace(report, evaluation=())).text
    assert "**not evaluated**" in text
    assert "perplexity" not in text


def test_plain_pruning_is_a_column_if_measured(report):
    row = {"metric": "perplexity", "dataset": "x|y", "dense": 40.0, "plain": 90.0, "compressed": 50.0}
    text = build_card(dataclasses.replace(report, evaluation=(row,))).text
    assert r"| perplexity on x\|y | 40 | 90 | 50 | +25.0 % |" in text
    header = next(line for line in text.splitlines() if "plainly pruned" in line)
    assert header.count("|") == 6


def test_without_data_it_says_so(report):
    assert "No calibration data was used." in build_card(dataclasses.replace(report, calibration=None)).text


def test_written_card_is_read_back(report, tmp_path):
    path = write_card(report, tmp_path, licence="mit")
    again = ModelCard.load(path)
    assert path.name == "README.md"
    assert again.data.license == licence_of(tmp_path) == "mit"
    assert again.text.strip() == build_card(report, licence="mit").text.strip()


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
    assert licence_of(tmp_path) is None


def test_cells():
    assert cell("a|b\nc`d") == "a\\|b c'd"


def test_citations_follow_the_methods():
    def keys(**config):
        return [entry.split("{")[1].split(",")[0] for entry in citations(config)]

    assert keys(selector="obs:damping=0.1", compensator="grail-plus") == ["tang2026grail", "wang2024liar"]
    assert keys(compensator={"name": "grail-plus"}, affine=False) == ["tang2026grail"]
    assert keys(selector="wanda", compensator="grail:ridge=0.001") == ["tang2026grail"]
    assert keys(selector="prunenet", compensator="none") == ["tang2026grail", "sengupta2025prunenet"]
    assert keys() == ["tang2026grail"]


def test_licence_of_a_name_that_is_no_repository_asks_nobody(monkeypatch):
    monkeypatch.setattr(card_module, "hf_hub_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    assert licence_of("ResNetCifar") is None


def test_licence_out_of_reach_is_no_error(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(card_module, "hf_hub_download", offline)
    assert licence_of("org/model") is None
