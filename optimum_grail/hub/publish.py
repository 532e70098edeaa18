"""Publishing a saved checkpoint on the Hub: one commit with everything, or none."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not re-exported

from optimum_grail.checkpoints.files import MODEL_WEIGHTS
from optimum_grail.checkpoints.work_folders import WorkFolder, remove_abandoned
from optimum_grail.errors import CheckpointError, GrailError, HubError
from optimum_grail.hub.card import public
from optimum_grail.hub.content import files_of, report_of
from optimum_grail.hub.metadata import CARD, without_folders
from optimum_grail.hub.snippet import LOCAL_PATH
from optimum_grail.report.report import REPORT_FILE, Report

DESCRIBED = ("config.json", "grail_config.json")
"""Files whose ``grail_config`` may name paths of the author's disk."""
OURS = (*MODEL_WEIGHTS, "grail_*", "modeling_grail.py")
"""Files of an earlier version that would be wrong beside a new one: the same commit removes them."""
PREFIX = "grail-"
"""Of the temporary folders that are published from."""
COMMITTED_NOT = "Nothing was committed."


@dataclass(frozen=True)
class Upload:
    """Where a checkpoint goes.

    Args:
        repo_id: ``owner/name``, or ``name`` for one's own account.
        commit_message: by default it names the base model.
        private: whether a repository that has to be created is private; ``None``: as the account says.
        token: Hub token; by default that of ``hf auth login`` or of the environment variable ``HF_TOKEN``.
        revision: branch to commit to; created if it is not there.
        create_pr: open a pull request instead of committing.
        tags: more tags for the card.
        include: patterns (``*.gguf``, ``onnx/*``) of files to publish beside those that a run wrote.
    """

    repo_id: str
    commit_message: str | None = None
    private: bool | None = None
    token: str | None = None
    revision: str | None = None
    create_pr: bool = False
    tags: Sequence[str] = ()
    include: Sequence[str] = ()

    def check(self) -> None:
        """What can be wrong before anything is sent.

        Raises:
            HubError: the name is no repository's, a pull request to another branch is asked, or there is no token.
        """
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise HubError(
                f"{self.repo_id!r} is no name of a Hub repository; expected 'owner/name'. ({error})"
            ) from None
        if self.create_pr and self.revision not in (None, "main"):
            raise HubError(
                f"A pull request goes to main, not to {self.revision!r}. Leave out the revision, or create_pr."
            )
        if self.token is None and get_token() is None:
            raise HubError(
                "Publishing needs a Hub token with the right to write, and none was found. Log in with "
                "`hf auth login`, set HF_TOKEN, or pass token=…."
            )


def push_folder(folder: str | Path, upload: Upload) -> CommitInfo:
    """Publish a checkpoint that ``save_pretrained`` wrote: its files in one commit. The folder is not changed.

    Paths of the author's disk in report and configuration are cut to their last part on the way, and the card names
    the repository where it said "this folder". Which files these are, :func:`files_of` says; others stay at home.

    Args:
        folder: the checkpoint.
        upload: where to.

    Returns:
        what the Hub says of the commit: ``commit_url``, ``oid``, ``pr_url``.

    Raises:
        CheckpointError: the folder is no checkpoint of this package, or as :func:`files_of`.
        HubError: no token, or the Hub refused, failed or broke off; nothing was committed, and the message says what
            to do.
    """
    path = Path(folder)
    report = report_of(path)
    files = files_of(path, upload.include)
    upload.check()
    api = HfApi(token=upload.token)
    with _explained(f"The complete checkpoint is still in {str(path)!r}; repeat", path, upload):
        repo_id = api.create_repo(upload.repo_id, private=upload.private, exist_ok=True).repo_id
        if upload.revision and not upload.create_pr and not upload.revision.startswith("refs/"):
            api.create_branch(repo_id, branch=upload.revision, exist_ok=True)
        additions = _additions(files, report, repo_id, upload.tags)
        stale = _stale(api, repo_id, upload.revision, {item.path_in_repo for item in additions})
        return api.create_commit(
            repo_id,
            [*additions, *stale],
            commit_message=upload.commit_message or f"{report.name}, compressed with optimum-grail",
            revision=upload.revision,
            create_pr=upload.create_pr,
        )


def push_saved(save: Callable[[Path], None], upload: Upload) -> CommitInfo:
    """Publish what ``save`` writes to the folder it is given.

    The folder is temporary; if the upload fails it stays, and the message names it. Those of processes that were killed
    are removed first.

    Raises:
        HubError: as :func:`push_folder`.
    """
    upload.check()
    remove_abandoned(tempfile.gettempdir(), PREFIX)
    work = WorkFolder(tempfile.gettempdir(), PREFIX)
    folder = work.path / upload.repo_id.rpartition("/")[2]
    try:
        save(folder)
    except BaseException:
        work.remove()
        raise
    try:
        commit = push_folder(folder, upload)
    except BaseException:
        work.keep()
        raise
    work.remove()
    return commit


