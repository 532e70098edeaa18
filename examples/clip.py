"""Compress a small CLIP in both towers: half of the blocks' parameters go.

    python examples/clip.py [--data FOLDER] [--json]

FOLDER holds ``clip-emoji`` and ``emoji-captions/{train,test}.parquet``.
"""

from __future__ import annotations

from _family import arguments, compare, present

options = arguments(__doc__ or "")
pairs = present(options.data / "emoji-captions")
config = {"sparsity": 0.5, "num_samples": 256}
model = present(options.data / "clip-emoji")
compare(options, model, config, str(pairs / "train.parquet"), "retrieval", str(pairs / "test.parquet"), num_samples=500)
