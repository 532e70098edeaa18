"""Map files: what is written is what was proposed, and what is read is checked."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, Strip, never
from optimum_grail.errors import ArchitectureError, ConfigError, UnknownNameError
from optimum_grail.proposals.proposal import LeftOut, Proposal
from optimum_grail.proposals.propose import propose
from optimum_grail.proposals.reading import read_maps, serving_maps
from optimum_grail.proposals.writing import module_text

from .conftest import Gated, Net

SPEC = ArchitectureSpec(
    model_types=("strange",),
    blocks=("a.*.layers.*", "b.layers.*"),
    groups=(
        Heads(
            *(Strip("attention.with.a.long.path.query_key_value", part, 3, interleaved=True) for part in range(3)),
            "o",
            None,
            "head_dim",
            (("heads", "query"), ("keys", "key_value")),
            shared=(),
            accepts=never,
            within="b.layers.*",
        ),
        Mlp(
            ("up", Strip("both", 1, 2)), "down", "@block", factor="scale", attributes=("width",), channelwise=("norm",)
        ),
    ),
    main_input="image",
    chain="container",
)
LEFT = LeftOut("b.layers.*.\\odd", 'it says """this"""; ' + "and much more " * 20)


def test_written_and_read_again(tmp_path):
    file = tmp_path / "map.py"
    file.write_text(module_text(Proposal((SPEC, SPEC), (LEFT,), "Strange")), encoding="utf-8")
    assert read_maps(file) == (SPEC, SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["map.py"], "nothing else is left beside it"
    shown = runpy.run_path(str(file))["__doc__"]
    assert "Left out: b.layers.*" in shown and "'''this'''" in shown


@pytest.mark.parametrize("specs", [(SPEC,), (SPEC, SPEC), ()])
def test_is_formatted(specs, tmp_path):
    file = tmp_path / "map.py"
    file.write_text(module_text(Proposal(specs, (LEFT,), "Strange")), encoding="utf-8")
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    project = Path(__file__).parents[3] / "pyproject.toml"
    for words in (("format", "--check"), ("check",)):
        done = subprocess.run([ruff, *words, "--config", project, "--no-cache", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_proposal_for_a_plain_module_is_a_file_too():
    text = module_text(propose(Net(Gated(8, True, 0.5), Gated(8, True, 0.5)), {"x": torch.randn(2, 5, 8)}))
    assert "model_types=()" in text and 'factor="scale"' in text
    assert 'Strip(module="both", part=1, of=2, interleaved=True)' in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPECS = 3", "defines no SPECS"),
        ("SPECS = ()", "defines no SPECS"),
        ("", "defines no SPECS"),
        ("raise SystemExit(3)", "does not run: SystemExit"),
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("def", "does not run: SyntaxError"),
        ("from optimum_grail import ArchitectureSpec as A\nSPECS = A((), ('b.*',), ())", "serves no model type"),
    ],
)
def test_wrong_files(text, message, tmp_path):
    (tmp_path / "map.py").write_text(text)
    with pytest.raises(ArchitectureError, match=message):
        read_maps(tmp_path / "map.py")


@pytest.mark.parametrize("name", ["absent.py", ".", "map.txt"])
def test_no_python_file(name, tmp_path):
    (tmp_path / "map.txt").write_text("SPECS = ()")
    with pytest.raises(ConfigError, match="is no Python file"):
        read_maps(tmp_path / name)


def test_maps_serve_for_a_while(tmp_path):
    file = tmp_path / "map.py"
    file.write_text(module_text(Proposal((SPEC,), (), "Strange")))
    with serving_maps(file):
        assert ARCHITECTURES.get("strange") == SPEC
    with pytest.raises(UnknownNameError, match=r"inspect -m MODEL --propose -o map\.py"):
        ARCHITECTURES.get("strange")
    with serving_maps(None):
        assert "strange" not in ARCHITECTURES.names()
