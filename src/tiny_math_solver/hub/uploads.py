"""Uploads to the Hugging Face Hub: one commit, which arrives whole and once, however often the connection is cut.

Large files are sent first; what has arrived is not sent again, by this command or the next. The commit names the one it
follows, so the Hub refuses a second of its kind, and the head of the branch is looked at before each try.

The token is the one of HF_TOKEN or of the Hub's own login. It goes into the requests and nowhere else.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tiny_math_solver.hub.retries import WAITS, CutError, retrying
from tiny_math_solver.hub.snapshots import causes, content_hash, endpoint, is_network_trouble, online
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.redaction import without_secrets

MAIN = "main"
PATIENCE = 60.0  # seconds: the Hub checks a large file, and the card of a commit, before it answers
LARGE = 1_000_000  # bytes of a file that takes a while
OVERTAKEN = (409, 412)  # another commit is being made; the head of the branch is not the parent that a commit names
WHERE_TOKENS_ARE = "https://huggingface.co/settings/tokens"
# transformers and PEFT load a model from these at the top of a repository: those of another must not lie beside it
LOADED = (
    "config.json", "model*.safetensors", "model*.safetensors.index*.json", "pytorch_model*.bin",
    "pytorch_model*.bin.index*.json", "adapter_config.json", "adapter_model*.safetensors", "adapter_model*.bin",
)  # fmt: skip


@dataclass(frozen=True)
class Repository:
    """A model repository of the Hub as it is before an upload; `is_private` is None if it does not exist."""

    name: str  # with its owner
    branch: str
    is_private: bool | None
    files: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"{endpoint()}/{self.name}" + (f"/tree/{self.branch}" if self.branch != MAIN else "")

    def refuse_mixture(self, names: Mapping[str, Path]) -> None:
        """Raise UserError if weights of another kind would stay beside the new ones, and be loaded with them."""
        top = [file for file in self.files if "/" not in file and file not in names]
        left = [file for file in top if any(fnmatchcase(file, kind) for kind in LOADED)]
        if left:
            raise UserError(
                f"{self.name} holds {left[0]}, which would stay beside these files and be loaded with them: choose "
                "another repository, or delete it there"
            )


@dataclass(frozen=True)
class Uploaded:
    """The commit that holds the files; `is_new` is False if the head of the branch held them before."""

    commit: str
    is_new: bool


def check_name(name: str) -> str:
    """The name of a repository without the Hub's address. Raises UserError if no repository can be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = name.removeprefix("https://huggingface.co/").removesuffix("/")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(
            f"{name[:120]!r} is not a valid repository name: OWNER/NAME, each of at most 96 letters, digits, '-', '_' "
            "and '.', neither beginning nor ending with '-' or '.', without '--' and '..', and not ending with .git"
        ) from None
    return name


def check_branch(name: str) -> None:
    """Raise UserError if no branch can be called so."""
    if not re.fullmatch(r"\w[\w./-]*", name, re.ASCII) or re.search(r"\.\.|//|[./]$|\.lock$", name):
        raise UserError(f"--revision {name!r}: not a valid branch name; letters, digits, '-', '_', '.' and '/'")


def hub_token() -> str | None:
    """The token of HF_TOKEN or of the Hub's login; None if there is none."""
    from huggingface_hub import get_token

    return get_token()


