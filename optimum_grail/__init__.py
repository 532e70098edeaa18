"""Structured compression of Hugging Face models without training.

Importing the package is cheap: it loads neither torch nor transformers. Public names are imported when first used
(PEP 562), and a small import hook teaches transformers to load checkpoints whose layers have widths of their own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optimum_grail.models.hook import install

if TYPE_CHECKING:
    from optimum_grail.allocations import ALLOCATIONS
    from optimum_grail.architectures import register_architecture
    from optimum_grail.auto import (
        GrailModel,
        GrailModelForCausalLM,
        GrailModelForFeatureExtraction,
        GrailModelForImageClassification,
        GrailModelForMaskedLM,
        GrailModelForQuestionAnswering,
        GrailModelForSequenceClassification,
        GrailModelForTokenClassification,
        GrailModelForZeroShotImageClassification,
    )
    from optimum_grail.checkpoints.plain_modules import load_compressed_
    from optimum_grail.compensators import COMPENSATORS
    from optimum_grail.compressor import GrailCompressor
    from optimum_grail.config.config import GrailConfig
    from optimum_grail.core.groups import ChannelGroup, Port, StreamFunction
    from optimum_grail.core.plan import Plan
    from optimum_grail.core.spec import ArchitectureSpec, Conv, Heads, Mlp, Strip
    from optimum_grail.errors import GrailError
    from optimum_grail.export.run import export_model
    from optimum_grail.models.check import check_map
    from optimum_grail.pipeline.heads import prune_heads_
    from optimum_grail.proposals.propose import propose
    from optimum_grail.refits import REFITS
    from optimum_grail.report.report import Report
    from optimum_grail.selectors import SELECTORS
    from optimum_grail.signals import SIGNALS
    from optimum_grail.vocabulary.plan import Wishes
    from optimum_grail.vocabulary.trim import Trimmed, trim_vocabulary

__version__ = "0.1.0"

__all__ = [
    "GrailConfig",
    "GrailCompressor",
    "GrailModel",
    "GrailModelForCausalLM",
    "GrailModelForFeatureExtraction",
    "GrailModelForImageClassification",
    "GrailModelForMaskedLM",
    "GrailModelForQuestionAnswering",
    "GrailModelForSequenceClassification",
    "GrailModelForTokenClassification",
    "GrailModelForZeroShotImageClassification",
    "load_compressed_",
    "prune_heads_",
    "register_architecture",
    "ArchitectureSpec",
    "Mlp",
    "Heads",
    "Conv",
    "Strip",
    "check_map",
    "propose",
    "Port",
    "ChannelGroup",
    "StreamFunction",
    "Plan",
    "Report",
    "export_model",
    "trim_vocabulary",
    "Wishes",
    "Trimmed",
    "SELECTORS",
    "COMPENSATORS",
    "REFITS",
    "ALLOCATIONS",
    "SIGNALS",
    "GrailError",
    "__version__",
]

_HOME = {
    "GrailConfig": "config.config",
    "GrailCompressor": "compressor",
    "GrailModel": "auto",
    "GrailModelForCausalLM": "auto",
    "GrailModelForFeatureExtraction": "auto",
    "GrailModelForImageClassification": "auto",
    "GrailModelForMaskedLM": "auto",
    "GrailModelForQuestionAnswering": "auto",
    "GrailModelForSequenceClassification": "auto",
    "GrailModelForTokenClassification": "auto",
    "GrailModelForZeroShotImageClassification": "auto",
    "load_compressed_": "checkpoints.plain_modules",
    "prune_heads_": "pipeline.heads",
    "register_architecture": "architectures",
    "ArchitectureSpec": "core.spec",
    "Mlp": "core.spec",
    "Heads": "core.spec",
    "Conv": "core.spec",
    "Strip": "core.spec",
    "check_map": "models.check",
    "propose": "proposals.propose",
    "Port": "core.groups",
    "ChannelGroup": "core.groups",
    "StreamFunction": "core.groups",
    "Plan": "core.plan",
    "Report": "report.report",
    "export_model": "export.run",
    "trim_vocabulary": "vocabulary.trim",
    "Wishes": "vocabulary.plan",
    "Trimmed": "vocabulary.trim",
    "SELECTORS": "selectors",
    "COMPENSATORS": "compensators",
    "REFITS": "refits",
    "ALLOCATIONS": "allocations",
    "SIGNALS": "signals",
    "GrailError": "errors",
}
"""Public name to the module, below this package, that defines it."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


install()
