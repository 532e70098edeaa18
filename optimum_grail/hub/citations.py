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


FLAP = """@inproceedings{an2024flap,
  title     = {Fluctuation-Based Adaptive Structured Pruning for Large Language Models},
  author    = {An, Yongqi and Zhao, Xu and Yu, Tao and Tang, Ming and Wang, Jinqiao},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2024},
  note      = {arXiv:2312.11983}
}"""

WANDA = """@inproceedings{sun2024wanda,
  title     = {A Simple and Effective Pruning Approach for Large Language Models},
  author    = {Sun, Mingjie and Liu, Zhuang and Bair, Anna and Kolter, J. Zico},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  note      = {arXiv:2306.11695}
}"""

WANDA_PP = """@inproceedings{yang2025wandapp,
  title     = {Wanda++: Pruning Large Language Models via Regional Gradients},
  author    = {Yang, Yifan and others},
  booktitle = {Findings of the Association for Computational Linguistics},
  year      = {2025},
  note      = {arXiv:2503.04992}
}"""

SLIMGPT = """@inproceedings{ling2024slimgpt,
  title     = {{SlimGPT}: Layer-wise Structured Pruning for Large Language Models},
  author    = {Ling, Gui and Wang, Ziyang and Yan, Yuliang and Liu, Qingwen},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  note      = {arXiv:2412.18110}
}"""

ZIPLM = """@inproceedings{kurtic2023ziplm,
  title     = {{ZipLM}: Inference-Aware Structured Pruning of Language Models},
  author    = {Kurtic, Eldar and Frantar, Elias and Alistarh, Dan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  note      = {arXiv:2302.04089}
}"""

OSSCAR = """@inproceedings{meng2024osscar,
  title     = {{OSSCAR}: One-Shot Structured Pruning in Vision and Language Models with Combinatorial Optimization},
  author    = {Meng, Xiang and Ibrahim, Shibal and Behdin, Kayhan and Hazimeh, Hussein and Ponomareva, Natalia and
               Mazumder, Rahul},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  note      = {arXiv:2403.12983}
}"""

KWON = """@inproceedings{kwon2022fast,
  title     = {A Fast Post-Training Pruning Framework for Transformers},
  author    = {Kwon, Woosuk and Kim, Sehoon and Mahoney, Michael W. and Hassoun, Joseph and Keutzer, Kurt and
               Gholami, Amir},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  note      = {arXiv:2204.09656}
}"""

TAYLOR = """@inproceedings{molchanov2017pruning,
  title     = {Pruning Convolutional Neural Networks for Resource Efficient Inference},
  author    = {Molchanov, Pavlo and Tyree, Stephen and Karras, Tero and Aila, Timo and Kautz, Jan},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  note      = {arXiv:1611.06440}
}"""

SNIP = """@inproceedings{lee2019snip,
  title     = {{SNIP}: Single-Shot Network Pruning Based on Connection Sensitivity},
  author    = {Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.},
  booktitle = {International Conference on Learning Representations},
  year      = {2019},
  note      = {arXiv:1810.02340}
}"""

MAGNITUDE = """@inproceedings{li2017pruning,
  title     = {Pruning Filters for Efficient {ConvNets}},
  author    = {Li, Hao and Kadav, Asim and Durdanovic, Igor and Samet, Hanan and Graf, Hans Peter},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  note      = {arXiv:1608.08710}
}"""

FOLDING = """@inproceedings{wang2025folding,
  title     = {Forget the Data and Fine-Tuning! Just Fold the Network to Compress},
  author    = {Wang, Dong and {\\v{S}}iki{\\'c}, Haris and Thiele, Lothar and Saukh, Olga},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2502.10216}
}"""

MODEGPT = """@inproceedings{lin2025modegpt,
  title     = {{MoDeGPT}: Modular Decomposition for Large Language Model Compression},
  author    = {Lin, Chi-Heng and others},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2408.09632}
}"""

OWL = """@inproceedings{yin2024owl,
  title     = {Outlier Weighed Layerwise Sparsity ({OWL}): A Missing Secret Sauce for Pruning {LLMs} to High Sparsity},
  author    = {Yin, Lu and others},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  note      = {arXiv:2310.05175}
}"""

COMP = """@article{xu2025comp,
  title   = {Lightweight and Post-Training Structured Pruning for On-Device Large Lanaguage Models},
  author  = {Xu, Zihuai and Xu, Yang and Xu, Hongli and Liao, Yunming and Yao, Zhiwei and Xie, Zuan},
  journal = {arXiv preprint arXiv:2501.15255},
  year    = {2025}
}"""

PAPERS: Mapping[str, Mapping[str, str]] = {
    "selector": {
        "comp": COMP,
        "fisher": KWON,
        "flap": FLAP,
        "folding": FOLDING,
        "leverage": MODEGPT,
        "magnitude": MAGNITUDE,
        "obs": ZIPLM,
        "osscar": OSSCAR,
        "prunenet": PRUNENET,
        "slimgpt": SLIMGPT,
        "snip": SNIP,
        "taylor": TAYLOR,
        "wanda": WANDA,
        "wandapp": WANDA_PP,
        "ziplm": ZIPLM,
    },
    "compensator": {"bias": FLAP, "grail-plus": LIAR, "liar": LIAR, "mask-scale": KWON},
    "allocation": {
        "block-influence": MODEGPT,
        "fisher": KWON,
        "flap": FLAP,
        "incremental": SLIMGPT,
        "knapsack": ZIPLM,
        "owl": OWL,
    },
}
"""The paper behind each method."""


def citations(config: Mapping[str, Any]) -> tuple[str, ...]:
    """BibTeX of the papers that a resolved configuration builds on, each once: GRAIL always, then those of its methods.

    ``grail-plus`` cites LIAR for its bias, so not where none may be fitted.
    """
    names = {part: str(_name(config.get(part))) for part in PAPERS}
    if names["compensator"] == "grail-plus" and config.get("affine") is False:
        del names["compensator"]
    found = [PAPERS[part][name] for part, name in names.items() if name in PAPERS[part]]
    return tuple(dict.fromkeys([GRAIL, *found]))


def _name(method: Any) -> Any:
    return method.get("name") if isinstance(method, Mapping) else str(method or "").partition(":")[0]
