"""The Hugging Face Hub: pinned revisions, the cache, and its many exceptions as one clear line.

Everything is fetched here, by commit, before a library loads it with `local_files_only`. Left to themselves the
libraries retry an unreachable Hub for minutes, and `datasets` then takes whatever revision lies in the cache.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tiny_math_solver.errors import UserError

# What a bare name stands for: the commits this package was written against.
PINNED_REVISIONS = {
    "Qwen/Qwen2.5-0.5B-Instruct": "7ae557604adf67be50417f59c2c2f167def9a775",
    "openai/gsm8k": "740312add88f781978c0658806c59bc2815b9866",
}
PROBE_SECONDS = 10
WEIGHTS_OF_OTHER_FRAMEWORKS = ["*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.tflite"]
Kind = Literal["model", "dataset"]


def pinned(name: str, revision: str | None = None) -> str | None:
    """The commit to load `name` at: the one asked for, else the pinned one, else None (its main branch)."""
    return revision or PINNED_REVISIONS.get(name)


def snapshot(kind: Kind, name: str, revision: str | None = None) -> Path:
    """The folder of a repository in the Hub cache, downloaded first where it is not there yet.

    A commit that is in the cache needs no network; a branch is looked up, and taken from the cache where the Hub
    cannot be reached. Raises UserError for a missing, gated or unreachable repository.
    """
    from huggingface_hub import constants

    revision = pinned(name, revision)
    cached = _cached(kind, name, revision)
    if cached is not None and (constants.HF_HUB_OFFLINE or cached.name == revision):
        return cached
    with hub_errors(f"{kind} {name}", revision):
        try:
            commit = _commit(kind, name, revision)
        except Exception as error:
            if cached is not None and _is_network_trouble(error):
                return cached
            raise
        return _download(kind, name, commit)


def _download(kind: Kind, name: str, revision: str | None, *, from_cache: bool = False) -> Path:
    """One set of patterns for both ways: the cache is complete if it holds what a download would fetch."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            ignore_patterns=WEIGHTS_OF_OTHER_FRAMEWORKS,
            local_files_only=from_cache,
        )
    )


def stay_offline() -> None:
    """Keep the libraries from asking the Hub again in this process, once all that is needed is in the cache.

    PEFT looks up the base's config at every save, transformers an adapter at every load; without a network each
    look-up is retried for half a minute.
    """
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


@contextmanager
def hub_errors(what: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the Hub libraries raise for a bad name, folder or network into a UserError that says what to do."""
    from huggingface_hub import errors
    from safetensors import SafetensorError

    at = f" at revision {revision}" if revision else ""
    endpoint = os.environ.get("HF_ENDPOINT", "the Hugging Face Hub")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        chain = list(_causes(error))

        def among(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in chain)

        if among(errors.GatedRepoError):
            message = f"{what} is gated: accept its terms on its page, then set HF_TOKEN"
        elif among(errors.RevisionNotFoundError):
            message = f"{what} has no revision {revision} on {endpoint}"
        elif among(errors.RepositoryNotFoundError, errors.HFValidationError):
            message = f"no {what} on {endpoint}: check the name, or set HF_TOKEN if it is private"
        elif any(map(_is_network_trouble, chain)):
            message = (
                f"cannot reach {endpoint} for {what}{at}, which is not in the cache; connect once "
                "(tiny-math fetch CONFIG fills the cache), or use a local folder or file"
            )
        elif isinstance(error, (OSError, ValueError, RuntimeError, KeyError, SafetensorError)):
            detail = str(error).splitlines()
            message = f"cannot load {what}{at}: {detail[0] if detail else type(error).__name__}"
        else:
            raise
        raise UserError(message) from error


def _cached(kind: Kind, name: str, revision: str | None) -> Path | None:
    """What the cache holds of a repository, if that is enough to load it."""
    from huggingface_hub import errors

    try:
        folder = _download(kind, name, revision, from_cache=True)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError):
        return None
    if kind == "dataset":
        return folder if any(folder.rglob("*.parquet")) or any(folder.rglob("*.jsonl")) else None
    needed = {"config.json", "tokenizer_config.json"} | _weight_files(folder)
    return folder if all((folder / file).is_file() for file in needed) else None


def _weight_files(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return {"model.safetensors"}
    return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())


def _commit(kind: Kind, name: str, revision: str | None) -> str:
    """Ask the Hub once, without the libraries' minutes of retries, which commit `revision` is."""
    from huggingface_hub import HfApi

    api = HfApi()
    ask: Any = api.model_info if kind == "model" else api.dataset_info
    return ask(name, revision=revision, timeout=PROBE_SECONDS).sha


def _is_network_trouble(error: BaseException) -> bool:
    from huggingface_hub import errors

    if isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError)):
        return isinstance(error, errors.LocalEntryNotFoundError)
    known = (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, ConnectionError, TimeoutError)
    # the HTTP client is httpx in one major version of huggingface_hub and httpx2 in the next
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, known) or package in ("httpx", "httpx2", "httpcore", "httpcore2")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
