"""Compress a small CLIP in both towers: half of the blocks' parameters go.

    python examples/clip.py [--data FOLDER] [--num-samples N] [--eval-samples N] [--json]

FOLDER holds ``clip-emoji`` and ``emoji-captions/{train,test}.parquet``.
"""

from __future__ import annotations

from _family import arguments, compare, present

options = arguments(__doc__ or "", num_samples=256, eval_samples=500)
pairs = present(options.data / "emoji-captions")
config = {"sparsity": 0.5}
model = present(options.data / "clip-emoji")
compare(options, model, config, str(pairs / "train.parquet"), "retrieval", str(pairs / "test.parquet"))
