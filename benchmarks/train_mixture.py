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
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _common import data_folder, environment
from torch import Tensor
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

from optimum_grail.data.rows import read_rows

BOOKS = data_folder() / "classic-books"
WINDOW = 256
SEED = 0
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
LOGGER = logging.getLogger("train_mixture")


def windows(tokenizer: object, split: str) -> Tensor:
    """All windows of the books whose file begins with ``split``; int64, ``[n, WINDOW]``."""
    ids: list[int] = []
    for file in sorted(BOOKS.glob(f"{split}*.parquet")):
        for text in read_rows(str(file)).data["text"]:
            ids.extend(tokenizer(text, verbose=False)["input_ids"])  # type: ignore[operator]
    count = len(ids) // WINDOW
    return torch.tensor(ids[: count * WINDOW], dtype=torch.int32).view(count, WINDOW)


@torch.no_grad()
def perplexity(model: MixtralForCausalLM, rows: Tensor) -> float:
    """Per token, of windows by themselves."""
    model.eval()
    losses = [
        float(
            torch.nn.functional.cross_entropy(
                model(row[None].long(), output_router_logits=False).logits[0, :-1].float(), row[1:].long()
            )
        )
        for row in rows
    ]
    model.train()
    return math.exp(sum(losses) / len(losses))


def optimizer_for(model: MixtralForCausalLM, peak: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), foreach=True)


def train_(model: MixtralForCausalLM, rows: Tensor, options: argparse.Namespace) -> int:
    """Train until the time is used up; returns how many tokens were seen."""
    optimizer, start, step = optimizer_for(model, options.peak), time.monotonic(), 0
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    while (used := (time.monotonic() - start) / (60 * options.minutes)) < 1 and (step + 1) * options.batch <= len(
        order
    ):
        rate = options.peak * min((step + 1) / 100, max(1 - used, 0.02))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = rows[order[step * options.batch : (step + 1) * options.batch]].long()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 20 == 0:
            LOGGER.info("step %d  %.0f s  loss %.3f  rate %.1e", step, time.monotonic() - start, float(loss), rate)
    return int(step * options.batch * WINDOW)


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
    rows = windows(tokenizer, "train-00000" if options.minutes < 1 else "train-0000[0-3]")
    LOGGER.info("%d windows", len(rows))
    torch.manual_seed(SEED)
    model = MixtralForCausalLM(MixtralConfig(**CONFIG)).train()
    tokens = train_(model, rows, options)
    model.config.output_router_logits = False
    model = model.to(torch.bfloat16)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    model = model.float()
    facts = {
        "parameters": model.num_parameters(),
        "tokens": tokens,
        "minutes": options.minutes,
        "perplexity": {split: perplexity(model, windows(tokenizer, split)[:400]) for split in ("valid", "test")},
        **environment(),
    }
    (options.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    LOGGER.info("%s", facts)


if __name__ == "__main__":
    main()
