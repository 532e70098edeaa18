"""BibTeX of publications that several methods come from; a paper behind one method stands in that method's file."""

from __future__ import annotations

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

FLAP = """@inproceedings{an2024flap,
  title     = {Fluctuation-Based Adaptive Structured Pruning for Large Language Models},
  author    = {An, Yongqi and Zhao, Xu and Yu, Tao and Tang, Ming and Wang, Jinqiao},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2024},
  note      = {arXiv:2312.11983}
}"""

ZIPLM = """@inproceedings{kurtic2023ziplm,
  title     = {{ZipLM}: Inference-Aware Structured Pruning of Language Models},
  author    = {Kurtic, Eldar and Frantar, Elias and Alistarh, Dan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  note      = {arXiv:2302.04089}
}"""

SLIMGPT = """@inproceedings{ling2024slimgpt,
  title     = {{SlimGPT}: Layer-wise Structured Pruning for Large Language Models},
  author    = {Ling, Gui and Wang, Ziyang and Yan, Yuliang and Liu, Qingwen},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  note      = {arXiv:2412.18110}
}"""

KWON = """@inproceedings{kwon2022fast,
  title     = {A Fast Post-Training Pruning Framework for Transformers},
  author    = {Kwon, Woosuk and Kim, Sehoon and Mahoney, Michael W. and Hassoun, Joseph and Keutzer, Kurt and
               Gholami, Amir},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  note      = {arXiv:2204.09656}
}"""

MODEGPT = """@inproceedings{lin2025modegpt,
  title     = {{MoDeGPT}: Modular Decomposition for Large Language Model Compression},
  author    = {Lin, Chi-Heng and others},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2408.09632}
}"""
