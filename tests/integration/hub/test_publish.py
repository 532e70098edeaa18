"""``optimum-cli grail push`` against a Hub on the loopback interface: one commit or none, and a message that helps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimum_grail.hub.card import write_card
from optimum_grail.report.report import Calibration, Report

CLI = """
import sys
from optimum.commands.base import RootOptimumCLICommand
from optimum_grail.commands.grail import GrailCommand

root = RootOptimumCLICommand("optimum-cli")
GrailCommand(root.subparsers)
args = root.parser.parse_args(["grail", *sys.argv[1:]])
args.func(args).run()
assert "transformers" not in sys.modules
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as far as publishing is concerned, with traces of its author's disk, and things to keep at home."""
    place = tmp_path / "small"
    place.mkdir()
    settings = {"sparsity": 0.5, "dataset": "/home/someone/secret/rows.txt"}
    report = Report(
        model="/home/someone/models/base",
        model_type="llama",
        model_class="LlamaForCausalLM",
        parameters_before=1000,
        parameters_after=600,
        block_parameters_before=800,
        block_parameters_after=400,
        bytes_before=2000,
        bytes_after=1200,
        calibration=Calibration("/home/someone/secret/rows.txt"),
        config=settings,
        command="optimum-cli grail compress -m /home/someone/models/base -o small",
    )
    report.save(place)
    config = {"model_type": "llama", "eos_token_id": 2, "path": "/", "grail_config": {**settings, "widths": {"a": 1}}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "grail_config.json").write_text(json.dumps(settings))
    (place / "tokenizer.json").write_text("{}")
    (place / "grail_errors.png").write_bytes(b"picture" * 1000)
    (place / "model.safetensors").write_bytes(b"weights" * 20000)
    (place / ".env").write_text("SECRET=1")
    (place / ".cache").mkdir()
    (place / ".cache" / "notes").write_text("private")
    write_card(report, place, inherited={"license": "mit"})
    return place


