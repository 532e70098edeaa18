"""What ``benchmarks/engines.py`` runs in the environment of vLLM, which has nothing of this package: one model.

The argument is JSON: model, threads, prompts, steps, long, turns. The last line of stdout is the answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Load, write after every prompt, take the time."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", OMP_NUM_THREADS=str(asked["threads"]), VLLM_LOGGING_LEVEL="ERROR")
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    from vllm import LLM, SamplingParams

    start = time.perf_counter()
    model = LLM(
        asked["model"], dtype="float32", max_model_len=256, enforce_eager=True, trust_remote_code=True, max_num_seqs=8
    )
    load = time.perf_counter() - start
    prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]

    def write(inputs: list[Any], count: int) -> Any:
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, logprobs=1)
        return [answer.outputs[0] for answer in model.generate(inputs, params, use_tqdm=False)]

    written = [
        [(token, step[token].logprob) for token, step in zip(answer.token_ids, answer.logprobs, strict=True)]
        for answer in write(prompts, asked["steps"])
    ]
    seconds = []
    for _ in range(asked["turns"]):
        start = time.perf_counter()
        write(prompts[:1], asked["long"])
        seconds.append(time.perf_counter() - start)
    speed = asked["long"] / sorted(seconds)[len(seconds) // 2]
    sys.stdout.write("\n" + json.dumps({"load": load, "written": written, "speed": speed}) + "\n")


if __name__ == "__main__":
    main()
