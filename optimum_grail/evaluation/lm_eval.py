"""Tasks of lm-evaluation-harness on a saved model, where lm-eval is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from optimum_grail.checkpoints.loading import Loading
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import ConfigError, DataError
from optimum_grail.models.precision import float32_on_cpu


def evaluate_tasks(
    model_path: str | Path,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    loading: Loading = Loading(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Run lm-eval's tasks on a causal language model of a folder or of the Hub, dense or compressed.

    Args:
        model_path: the checkpoint.
        tasks: names that lm-eval knows, or paths of task files (``.yaml``) of one's own.
        num_fewshot: examples in the prompt; the task's own by default.
        limit: first documents of each task only.
        batch_size: documents per forward pass; 1 by default.
        loading: how the model is loaded; its dtype is the checkpoint's by default, on CPU never less than float32.

    Returns:
        ``model``, ``lm_eval`` (its version), and ``tasks``: per task its metrics, standard errors and ``documents``.

    Raises:
        ConfigError: lm-eval is not installed, or knows no such task.
        CheckpointError: the model is missing, out of reach or corrupt.
        DataError: the model has no tokenizer, or a task's data is out of reach.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError("Tasks need lm-eval, which is not installed: pip install 'optimum-grail[lm-eval]'.")
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    manager, names = _resolved(tasks)
    tokenizer, _ = load_processors(model_path, loading.trust_remote_code)
    if tokenizer is None:
        raise DataError(f"{str(model_path)!r} has no tokenizer, which tasks need. Put its files into the folder.")
    model = loading.load(model_path)
    with float32_on_cpu(model):
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size or 1)
        try:
            found = lm_eval.simple_evaluate(
                wrapped,
                tasks=names,
                num_fewshot=num_fewshot,
                limit=limit,
                task_manager=manager,
                log_samples=False,
                bootstrap_iters=0,
            )
        except (OSError, ConnectionError) as error:
            raise DataError(f"The data of {', '.join(names)} is out of reach: {error}.") from error
    counts = found["n-samples"]
    return {
        "model": str(model_path),
        "lm_eval": lm_eval.__version__,
        "tasks": {name: _plain(row) | _documents(counts.get(name)) for name, row in found["results"].items()},
    }


def _resolved(tasks: Sequence[str]) -> tuple[Any, list[str]]:
    """lm-eval's index of tasks, extended by the folders of the given files, and the names of all tasks."""
    from lm_eval.tasks import TaskManager

    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    for file in files:
        if not file.is_file():
            raise ConfigError(f"The task file {str(file)!r} does not exist. Check the spelling of the path.")
    own = {str(file): _name_of(file) for file in files}
    folders = sorted({str(file.parent.resolve()) for file in files})
    manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(tasks))
    names = [own.get(task, task) for task in tasks]
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ConfigError(
            f"lm-eval knows no task {unknown[0]!r}. `lm-eval ls tasks` lists them; a task of your own is a .yaml file."
        )
    return manager, names


def _name_of(file: Path) -> str:
    try:
        text = "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if "!function" not in line)
        name = (yaml.safe_load(text) or {}).get("task")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise ConfigError(f"The task file {str(file)!r} cannot be read: {error}.") from error
    if not isinstance(name, str):
        raise ConfigError(f"The task file {str(file)!r} names no task. Add a line such as `task: my_task`.")
    return name


def _plain(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of one task; lm-eval writes ``"acc,none"`` for a metric without a filter."""
    numbers = {key: value for key, value in row.items() if isinstance(value, float | int)}
    return {key.removesuffix(",none"): float(value) for key, value in numbers.items() if key != "sample_len"}


def _documents(counts: object) -> dict[str, float]:
    return {"documents": float(counts["effective"])} if isinstance(counts, dict) and "effective" in counts else {}