PUBLISHED = {
    "README.md",
    "config.json",
    "grail_config.json",
    "grail_errors.png",
    "grail_report.json",
    "model.safetensors",
    "tokenizer.json",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_in_one_commit(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    before = contents(folder)
    done = elsewhere(CLI, "push", folder, "me/small", "--tag", "mine", "--json")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["me/small"]
    (commit,) = repository.commits
    assert commit["summary"] == "base, compressed with optimum-grail"
    assert sorted(commit["keys"]) == ["file"] * 5 + ["lfsFile"] * 2
    tree = repository.branches["main"]
    assert set(tree) == PUBLISHED
    assert json.loads(done.stdout)["url"].startswith(f"{hub.url}/me/small/commit/")
    assert "POST /api/validate-yaml" in hub.requests
    for name in ("model.safetensors", "tokenizer.json", "grail_errors.png"):
        assert tree[name] == before[name]
    assert not repository.private
    assert contents(folder) == before


def test_what_is_published_tells_nothing_of_the_authors_disk(
    hub: Any, elsewhere: Callable[..., Any], folder: Path
) -> None:
    assert elsewhere(CLI, "push", folder, "me/small").returncode == 0
    tree = hub.repositories["me/small"].branches["main"]
    for content in tree.values():
        assert b"/home" not in content and b"secret" not in content
    config = json.loads(tree["config.json"])
    assert config == {
        "model_type": "llama",
        "eos_token_id": 2,
        "path": "/",
        "grail_config": {"sparsity": 0.5, "dataset": "rows.txt", "widths": {"a": 1}},
    }
    assert Report.from_json(tree["grail_report.json"].decode()).model == "base"


def test_the_card_names_its_repository(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    assert elsewhere(CLI, "push", folder, "me/small", "--tag", "mine").returncode == 0
    text = hub.repositories["me/small"].branches["main"]["README.md"].decode()
    assert 'path = "me/small"\n' in text and "this folder" not in text
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "mit" and front["tags"][-1] == "mine" and "base_model" not in front


def test_a_new_version_leaves_nothing_stale(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    for name in shards:
        (folder / name).write_bytes(b"shard " + name.encode())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert elsewhere(CLI, "push", folder, "me/small").returncode == 0
    repository = hub.repositories["me/small"]
    repository.branches["main"]["notes.txt"] = b"of the owner"
    for name in shards:
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(weights)
    assert elsewhere(CLI, "push", folder, "me/small").returncode == 0
    assert set(repository.branches["main"]) == PUBLISHED | {"notes.txt"}
    assert len(repository.commits) == 2


def test_private_branches_and_pull_requests(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    options = ("--private", "--revision", "try", "--commit-message", "First")
    assert elsewhere(CLI, "push", folder, "me/small", *options).returncode == 0
    repository = hub.repositories["me/small"]
    assert repository.private and set(repository.branches) == {"main", "try"}
    assert not repository.branches["main"] and repository.commits[0]["summary"] == "First"
    done = elsewhere(CLI, "push", folder, "me/small", "--create-pr")
    assert done.returncode == 0 and "/discussions/1" in done.stdout
    assert repository.commits[1]["branch"].startswith("refs/pr/") and not repository.branches["main"]


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (("me/small",), None, "Publishing needs a Hub token"),
        (("me/small/extra",), "any", "'me/small/extra' is no name of a Hub repository"),
    ],
    ids=["no token", "name"],
)
def test_told_before_anything_is_sent(
    words: tuple[str, ...], token: str | None, message: str, hub: Any, elsewhere: Callable[..., Any], folder: Path
) -> None:
    done = elsewhere(CLI, "push", folder, *words, token=token)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert hub.requests == []


def test_a_folder_that_is_no_checkpoint_is_refused(hub: Any, elsewhere: Callable[..., Any], tmp_path: Path) -> None:
    done = elsewhere(CLI, "push", tmp_path, "me/small")
    assert done.returncode == 2 and "holds no grail_report.json" in done.stderr and hub.requests == []


FAULTS = [
    ("POST /api/repos/create", 401, "does not accept the token (401). Log in again"),
    ("POST /api/repos/create", 403, "may not write to 'me/small' (403). Use one with the right"),
    ("POST /api/repos/create", 500, "The Hub failed (500)"),
    ("preupload", 403, "may not write to 'me/small' (403)"),
    ("preupload", 503, "The Hub failed (503) on 'me/small', which is seldom lasting. Try again later."),
    ("objects/batch", 500, "The Hub failed (500)"),
    ("PUT /storage", 502, "The Hub failed (502)"),
    ("PUT /storage", "cut", "The upload to 'me/small' broke off"),
    ("POST .*/commit/", 409, "was changed by someone else meanwhile, or its name is taken (409). Try again."),
    ("POST .*/commit/", 413, "refused the upload to 'me/small' (413)"),
    ("POST .*/commit/", "cut", "broke off"),
]


@pytest.mark.parametrize(("pattern", "action", "message"), FAULTS, ids=[f"{p[-12:]} {a}" for p, a, _ in FAULTS])
def test_a_refused_or_broken_upload(
    pattern: str, action: int | str, message: str, hub: Any, elsewhere: Callable[..., Any], folder: Path
) -> None:
    before = contents(folder)
    hub.fail(pattern, action)
    done = elsewhere(CLI, "push", folder, "me/small")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = re.findall("Error: .*", done.stderr)  # bars of other uploads may be drawn after it
    assert message in line
    assert ("Nothing was committed." in line) != ("not known: look before you repeat" in line)
    assert ("not known" in line) == (
        pattern == "POST .*/commit/" and action == "cut"
    ) and f"`optimum-cli grail push {folder} me/small`" in line
    assert not any(repository.commits for repository in hub.repositories.values())
    assert contents(folder) == before


def test_a_token_that_may_only_read(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    done = elsewhere(CLI, "push", folder, "me/small", token="hf_that_may_only_read")
    assert done.returncode == 2 and "may not write to 'me/small' (403)" in done.stderr


def test_a_connection_cut_once_is_tried_again(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    hub.fail("PUT /storage", "cut", times=2)
    assert elsewhere(CLI, "push", folder, "me/small").returncode == 0
    assert set(hub.repositories["me/small"].branches["main"]) == PUBLISHED


def test_the_same_line_goes_on_after_a_failure(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    hub.fail("POST .*/commit/", 503)
    assert elsewhere(CLI, "push", folder, "me/small").returncode == 2
    uploaded = len([request for request in hub.requests if request.startswith("PUT")])
    hub.faults.clear()
    assert elsewhere(CLI, "push", folder, "me/small").returncode == 0
    assert len([request for request in hub.requests if request.startswith("PUT")]) == uploaded, "sent again"
    assert len(hub.repositories["me/small"].commits) == 1


def test_a_card_the_hub_would_refuse_is_told_before_the_upload(
    hub: Any, elsewhere: Callable[..., Any], folder: Path
) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.replace("license: mit", "license: [mit, gpl]"), encoding="utf-8")
    done = elsewhere(CLI, "push", folder, "me/small")
    assert done.returncode == 2 and '"license" must be a string' in done.stderr
    assert not any("PUT" in request for request in hub.requests)
