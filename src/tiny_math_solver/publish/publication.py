"""The files of a run that are published, and no others: weights, tokenizer, card, page, configuration and summary.

Checkpoints, rollouts, metrics, the answers in eval/ and environment.json, which has the command line, stay here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_math_solver.models.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tiny_math_solver.publish.model_card import ModelCard
from tiny_math_solver.publish.shared import Shareable, is_local, name_of, shared_page
from tiny_math_solver.report import REPORT
from tiny_math_solver.runs.records import CONFIG, SUMMARY
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import write_text

CARD = "README.md"
ADAPTER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
MODEL = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
WITH_WEIGHTS = (
    "generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken",
)  # fmt: skip
NAMING = ("base_model_name_or_path", "_name_or_path", "name_or_path", "tokenizer_file")  # fields that may hold a path


@dataclass(frozen=True)
class Publication:
    """Files by their names in the repository; those that are made for it lie in a folder of their own."""

    files: dict[str, Path]

    @property
    def lines(self) -> list[str]:
        """Each file with its size, and the sum."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()}
        width = max(map(len, sizes))
        listed = [f"  {name:<{width}}  {in_bytes(size):>9}" for name, size in sorted(sizes.items())]
        return [*listed, f"  {len(sizes)} files, {in_bytes(sum(sizes.values()))}"]

    def refuse(self, secrets: Sequence[str]) -> None:
        """Raise UserError if one of `secrets` is in a file."""
        for name, path in self.files.items():
            if path.suffix == ".safetensors":
                continue
            content = path.read_bytes()
            if any(secret.encode() in content for secret in secrets if secret):
                raise UserError(f"{path}: holds an access token, so it is not published: take the token out of {name}")


def publication(run: Path, weights: Path, made: Path, card: ModelCard, shareable: Shareable) -> Publication:
    """The files of `run` with the weights in folder `weights`; what is made for it is written into folder `made`.

    Raises UserError where that cannot be written.
    """
    patterns = (*(ADAPTER if card.published.is_adapter else MODEL), *WITH_WEIGHTS)
    files = {path.name: path for pattern in patterns for path in sorted(weights.glob(pattern)) if path.is_file()}
    texts = {name: text for name, path in files.items() if path.suffix == ".json" and (text := _without_paths(path))}
    texts |= {
        CARD: card.text,
        CONFIG: shareable.config_text,
        SUMMARY: json.dumps(card.summary, indent=2, ensure_ascii=False) + "\n",
    }
    if card.published.has_page:
        texts[REPORT] = shared_page(run, shareable)
    try:
        made.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(made / name, text)
    except OSError as error:
        raise UserError(f"{made}: cannot be written ({error.strerror or error}); TMPDIR names another place") from None
    return Publication(files | {name: made / name for name in texts})


def _without_paths(path: Path) -> str:
    """A file's JSON with names in place of local paths, where it has some; else nothing."""
    from tiny_math_solver.config.shipped import shipped_name

    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: damaged, not JSON") from None
    if not isinstance(content, dict):
        return ""
    named = {key: content[key] for key in NAMING if isinstance(content.get(key), str)}
    changed = {key: shipped_name(value) or name_of(value) for key, value in named.items() if is_local(value)}
    return json.dumps(content | changed, indent=2, ensure_ascii=False) + "\n" if changed else ""


def in_bytes(size: int) -> str:
    """A size for people: `1.2 MB`."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
