"""A server on the loopback interface that speaks the Hub's endpoints, and processes that know no other Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

TOKEN = "hf_of_the_loopback_hub"
READ_ONLY = "hf_that_may_only_read"
LFS_FILES = (".safetensors", ".png")


@dataclass
class Repository:
    """Branches hold whole trees: path to content. A commit is the id that a branch had."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[dict[str, Any]] = field(default_factory=list)

    def sha(self, revision: str) -> str:
        tree = sorted((path, hashlib.sha1(content).hexdigest()) for path, content in self.branches[revision].items())
        return hashlib.sha1(json.dumps([tree, len(self.commits)]).encode()).hexdigest()

    def find(self, revision: str) -> dict[str, bytes] | None:
        named = {self.sha(branch): branch for branch in self.branches}
        return self.branches.get(named.get(revision, revision))


@dataclass
class LoopbackHub:
    """What the server knows: repositories and LFS objects, what was asked of it, and the faults it was told to have.

    A fault is a status code, or ``"cut"``: the server reads half of the body and closes the connection.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[list[Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def storage(self) -> str:
        """Another host, as on the real Hub: clients take a file's commit from the answer that sends them there."""
        return self.url.replace("127.0.0.1", "localhost") + "/storage"

    def fail(self, pattern: str, action: int | str, times: int = 1000) -> None:
        self.faults.append([re.compile(pattern), action, times])

    def add(self, name: str, folder: Path) -> str:
        """Put the files of ``folder`` into a new repository; returns its commit."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repositories[name] = Repository(False, {"main": files})
        self.objects |= {hashlib.sha256(data).hexdigest(): data for data in files.values()}
        return self.repositories[name].sha("main")

    def fault(self, request: str) -> int | str | None:
        for item in self.faults:
            if item[2] and item[0].search(request):
                item[2] -= 1
                return item[1]
        return None


class Handler(BaseHTTPRequestHandler):
    """One request, at an endpoint that huggingface_hub and transformers were seen to use."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None: ...

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        size = int(self.headers.get("Content-Length", 0))
        action = self.hub.fault(request)
        if action == "cut":
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.close()
            return
        self.body = self.rfile.read(size)
        if isinstance(action, int):
            self.send(action, {"error": "as the test wants it"})
            return
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, request):
                method(self, *found.groups())
                return
        self.send(404, {"error": f"no such endpoint: {request}"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status: int, value: Any = None, content: bytes | None = None, **headers: str) -> None:
        data = json.dumps(value).encode() if content is None else content
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def may_write(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given not in (TOKEN, READ_ONLY):
            self.send(401, {"error": "Invalid username or password."})
        elif given == READ_ONLY:
            self.send(403, {"error": "Forbidden: you need a token with the right to write."})
        return given == TOKEN

    def repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        known = f"Bearer {TOKEN}" == self.headers.get("Authorization")
        if found is not None and (known or not found.private):
            return found
        self.send(404 if known else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return None

    def create(self) -> None:
        if not self.may_write():
            return
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        there = name in self.hub.repositories
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories.setdefault(name, Repository(bool(private)))
        self.send(409 if there else 200, {"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self) -> None:
        errors = []
        try:
            front = yaml.safe_load(json.loads(self.body)["content"].split("---\n")[1])
            words = ("license", "library_name", "pipeline_tag", "base_model")
            errors += [f'"{key}" must be a string' for key in words if not isinstance(front.get(key, ""), str)]
            lists = ("tags", "datasets", "metrics")
            errors += [f'"{key}" must be a list' for key in lists if not isinstance(front.get(key, []), list)]
            base = front.get("base_model", "a/b")
            errors += [] if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) else [f"base_model {base} is no model id"]
            metrics = [result["metrics"][0] for entry in front.get("model-index", []) for result in entry["results"]]
            errors += [f"{metric} has no value" for metric in metrics if not isinstance(metric["value"], int | float)]
        except (IndexError, KeyError, TypeError, yaml.YAMLError) as error:
            errors.append(repr(error))
        found = [{"message": message} for message in errors]
        self.send(400 if errors else 200, {"errors": found, "warnings": []})

    def branch(self, name: str, branch: str) -> None:
        repository = self.repository(name)
        if repository is not None and self.may_write():
            there = branch in repository.branches
            repository.branches.setdefault(branch, dict(repository.branches["main"]))
            self.send(409 if there else 200, {})

    def preupload(self, name: str, revision: str) -> None:
        if self.repository(name) is not None and self.may_write():
            paths = [item["path"] for item in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(LFS_FILES) else "regular" for path in paths}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self.send(200, {"files": files})

    def batch(self, name: str) -> None:
        if self.repository(name) is None or not self.may_write():
            return
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.objects:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/storage/{item['oid']}"}}
        self.send(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.send(400, {"error": "the content is not what was announced"})
            return
        self.hub.objects[oid] = self.body
        self.send(200, {})

    def commit(self, name: str, revision: str) -> None:
        repository = self.repository(name)
        if repository is None or not self.may_write():
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        tree = dict(repository.branches[revision])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        request = "create_pr=1" in self.path
        target = f"refs/pr/{len(repository.branches)}" if request else revision
        repository.branches[target] = tree
        repository.commits.append({**lines[0]["value"], "branch": target, "keys": [line["key"] for line in lines[1:]]})
        url = f"{self.hub.url}/{name}"
        answer = {"commitUrl": f"{url}/commit/{repository.sha(target)}", "commitOid": repository.sha(target)}
        self.send(200, {**answer, **({"pullRequestUrl": f"{url}/discussions/1"} if request else {})})

    def info(self, name: str, revision: str | None = None) -> None:
        repository = self.repository(name)
        if repository is None:
            return
        branch = revision or "main"
        tree = repository.find(branch)
        if tree is None:
            self.send(404, {"error": "Invalid rev"}, X_Error_Code="RevisionNotFound")
            return
        sha = repository.sha(branch) if branch in repository.branches else branch
        self.send(200, {"_id": "1", "id": name, "sha": sha, "siblings": [{"rfilename": path} for path in tree]})

    def tree(self, name: str, revision: str) -> None:
        repository = self.repository(name)
        found = repository and repository.find(revision)
        if repository is not None:
            rows = [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in (found or {}).items()]
            self.send(200, rows)

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.repository(name)
        if repository is None:
            return
        tree = repository.find(revision)
        if tree is None or path not in tree:
            code = "RevisionNotFound" if tree is None else "EntryNotFound"
            self.send(404, {"error": code}, X_Error_Code=code)
            return
        content = tree[path]
        sha = repository.sha(revision) if revision in repository.branches else revision
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": sha, "Content_Type": "application/octet-stream"}
        if path.endswith(LFS_FILES):
            headers |= {"X_Linked_Etag": f'"{etag}"', "X_Linked_Size": str(len(content))}
            self.send(302, content=b"", Location=f"{self.hub.storage}/{etag}", **headers)
        else:
            self.send(200, content=content, **headers)

    def download(self, oid: str) -> None:
        self.send(200, content=self.hub.objects[oid], ETag=f'"{oid}"', Content_Type="application/octet-stream")


NAME, REVISION = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{NAME}/branch/{REVISION}", Handler.branch),
    (rf"POST /api/models/{NAME}/preupload/{REVISION}", Handler.preupload),
    (rf"POST /api/models/{NAME}/commit/{REVISION}", Handler.commit),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (rf"GET /api/models/{NAME}(?:/revision/{REVISION})?", Handler.info),
    (rf"GET /api/models/{NAME}/tree/{REVISION}", Handler.tree),
    (r"PUT /storage/(\w+)", Handler.store),
    (r"(?:GET|HEAD) /storage/(\w+)", Handler.download),
    (rf"(?:GET|HEAD) /{NAME}/resolve/{REVISION}/(.+)", Handler.resolve),
]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hub of this test's own, empty."""
    found = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"hub": found}))
    found.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()


@pytest.fixture
def elsewhere(hub: LoopbackHub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process that knows only this Hub and has an empty cache; retries do not wait."""

    def run(code: str, *words: str | Path, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        home = tmp_path / f"home-{len(list(tmp_path.glob('home-*')))}"
        home.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        given = {} if token is None else {"HF_TOKEN": token}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "TMPDIR": str(tmp_path)}
        quick = "import time; time.sleep = lambda seconds: None\n"
        command = [sys.executable, "-c", quick + code, *map(str, words)]
        return subprocess.run(
            command, env={**kept, **settings, **given}, capture_output=True, text=True, check=False, timeout=240
        )

    return run
