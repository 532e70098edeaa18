"""``optimum-cli grail push``: what is shown; the uploads are tested with a Hub."""

from __future__ import annotations

import json


def test_a_dry_run_lists_and_sends_nothing(report, tmp_path, cli, capsys, monkeypatch):
    monkeypatch.setattr("optimum_grail.hub.publish.HfApi", None)
    report.save(tmp_path)
    for name in ("config.json", "model.safetensors", "small.gguf", "id_rsa", ".env"):
        (tmp_path / name).write_text("x")
    assert cli("grail", "push", str(tmp_path), "me/small", "--dry-run", "--include", "*.gguf") == 0
    shown = capsys.readouterr().out
    assert "              1  model.safetensors\n" in shown and "small.gguf" in shown and "nothing was sent" in shown
    assert shown.endswith("Not published, as no run wrote it: id_rsa (--include PATTERN takes more)\n")
    assert cli("grail", "push", str(tmp_path), "me/small", "--dry-run", "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert set(files) == {"config.json", "model.safetensors", "grail_report.json"} and files["config.json"] == 1
