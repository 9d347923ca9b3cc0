"""Snapshots of Hub repositories: pinned to a commit, verified in the cache, and every failure as one clear line.

Everything is fetched here and checked against its hash before a library loads it with `local_files_only`. Left to
themselves the libraries retry an unreachable Hub for minutes and load whatever bytes the cache holds, and `datasets`
takes whatever revision is there.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tiny_math_solver.hub.retries import RETRY_STATUS, WAITS, UnreachableError, retrying
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import NotHereError, UserError
from tiny_math_solver.support.redaction import without_secrets

# The commits that bare names stand for, which this package was written against.
PINNED_REVISIONS = {
    "Qwen/Qwen2.5-0.5B-Instruct": "7ae557604adf67be50417f59c2c2f167def9a775",
    "openai/gsm8k": "740312add88f781978c0658806c59bc2815b9866",
}
# Patterns of all that is ever downloaded: no pickle, no code.
FILES = {
    "model": ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"],
    "dataset": ["*.parquet", "*.jsonl", "*.json", "*.csv", "README.md"],
}
Kind = Literal["model", "dataset"]
FETCH_ADVICE = " (tiny-math fetch CONFIG fills the cache)"

_commits: dict[tuple[Kind, str, str | None], str] = {}  # of a branch, as of the first request of this process


def pinned(name: str, revision: str | None = None) -> str | None:
    """The revision to load `name` at: the one given, else the pinned commit, else None for its main branch."""
    return revision or PINNED_REVISIONS.get(name)


def snapshot(kind: Kind, name: str, revision: str | None = None) -> Path:
    """The folder of a repository in the Hub cache, downloaded if it is not there yet, its files verified.

    A commit in the cache needs no network; a branch is looked up, and taken from the cache if the Hub cannot be
    reached. A file that does not match its hash is downloaded again. Raises UserError for a missing, gated or
    unreachable repository, and for a file that does not match its hash the second time either.
    """
    from huggingface_hub import constants

    what, revision = f"{kind} {name}", pinned(name, revision)
    known = _commits.get((kind, name, revision), revision)
    with hub_errors(what, revision):
        cached, flaw = _look_in_cache(kind, name, known)
    if cached and (constants.HF_HUB_OFFLINE or cached.name == known):
        return cached
    with hub_errors(what, revision, flaw):
        try:
            with retrying(() if cached else WAITS, connecting=False):
                commit = _commit(kind, name, known)
        except Exception as error:
            if cached is None or not is_network_trouble(error):
                raise
            commit = cached.name
            Console().note(f"cannot reach {endpoint()} ({error}): {what} is taken from the cache, commit {commit[:12]}")
        folder = cached if cached and cached.name == commit else _fetch(kind, name, known)
        _commits[kind, name, revision] = folder.name
        return folder


def cache_flaw(kind: Kind, name: str, revision: str | None = None) -> str:
    """The reason why a repository cannot be loaded from the cache; empty if it can."""
    return _look_in_cache(kind, name, pinned(name, revision))[1]


def is_reachable() -> bool:
    """True if the Hub answers within 5 seconds."""
    from huggingface_hub import get_session

    try:
        return bool(get_session().head(endpoint(), timeout=5).status_code)
    except Exception as error:
        if not is_network_trouble(error):
            raise
        return False


def stay_offline() -> None:
    """Keep the libraries from asking the Hub again in this process, once everything needed is in the cache.

    PEFT looks up the base model's config at every save, and transformers looks for an adapter at every load; without
    a network each of these requests is retried for half a minute.
    """
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


@contextmanager
def online() -> Iterator[None]:
    """Undo `stay_offline` inside the block."""
    from huggingface_hub import constants

    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


@contextmanager
def hub_errors(what: str, revision: str | None = None, flaw: str = "is not in the cache") -> Iterator[None]:
    """Turn the Hub libraries' exceptions for a bad name, folder or network into a UserError that says what to do.

    `flaw` says why the cache cannot stand in for a Hub that cannot be reached.
    """
    from huggingface_hub import errors
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        chain = list(causes(error))

        def first(*kinds: type[BaseException]) -> Any:
            return next((cause for cause in chain if isinstance(cause, kinds)), None)

        at = f" at revision {revision}" if revision else ""
        once, kind = f"once{FETCH_ADVICE}, or use a local folder or file", UserError
        answer = first(errors.HfHubHTTPError)
        if first(errors.GatedRepoError):
            message = f"{what} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account"
        elif first(errors.RevisionNotFoundError):
            message = f"{what} has no revision {revision} on {endpoint()}: check the revision, or leave it out"
        elif first(errors.RepositoryNotFoundError, errors.HFValidationError):
            message = f"no {what} on {endpoint()}: check the name, or set HF_TOKEN if it is private"
        elif answer and not is_network_trouble(answer):
            status = f"{answer.response.status_code} {answer.response.reason_phrase}"
            message = f"{endpoint()} answered {status} for {what}{at}: check HF_TOKEN and HF_ENDPOINT"
        elif first(errors.OfflineModeIsEnabled):
            kind = NotHereError
            message = f"cannot reach the Hub in offline mode, and {what}{at} {flaw}; unset HF_HUB_OFFLINE {once}"
        elif any(map(is_network_trouble, chain)):
            kind, trouble = NotHereError, first(UnreachableError)
            why = f" ({trouble})" if trouble else ""
            message = f"cannot reach {endpoint()}{why}, and {what}{at} {flaw}; connect {once}"
        elif isinstance(error, (OSError, ValueError, RuntimeError, KeyError, SafetensorError)):
            detail = str(error).splitlines()
            message = f"cannot load {what}{at}: {detail[0] if detail else type(error).__name__}"
        else:
            raise
        raise kind(without_secrets(message)) from error


def _look_in_cache(kind: Kind, name: str, revision: str | None) -> tuple[Path | None, str]:
    """`(folder, "")` of a repository that can be loaded from the cache, else `(None, why not)`."""
    from huggingface_hub import errors

    try:
        folder = _download(kind, name, revision, from_cache=True)
    except (errors.LocalEntryNotFoundError, FileNotFoundError) as error:
        is_there = hasattr(error, "snapshot_path")
        return None, "is only partly in the cache" if is_there else "is not in the cache"
    if damaged := _damaged(kind, folder):
        return None, f"is damaged in the cache ({', '.join(map(str, damaged))})"
    if missing := _missing(kind, folder):
        return None, f"is only partly in the cache, without {missing}"
    return folder, ""


def _missing(kind: Kind, folder: Path) -> str:
    """Files that a snapshot lacks and cannot be loaded without; empty if it is complete."""
    if kind == "dataset":
        has_rows = any(any(folder.rglob(pattern)) for pattern in FILES["dataset"] if pattern != "README.md")
        return "" if has_rows else "data files (Parquet, JSON or CSV)"
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return "" if (folder / "adapter_model.safetensors").is_file() else "adapter_model.safetensors"
    index = folder / "model.safetensors.index.json"
    weights = {"model.safetensors"}
    if index.is_file():
        weights = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    missing = [file for file in ("config.json", *sorted(weights)) if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in ("tokenizer_config.json", "tokenizer.json")):
        missing.append("tokenizer_config.json")
    return ", ".join(missing)


def _damaged(kind: Kind, folder: Path) -> list[Path]:
    files = (file for pattern in FILES[kind] for file in sorted(folder.rglob(pattern)))
    return [file for file in files if file.is_symlink() and not _is_intact(file)]


def _is_intact(file: Path) -> bool:
    """True if the blob that a file of the cache links to has the hash it is named after.

    The Hub names large files by their SHA-256 and the others by their git id. A cache without links has no names to
    compare with.
    """
    expected = Path(os.readlink(file)).name
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
        return True
    if not file.is_file():
        return False
    return content_hash(file.resolve(), is_git=len(expected) == 40) == expected


def content_hash(file: Path, *, is_git: bool) -> str:
    """The SHA-256 of a file's content, by which the Hub names large files, or git's id of it, for the others."""
    status = file.stat()
    return _hash(file, status.st_size, status.st_mtime_ns, is_git=is_git)


@cache  # a run asks for its model several times; size and time of change identify the content of a blob
def _hash(blob: Path, size: int, changed_ns: int, *, is_git: bool) -> str:
    start = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if is_git else hashlib.sha256()
    with blob.open("rb") as content:
        return hashlib.file_digest(content, lambda: start).hexdigest()


def _commit(kind: Kind, name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    ask: Any = api.model_info if kind == "model" else api.dataset_info
    return ask(name, revision=revision).sha


def _fetch(kind: Kind, name: str, revision: str | None) -> Path:
    """Download what the cache lacks, and once more what is damaged in the cache or on arrival.

    `revision` may be a branch: the cache remembers its commit, and can look it up without a network.
    """
    for is_last in (False, True):
        with retrying(WAITS):
            folder = _download(kind, name, revision)
        damaged = _damaged(kind, folder)
        if not damaged:
            break
        for file in damaged:
            for path in (file.resolve(), file.parent / os.readlink(file), file):  # a blob may be a link itself
                path.unlink(missing_ok=True)
        wrong = f"{kind} {name}: wrong hash of {', '.join(file.relative_to(folder).as_posix() for file in damaged)}"
        if is_last:
            raise UserError(f"{wrong}, downloaded again from {endpoint()}; try later, or another HF_ENDPOINT")
        Console().note(f"{wrong}; downloading again")
    if missing := _missing(kind, folder):
        raise UserError(f"{kind} {name} at revision {folder.name} has no {missing}, which it cannot be loaded without")
    return folder


def _download(kind: Kind, name: str, revision: str | None, *, from_cache: bool = False) -> Path:
    """The snapshot folder; with `from_cache` complete only if it holds everything a download would fetch."""
    from huggingface_hub import constants, snapshot_download

    constants.HF_HUB_DISABLE_XET = True  # its own client ignores our retry policy and retries silently for minutes
    return Path(
        snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            allow_patterns=FILES[kind],
            local_files_only=from_cache,
            max_workers=1,  # one message at a time
        )
    )


def endpoint() -> str:
    from huggingface_hub import constants

    return without_secrets(constants.ENDPOINT)


def is_network_trouble(error: BaseException) -> bool:
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in RETRY_STATUS
    known = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    # the HTTP client is httpx in one major version of huggingface_hub and httpx2 in the next
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, known) or package in ("httpx", "httpx2", "httpcore", "httpcore2")


def causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