class Uploader:
    """Uploads to one repository and branch. Raises UserError without a token that may write."""

    def __init__(self, name: str, branch: str = MAIN):
        from huggingface_hub import HfApi, constants

        constants.HF_HUB_DISABLE_XET = True  # its own client ignores our retry policy
        if constants.HF_HUB_OFFLINE:
            raise UserError("nothing can be uploaded in offline mode: unset HF_HUB_OFFLINE")
        if not (token := hub_token()):
            raise UserError(
                f"no token: log in once with `hf auth login`, or set HF_TOKEN; {WHERE_TOKENS_ARE} makes one that may "
                "write"
            )
        if not (token.isascii() and token.isprintable()):
            raise UserError("the token contains invalid characters: set HF_TOKEN to the token alone")
        self.api = HfApi(token=token)
        name = check_name(name)
        with self._requests(name):
            owner = self._owner()
            self.repository = self._look(name if "/" in name else f"{owner}/{name}", branch)

    def _owner(self) -> str:
        """The account of the token. Raises UserError if the Hub does not know it, or it may only read."""
        from huggingface_hub import errors

        try:
            found = self.api.whoami()
        except errors.HfHubHTTPError as error:
            if error.response.status_code != 401:
                raise
            raise UserError(
                f"{endpoint()} does not know this token: set HF_TOKEN to a valid one, or log in again with `hf auth "
                f"login` ({WHERE_TOKENS_ARE})"
            ) from None
        role = ((found.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise UserError(f"the token of {found['name']} may only read: make one that may write ({WHERE_TOKENS_ARE})")
        return found["name"]

    def _look(self, name: str, branch: str) -> Repository:
        from huggingface_hub import errors

        try:
            info = self.api.model_info(name)
            if branch != MAIN and self._has(name, branch):
                info = self.api.model_info(name, revision=branch)
        except errors.RepositoryNotFoundError:
            return Repository(name, branch, None)
        return Repository(name, branch, bool(info.private), tuple(file.rfilename for file in info.siblings or ()))

    def _has(self, name: str, branch: str) -> bool:
        refs = self.api.list_repo_refs(name)
        return branch in [ref.name for ref in refs.branches]

    def upload(self, files: Mapping[str, Path], message: str, *, private: bool) -> Uploaded:
        """Commit `files`, by their names in the repository, which is made `private` or public if it is not there.

        Raises UserError if the Hub refuses, or cannot be reached any more; the same call then goes on.
        """
        repository, api = self.repository, self.api
        with online(), self._requests(repository.name, started=True):
            if repository.is_private is None:
                api.create_repo(repository.name, private=private, exist_ok=True)
            if repository.branch != MAIN:
                api.create_branch(repository.name, branch=repository.branch, exist_ok=True)
            additions = [_addition(name, path) for name, path in sorted(files.items())]
            options: dict[str, Any] = {"revision": repository.branch, "num_threads": 1}  # one message at a time
            large = [addition for addition in additions if addition.upload_info.size >= LARGE]
            small = [addition for addition in additions if addition not in large]
            for some in (*([addition] for addition in large), small):  # in threads an interrupt would wait for them
                api.preupload_lfs_files(repository.name, some, free_memory=False, **options)
            return self._commit(files, additions, message, options)

    def _commit(
        self, files: Mapping[str, Path], additions: list[Any], message: str, options: dict[str, Any]
    ) -> Uploaded:
        """Commit once: a try whose answer is lost may have succeeded, so the head of the branch is looked at first."""
        from huggingface_hub import errors

        name, tried = self.repository.name, 0
        while True:
            head = self.api.model_info(name, revision=self.repository.branch).sha or ""
            if self._holds(head, files):
                return Uploaded(head, is_new=tried > 0)
            tried += 1
            try:
                done = self.api.create_commit(name, additions, commit_message=message, parent_commit=head, **options)
                return Uploaded(done.oid, is_new=True)
            except CutError:
                continue  # retries.py waits, and raises UnreachableError after the last try
            except errors.HfHubHTTPError as error:  # an earlier try has arrived after all, or somebody else's commit
                if error.response.status_code not in OVERTAKEN or tried > len(WAITS):
                    raise
                time.sleep(WAITS[tried - 1])

    def _holds(self, commit: str, files: Mapping[str, Path]) -> bool:
        """True if these very files are in a commit."""
        found: list[Any] = self.api.get_paths_info(self.repository.name, list(files), revision=commit)
        there = {info.path: info.lfs.sha256 if info.lfs else info.blob_id for info in found}
        return len(there) == len(files) and all(
            content_hash(path, is_git=len(there[name]) == 40) == there[name] for name, path in files.items()
        )

    @contextmanager
    def _requests(self, name: str, *, started: bool = False) -> Iterator[None]:
        """Retry as retries.py does, and turn what the Hub refuses into a UserError."""
        from huggingface_hub import errors

        try:
            with retrying(WAITS, patience=PATIENCE):
                yield
        except UserError:
            raise
        except Exception as error:
            chain = list(causes(error))
            answer: Any = next((cause for cause in chain if isinstance(cause, errors.HfHubHTTPError)), None)
            again = "; the same command goes on, and sends only what is missing" if started else ""
            if answer is not None and not is_network_trouble(answer):
                message = _refusal(name, answer)
            elif trouble := next(filter(is_network_trouble, chain), None):
                message = f"cannot reach {endpoint()} ({trouble}){again}"
            elif isinstance(error, OSError) and error.filename:
                message = f"{error.filename}: cannot be read ({error.strerror})"
            elif isinstance(error, ValueError):  # metadata of the card, an answer that is none
                message = f"{endpoint()} refused the upload to {name}: {error}"
            else:
                raise
            raise UserError(without_secrets(message)) from error


def _refusal(name: str, error: Any) -> str:
    """The message for an answer of the Hub that is an error."""
    status = error.response.status_code
    said = " ".join(str(error.server_message or error.response.reason_phrase).split())[:200]
    if status in (401, 403, 404):
        owner = name.partition("/")[0]
        return (
            f"this token may not write to {name} ({status}: {said}): choose a repository of its account, or a token "
            f"that may write to those of {owner} ({WHERE_TOKENS_ARE})"
        )
    return f"{endpoint()} answered {status} for {name}: {said}"


def _addition(name: str, path: Path) -> Any:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
