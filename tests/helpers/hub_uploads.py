"""The side of the stand-in Hub that takes uploads: accounts, new repositories, large files, commits.

It answers as the Hub does to huggingface_hub's client without Xet: a file is asked about (preupload), sent if it is
large and not there (LFS: one PUT, or parts and their completion, then a check of the hash), and named in a commit,
which takes the others with it. Left out: pull requests, quotas, copies, .gitignore.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

ID = r"[\w.-]+"
LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "gemma", "llama3.2", "other", "unknown")
LARGE = (".safetensors", ".bin", ".gguf", ".parquet")  # as the .gitattributes of a new repository say
REGULAR_LIMIT = 10_000_000  # bytes: larger files are large files whatever they are called


@dataclass(frozen=True)
class Account:
    """The owner of a token, and what the token allows."""

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        return self.role == "write" and namespace in (self.name, *self.orgs)


class RefusedError(Exception):
    """An answer of the Hub that is an error."""

    def __init__(self, status: HTTPStatus, code: str, message: str, more: dict[str, Any] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more or {}


@dataclass
class Asked:
    """A request as this module needs it."""

    method: str
    path: str
    body: bytes
    token: str | None
    url: str  # of the Hub

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Uploads:
    """What the Hub takes; `accounts` has the owners of tokens, and without any nobody is asked who they are."""

    root: Path
    accounts: dict[str, Account] = field(default_factory=dict)
    part_size: int = 50_000_000  # bytes of a part of a large file; a larger one comes in several
    received: list[str] = field(default_factory=list)  # the hash of each large file that has arrived, in their order

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    # -- Who asks -------------------------------------------------------------------------------------------------

    def account(self, asked: Asked) -> Account | None:
        """The owner of the token of a request. Raises RefusedError for an unknown token."""
        if asked.token is None or not self.accounts:
            return None
        if asked.token not in self.accounts:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "", "Invalid credentials in Authorization header")
        return self.accounts[asked.token]

    def check_reader(self, asked: Asked, folder: Path) -> None:
        """Raise RefusedError where a private repository is not the asker's; it is said not to be there."""
        account = self.account(asked)
        is_owner = account is not None and folder.parent.name in (account.name, *account.orgs)
        if self.accounts and is_private(folder) and not is_owner:
            status = HTTPStatus.NOT_FOUND if account else HTTPStatus.UNAUTHORIZED
            raise RefusedError(status, "RepoNotFound", "Repository not found")

    def check_writer(self, asked: Asked, repo: str) -> Path:
        """The folder of a repository that the asker may write to."""
        folder, account = self.root / "models" / repo, self.account(asked)
        if not folder.is_dir():
            raise RefusedError(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        self.check_reader(asked, folder)
        if account is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "", "Invalid username or password.")
        if not account.may_write(repo.partition("/")[0]):
            raise RefusedError(HTTPStatus.FORBIDDEN, "", "You have read access but not the required permissions")
        return folder

    # -- Requests -------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Any:
        """The JSON, or the headers of an empty answer (`Headers`), for a request; None if it is not for this side."""
        for method, pattern, take in ROUTES:
            if asked.method == method and (found := re.fullmatch(pattern, asked.path)):
                with self.lock:
                    return getattr(self, take)(asked, *map(unquote, found.groups()))
        return None

    def whoami(self, asked: Asked) -> Any:
        account = self.account(asked)
        if account is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "", "Invalid username or password.")
        token = {"displayName": "test", "role": account.role}
        orgs = [{"type": "org", "name": name} for name in account.orgs]
        return {"type": "user", "name": account.name, "orgs": orgs, "auth": {"accessToken": token}}

    def create(self, asked: Asked) -> Any:
        account, wanted = self.account(asked), asked.json()
        if account is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "", "Invalid username or password.")
        owner = wanted.get("organization") or account.name
        if not account.may_write(owner):
            text = f'You don\'t have the rights to create a model under the namespace "{owner}"'
            raise RefusedError(HTTPStatus.FORBIDDEN, "", text)
        folder = self.root / "models" / owner / wanted["name"]
        url = f"{asked.url}/{owner}/{wanted['name']}"
        if folder.is_dir():
            raise RefusedError(HTTPStatus.CONFLICT, "", "You already created this model repo", {"url": url})
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE)
        private = wanted.get("private", wanted.get("visibility") == "private")
        commit(folder, "main", {".gitattributes": attributes.encode()}, "initial commit")
        (folder / "settings.json").write_text(json.dumps({"private": bool(private)}))
        return {"url": url}

    def validate(self, asked: Asked) -> Any:
        """The checks of a card's metadata that this package could fail."""
        block = re.match(r"---\n(.*?)\n---\n", asked.json()["content"], re.DOTALL)
        wrong = []
        try:
            data = yaml.safe_load(block[1]) if block else {}
        except yaml.YAMLError as error:
            data, wrong = {}, [str(error)]
        for key in ("base_model", "datasets"):
            listed = data.get(key) or []
            for name in [listed] if isinstance(listed, str) else listed:
                if not re.fullmatch(rf"({ID}/)?{ID}", name):
                    wrong.append(f'"{key}" with value "{name}" is not valid')
        if data.get("license") not in (None, *LICENCES):
            wrong.append('"license" must be one of the listed ones')
        for result in (result for model in data.get("model-index") or [] for result in model["results"]):
            if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                wrong.append('"model-index" has an empty task or dataset')
            wrong += [f"{m} is no metric" for m in result["metrics"] if not m.get("type") or "value" not in m]
        if wrong:
            errors = {"errors": [{"message": text} for text in wrong]}
            raise RefusedError(HTTPStatus.BAD_REQUEST, "", "Invalid metadata", errors)
        return {"errors": [], "warnings": []}

    def refs(self, asked: Asked, repo: str) -> Any:
        folder = self.root / "models" / repo
        found = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": head(folder, name)} for name in branches(folder)
        ]
        return {"branches": found, "tags": [], "converts": []}

    def branch(self, asked: Asked, repo: str, name: str) -> Any:
        folder = self.check_writer(asked, repo)
        if name in branches(folder):
            raise RefusedError(HTTPStatus.CONFLICT, "", "Reference already exists")
        (folder / name).write_text(head(folder, "main"))
        return {}

    def preupload(self, asked: Asked, repo: str, revision: str) -> Any:
        folder = self.check_writer(asked, repo)
        snapshot = folder / self.head_of(folder, revision)
        files = []
        for file in asked.json()["files"]:
            is_large = file["path"].endswith(LARGE) or file["size"] > REGULAR_LIMIT
            there = snapshot / file["path"]
            oid = file_id(there, is_large) if there.is_file() else None
            mode = "lfs" if is_large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    def head_of(self, folder: Path, branch: str) -> str:
        if branch not in branches(folder):
            raise RefusedError(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {branch}")
        return head(folder, branch)

    # -- Large files ----------------------------------------------------------------------------------------------

    def batch(self, asked: Asked, repo: str) -> Any:
        self.check_writer(asked, repo)
        objects = []
        for one in asked.json()["objects"]:
            actions = {} if (self.root / "lfs" / one["oid"]).is_file() else {"actions": self._actions(asked, one)}
            objects.append({"oid": one["oid"], "size": one["size"], "authenticated": True} | actions)
        return {"transfer": "basic", "objects": objects}

    def _actions(self, asked: Asked, one: dict[str, Any]) -> dict[str, Any]:
        verify = {"href": f"{asked.url}/lfs/verify", "header": {}}
        oid, size = one["oid"], one["size"]
        if size <= self.part_size:
            return {"upload": {"href": f"{asked.url}/lfs/whole/{oid}", "header": {}}, "verify": verify}
        parts = {
            f"{n + 1:05}": f"{asked.url}/lfs/part/{oid}/{n + 1:05}" for n in range((size - 1) // self.part_size + 1)
        }
        header = {"chunk_size": str(self.part_size), **parts}
        return {"upload": {"href": f"{asked.url}/lfs/complete/{oid}", "header": header}, "verify": verify}

    def put_whole(self, asked: Asked, oid: str) -> Any:
        self._keep(oid, self._signed(asked))
        return Headers({})

    def put_part(self, asked: Asked, oid: str, number: str) -> Any:
        part = self.root / "lfs" / f"{oid}.{number}"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(self._signed(asked))
        return Headers({"ETag": hashlib.md5(asked.body).hexdigest()})

    def complete(self, asked: Asked, oid: str) -> Any:
        named = [f"{part['partNumber']:05}" for part in asked.json()["parts"]]
        self._keep(oid, b"".join((self.root / "lfs" / f"{oid}.{number}").read_bytes() for number in named))
        return {}

    def verify(self, asked: Asked) -> Any:
        wanted = asked.json()
        kept = self.root / "lfs" / wanted["oid"]
        if not kept.is_file() or kept.stat().st_size != wanted["size"]:
            raise RefusedError(HTTPStatus.NOT_FOUND, "", "no such object")
        return {}

    def _signed(self, asked: Asked) -> bytes:
        """The body of a request to a signed address, which no token may come with: it is another company's machine."""
        if asked.token is not None:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "", "Only one auth mechanism allowed")
        return asked.body

    def _keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "", "the content does not have its hash")
        kept = self.root / "lfs" / oid
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(content)
        self.received.append(oid)

    # -- Commits --------------------------------------------------------------------------------------------------

    def commit(self, asked: Asked, repo: str, branch: str) -> Any:
        folder = self.check_writer(asked, repo)
        lines = [json.loads(line) for line in asked.body.splitlines()]
        header, changes = lines[0]["value"], lines[1:]
        parent = self.head_of(folder, branch)
        if header.get("parentCommit", parent) != parent:
            text = "The branch was updated since: A commit has happened since. Please refresh and try again."
            raise RefusedError(HTTPStatus.PRECONDITION_FAILED, "", text)
        made = commit(folder, branch, dict(self._contents(changes)), header["summary"])
        return {"success": True, "commitOid": made, "commitUrl": f"{asked.url}/{repo}/commit/{made}"}

    def _contents(self, changes: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                yield value["path"], base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                kept = self.root / "lfs" / value["oid"]
                if not kept.is_file():
                    raise RefusedError(HTTPStatus.BAD_REQUEST, "", f"LFS pointer to a missing object: {value['path']}")
                yield value["path"], kept.read_bytes()
            else:
                raise RefusedError(HTTPStatus.BAD_REQUEST, "", f"the stand-in knows no {change['key']}")


class Headers(dict[str, str]):
    """An empty answer's."""


ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", rf"/api/models/({ID}/{ID})/refs", "refs"),
    ("POST", rf"/api/models/({ID}/{ID})/branch/([^/]+)", "branch"),
    ("POST", rf"/api/models/({ID}/{ID})/preupload/([^/]+)", "preupload"),
    ("POST", rf"/api/models/({ID}/{ID})/commit/([^/]+)", "commit"),
    ("POST", rf"/({ID}/{ID})\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/whole/(\w+)", "put_whole"),
    ("PUT", r"/lfs/part/(\w+)/(\d+)", "put_part"),
    ("POST", r"/lfs/complete/(\w+)", "complete"),
    ("POST", r"/lfs/verify", "verify"),
)


def commit(folder: Path, branch: str, changes: dict[str, bytes], message: str) -> str:
    """Make a commit of a branch: the files of its head with `changes`; returns its id."""
    parent = head(folder, branch) if (folder / branch).is_file() else ""
    digest = hashlib.sha1(f"{parent}{message}".encode())
    for name, content in sorted(changes.items()):
        digest.update(name.encode() + content)
    made = digest.hexdigest()
    if parent:
        shutil.copytree(folder / parent, folder / made)
    for name, content in changes.items():
        path = folder / made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / branch).write_text(made)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"commit": made, "parent": parent, "branch": branch, "message": message}) + "\n")
    return made


def commits(folder: Path) -> list[dict[str, str]]:
    """The commits of a repository that was made here, the first one empty but for .gitattributes."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def branches(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file() and path.suffix not in (".json", ".jsonl")]


def head(folder: Path, branch: str) -> str:
    return (folder / branch).read_text().strip()


def is_private(folder: Path) -> bool:
    settings = folder / "settings.json"
    return settings.is_file() and json.loads(settings.read_text())["private"]


def file_id(path: Path, is_large: bool) -> str:
    """The SHA-256 of a large file, git's id of another."""
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest() if is_large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
