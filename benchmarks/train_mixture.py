"""Train the small mixture of experts of ``examples/mixtral-books-5m`` from random weights, on one thread.

    python benchmarks/train_mixture.py OUT --minutes 33

The learning rate falls with the time that is used up, so that the run ends when it should on any machine; the number of
tokens it saw is written into the card's facts, ``OUT/training.json``. Not bit-reproducible for that reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _common import environment
from _training import BOOKS, LOGGER, SEED, WINDOW, batches, train_, windows
from torch import Tensor
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

CONFIG = {
    "vocab_size": 4096,
    "hidden_size": 160,
    "intermediate_size": 192,
    "num_hidden_layers": 5,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "head_dim": 16,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 1024,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@torch.no_grad()
def perplexity(model: MixtralForCausalLM, rows: Tensor) -> float:
    """Per token, of windows by themselves."""
    model.eval()
    losses = [
        float(
            torch.nn.functional.cross_entropy(
                model(row[None], output_router_logits=False).logits[0, :-1].float(), row[1:]
            )
        )
        for row in rows
    ]
    model.train()
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=33.0)
    parser.add_argument("--batch", type=int, default=16, help="windows of 256 tokens per step")
    parser.add_argument("--peak", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(BOOKS / "tokenizer-bpe4096")
    parts = "train-00000*" if options.minutes < 1 else "train-0000[0-3]*"
    rows = windows(tokenizer, sorted(BOOKS.glob(parts)))
    LOGGER.info("%d windows", len(rows))
    torch.manual_seed(SEED)
    model = MixtralForCausalLM(MixtralConfig(**CONFIG)).train()
    seen = batches(len(rows), options.batch)
    inputs = ({"input_ids": rows[chosen], "labels": rows[chosen]} for chosen in seen)
    tokens = options.batch * WINDOW * train_(model, inputs, options.minutes, options.peak, options.autocast)
    model.config.output_router_logits = False
    model = model.to(torch.bfloat16)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    model = model.float()
    facts = {
        "parameters": model.num_parameters(),
        "tokens": tokens,
        "minutes": options.minutes,
        "perplexity": {
            split: perplexity(model, windows(tokenizer, [BOOKS / f"{split}.parquet"])[:400])
            for split in ("valid", "test")
        },
        **environment(),
    }
    (options.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    LOGGER.info("%s", facts)


if __name__ == "__main__":
    main()
