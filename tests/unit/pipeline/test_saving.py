"""What Python passes on by any name is checked before the work, not after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"save_dir": "out"}, "It takes save_directory"),
        ({"output": "out"}, "has no argument 'output'"),
        ({"max_shardsize": "1GB", "save_directory": "out"}, "Did you mean 'max_shard_size'"),
        ({"max_shard_size": "1GB"}, "Name a save_directory"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(
    options: dict[str, Any], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compressor = GrailCompressor(tiny_llama(), {"sparsity": 0.5})
    with pytest.raises(ConfigError, match=word):
        compressor.compress([{"input_ids": [1, 2, 3]}], **options)
    assert list(tmp_path.iterdir()) == []
