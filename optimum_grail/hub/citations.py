"""The papers behind the methods, as BibTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GRAIL = """@inproceedings{tang2026grail,
  title     = {{GRAIL}: Post-hoc Compensation by Linear Reconstruction for Compressed Networks},
  author    = {Tang, Wenwu and Wang, Dong and Thiele, Lothar and Saukh, Olga},
  booktitle = {Conference on Parsimony and Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {328},
  pages     = {881--895},
  year      = {2026},
  note      = {arXiv:2602.23795}
}"""

LIAR = """@article{wang2024liar,
  title   = {Reconstruct the Pruned Model without Any Retraining},
  author  = {Wang, Pingjie and Fan, Ziqing and Hu, Shengchao and Chen, Zhe and Wang, Yanfeng and Wang, Yu},
  journal = {arXiv preprint arXiv:2407.13331},
  year    = {2024}
}"""

PRUNENET = """@inproceedings{sengupta2025prunenet,
  title     = {You Only Prune Once: Designing Calibration-Free Model Compression With Policy Learning},
  author    = {Sengupta, Ayan and Chaudhary, Siddhant and Chakraborty, Tanmoy},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2501.15296}
}"""


def citations(config: Mapping[str, Any]) -> tuple[str, ...]:
    """BibTeX of the papers that a resolved configuration builds on.

    GRAIL always; LIAR where a bias may be fitted (its affine reconstruction); PruneNet where its selector chose.
    """
    names = [str(_name(config.get(part))) for part in ("selector", "compensator")]
    papers = [GRAIL]
    if names[1] in ("grail-plus", "liar") and config.get("affine") is not False:
        papers.append(LIAR)
    if names[0] == "prunenet":
        papers.append(PRUNENET)
    return tuple(papers)


def _name(method: Any) -> Any:
    return method.get("name") if isinstance(method, Mapping) else str(method or "").partition(":")[0]
