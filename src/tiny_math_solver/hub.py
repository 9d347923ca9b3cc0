"""The Hugging Face Hub: pinned revisions, downloads, and its many exceptions as one clear line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tiny_math_solver.errors import UserError

if TYPE_CHECKING:
    from tiny_math_solver.config import Config

# What a bare name stands for: the commits this package was written against.
PINNED_REVISIONS = {
    "Qwen/Qwen2.5-0.5B-Instruct": "7ae557604adf67be50417f59c2c2f167def9a775",
    "openai/gsm8k": "740312add88f781978c0658806c59bc2815b9866",
}


def pinned(name: str, revision: str | None = None) -> str | None:
    """The commit to load `name` at: the one asked for, else the pinned one, else None (its main branch)."""
    return revision or PINNED_REVISIONS.get(name)


@contextmanager
def hub_errors(what: str, revision: str | None) -> Iterator[None]:
    """Turn whatever the Hub libraries raise inside into a UserError that says what to do."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{what}{at} is gated: accept its terms on {endpoint}, then set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{what} has no revision {revision} on {endpoint}") from error
    except (errors.RepositoryNotFoundError, DatasetNotFoundError) as error:
        raise UserError(f"no {what}{at} on {endpoint}: check the name, or set HF_TOKEN if it is private") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise UserError(_unreachable(what, at, endpoint)) from error
    except (OSError, ValueError, RuntimeError, errors.HfHubHTTPError) as error:
        for cause in _causes(error):
            if isinstance(cause, errors.RevisionNotFoundError):
                raise UserError(f"{what} has no revision {revision} on {endpoint}") from error
            if isinstance(cause, errors.RepositoryNotFoundError):
                raise UserError(f"no {what}{at} on {endpoint}: check the name, or set HF_TOKEN") from error
            if isinstance(cause, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
                raise UserError(_unreachable(what, at, endpoint)) from error
        raise UserError(
            f"cannot load {what}{at}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _unreachable(what: str, at: str, endpoint: str) -> str:
    return (
        f"cannot reach {endpoint} for {what}{at}, and it is not in the cache; "
        "connect once (tiny-math fetch CONFIG fills the cache), or use a local folder or file"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def fetch(config: "Config") -> Iterator[str]:
    """Download a config's model and dataset into the Hub cache, loading neither; yields a line for each."""
    from pathlib import Path

    from huggingface_hub import snapshot_download

    wanted = [("model", config.model.name, config.model.revision)]
    wanted.append(("dataset", config.problems.source, config.problems.revision))
    for kind, name, revision in wanted:
        if name == "embedded" or Path(name).exists():
            yield f"{kind} {name}: nothing to download"
            continue
        with hub_errors(f"{kind} {name}", revision):
            # one format of the weights is enough: safetensors
            unwanted = ["*.bin", "*.pt", "*.h5", "*.msgpack", "*.onnx", "*.gguf"]
            folder = snapshot_download(name, repo_type=kind, revision=revision, ignore_patterns=unwanted)
        yield f"{kind} {name} at {revision or 'main'}: {folder}"