def _additions(
    files: Mapping[str, Path], report: Report, repo_id: str, tags: Sequence[str]
) -> list[CommitOperationAdd]:
    changed = {REPORT_FILE: public(report).to_json().encode()}
    if CARD in files:
        changed[CARD] = _card(files[CARD], repo_id, tags).encode()
    changed |= {name: _described(files[name]) for name in DESCRIBED if name in files}
    return [CommitOperationAdd(name, changed.get(name, str(path))) for name, path in files.items()]


def _stale(api: HfApi, repo_id: str, revision: str | None, new: set[str]) -> list[CommitOperationDelete]:
    there = api.list_repo_files(repo_id, revision=revision)
    return [
        CommitOperationDelete(name)
        for name in there
        if name not in new and any(fnmatch(name, pattern) for pattern in OURS)
    ]


def _card(path: Path, repo_id: str, tags: Sequence[str]) -> str:
    try:
        card = ModelCard.load(path, ignore_metadata_errors=True)
        known = card.data.tags if isinstance(card.data.tags, list) else []
        card.data.tags = list(dict.fromkeys([*map(str, known), *tags])) or None
    except Exception as error:  # a card that a hand has changed can be wrong in many ways
        raise CheckpointError(
            f"{str(path)!r} cannot be read as a card ({type(error).__name__}). Write it again with `grail card`."
        ) from error
    return str(card).replace(LOCAL_PATH, f'path = "{repo_id}"\n')


def _described(path: Path) -> bytes:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not JSON ({error}). Restore the file.") from error
    values = without_folders(values) if path.name == "grail_config.json" else _descend(values)
    return (json.dumps(values, indent=2) + "\n").encode()


def _descend(value: object) -> Any:
    """``value`` with every ``grail_config`` in it freed of folders."""
    if not isinstance(value, dict):
        return value
    return {key: without_folders(item) if key == "grail_config" else _descend(item) for key, item in value.items()}


@contextmanager
def _explained(remedy: str, folder: Path, upload: Upload) -> Iterator[None]:
    """Turn whatever ends an upload into one message that says what happened and what to do."""
    again = f"{remedy} with `optimum-cli grail push {folder} {upload.repo_id}`."
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; nothing was committed to {upload.repo_id}. {again}") from None
    except GrailError:
        raise
    except Exception as error:  # httpx's, the Hub's and plain errors of the upload threads share no base
        state = "Whether it was committed is not known: look before you repeat." if _in_doubt(error) else COMMITTED_NOT
        raise HubError(f"{_reason(error, upload)} {state} {again}") from error


def _reason(error: BaseException, upload: Upload) -> str:
    status = _status(error)
    name = upload.repo_id
    if status == 401:
        return f"The Hub does not accept the token (401). Log in again with `hf auth login` to write to {name!r}."
    if status == 403:
        return f"The token may not write to {name!r} (403). Use one with the right to write there, or another owner."
    if status == 404:
        return f"The Hub has no repository or revision {name!r} {upload.revision or ''} for this token (404)."
    if status in (409, 412):
        return f"{name!r} was changed by someone else meanwhile, or its name is taken ({status}). Try again."
    if status is not None and status >= 500:
        return f"The Hub failed ({status}) on {name!r}, which is seldom lasting. Try again later."
    if status is not None:
        return f"The Hub refused the upload to {name!r} ({status}): {_first_line(error)}."
    root = _root(error)
    return f"The upload to {name!r} broke off ({type(root).__name__}: {_first_line(root)}). Check the network."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _root(error: BaseException) -> BaseException:
    return list(_chain(error))[-1]


def _status(error: BaseException) -> int | None:
    """The HTTP status behind ``error``; upload threads wrap it in errors of their own."""
    found = (getattr(getattr(item, "response", None), "status_code", None) for item in _chain(error))
    return next((status for status in found if isinstance(status, int)), None)


def _in_doubt(error: BaseException) -> bool:
    """Whether the connection was lost after the commit was sent: then only the Hub knows whether it arrived."""
    asked = (vars(item).get("_request") for item in _chain(error))
    return _status(error) is None and any("/commit/" in str(getattr(request, "url", "")) for request in asked)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if len(lines) > 1 else lines[0] if lines else type(error).__name__).rstrip(".")
