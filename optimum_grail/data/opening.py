"""What opens a window of running text: nothing, or the token without which a family of models reads badly.

Gemma reads text that does not begin with its BOS token as if it were noise: on classic books the perplexity of
Gemma-3-270M is 59 without it and 17.5 with it. lm-evaluation-harness opens the texts of this family alone for the same
reason. Other families whose tokenizers put BOS before a text read windows cut out of its middle as well without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from optimum_grail.data.foreign import Config

FAMILY = "gemma"
"""How the model types begin whose windows are opened."""


def opening_of(config: Config | None, tokenizer: PreTrainedTokenizerBase | None) -> int | None:
    """The token that a window of running text has to begin with; ``None`` where it needs none.

    Args:
        config: the model's configuration; its own type or that of its text model counts.
        tokenizer: names the BOS token.
    """
    from transformers import PretrainedConfig

    if tokenizer is None or not isinstance(config, PretrainedConfig):
        return None
    kinds = (config.model_type, config.get_text_config().model_type)
    bos = tokenizer.bos_token_id
    return int(bos) if isinstance(bos, int) and any(str(kind).startswith(FAMILY) for kind in kinds) else None


def opened(windows: Tensor, opening: int | None) -> Tensor:
    """``windows``, int64 ``[N, tokens]``, each behind ``opening``: ``[N, tokens + 1]``; as they are for ``None``."""
    return windows if opening is None else torch.nn.functional.pad(windows, (1, 0), value=opening)
