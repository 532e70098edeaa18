"""Whether plain transformers loads a folder and computes what was computed before it was saved; without optimum-grail.

python benchmarks/_real_reload.py FOLDER CLASS EXAMPLE.pt
"""

from __future__ import annotations

import sys

import torch
import transformers

TOLERANCE = 1e-3
"""Of the largest figure of the output."""


def verdict(folder: str, name: str, example: str) -> str:
    """``yes``, or ``no`` and why."""
    given = torch.load(example, weights_only=True)
    try:
        model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
        with torch.inference_mode():
            output = model(**given["inputs"])[0]
    except Exception as error:  # whatever transformers makes of shapes that its config does not say
        return f"no: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if output.shape != given["expected"].shape:
        return "no: it loads, and puts out another shape"
    far = float((output - given["expected"]).abs().max() / given["expected"].abs().max())
    return "yes" if far < TOLERANCE else f"no: it loads, and computes something else (by {far:.1g} of the largest)"


if __name__ == "__main__":
    print(verdict(*sys.argv[1:4]))
