"""Evaluations of a model before training, kept beside the runs: the next run from the same model skips them.

An entry is found by a hash of everything that shapes it: the weights as they lie in memory, the prompts as token ids,
gold answers, sampling, what ends a completion, device and threads, the versions of the libraries and the sources of
this package. A changed byte of any of them is another hash, so no entry is ever out of date; one that is damaged is
ignored and written anew.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from tiny_math_solver.evaluation.evaluate import Evaluation, completions_of, evaluate
from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.models.quantized import stored_tensors
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import PromptFormat, encode_prompt
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, Rollouts
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.device import device_name
from tiny_math_solver.support.files import write_whole

FOLDER, MOST_ENTRIES = ".before-tests", 16
GREEDY = ("prompt", "max_new_tokens", "grader")  # of an evaluation without samples
LONG = 60  # seconds of an evaluation, beyond which the setting that shortens it is named
LIBRARIES = ("torch", "transformers", "peft", "tokenizers")


class KeptEvaluations:
    """Entries in `.before-tests` beside the run folder, the newest MOST_ENTRIES of them."""

    def __init__(self, run: Path):
        self.folder = run.absolute().parent / FOLDER

    def find(self, rollouts: Rollouts, problems: Sequence[Problem], ask: dict[str, Any]) -> "Entry":
        """The place of `evaluate(rollouts, problems, **ask)`, whether it is there or not."""
        key = fingerprint(rollouts, problems, ask)
        return Entry(self.folder / f"{key[:32]}.json", key, [problem.id for problem in problems])


@dataclass(frozen=True)
class Evaluator:
    """`evaluate` with a line before it and a bar meanwhile; with `kept` it recalls what an earlier run has answered.

    `seconds` estimates the time of so many completions; None where that is not known. `taken` has the seconds of each
    evaluation by its name, None of one that was recalled.
    """

    console: Console
    seconds: Callable[[int], float | None]
    kept: KeptEvaluations | None = None
    written: set[str] = field(default_factory=set)  # keys of evaluations that were made beside others
    taken: dict[str, float | None] = field(default_factory=dict)

    def evaluate(
        self,
        name: str,
        rollouts: Rollouts,
        problems: Sequence[Problem],
        ask: dict[str, Any],
        advice: str = "",
        also: Sequence[Problem] = (),
    ) -> Evaluation:
        """`evaluate(rollouts, problems, **ask)`, called `name` in the line, to which a long one adds the `advice`.

        The problems `also` are answered greedily together with these, which takes less time than one after the other,
        and kept: whoever evaluates them next finds them.
        """
        entry, known, other = processes.on_main(lambda: self._recalled(rollouts, problems, ask, also))
        what = f"{name}: {len(problems):,} problem{'s' * (len(problems) != 1)}"
        if entry and known is not None:
            if entry.key not in self.written:  # else it was answered with others, in this run
                self.console.say(f"{what}, already answered by the same model ({entry.path})")
            self.taken[name] = None
            return known
        also = also if other else ()
        sampled = min(len(problems), ask.get("sampled_problems", len(problems)))
        count = len(also) + completions_of(len(problems), ask.get("samples", 0), sampled)
        seconds = self.seconds(count)
        what += f" and {len(also):,} of dev" * bool(also) + f" (shorter with {advice})" * (
            bool(advice) and (seconds or 0) > LONG
        )
        started = perf_counter()
        with self.console.part(what, count, seconds) as advance:
            whole = evaluate(rollouts, [*problems, *also], **(ask | {"sampled_problems": sampled}), on_done=advance)
        self.taken[name] = perf_counter() - started
        result = Evaluation(whole.greedy[: len(problems)], whole.sampled, whole.samples)
        if entry:
            entry.write(result)
        if other:
            other.write(Evaluation(whole.greedy[len(problems) :]))
            self.written.add(other.key)
        return result

    def seconds_of(self, when: str) -> float | None:
        """Seconds of all tests `before` or `after` training; None unless each was answered here and now."""
        taken = [seconds for name, seconds in self.taken.items() if name.startswith(f"{when}-test")]
        return sum(filter(None, taken)) if taken and None not in taken else None

    def _recalled(
        self, rollouts: Rollouts, problems: Sequence[Problem], ask: dict[str, Any], also: Sequence[Problem]
    ) -> "tuple[Entry | None, Evaluation | None, Entry | None]":
        """The entry of `problems`, what it holds, and, if that is nothing, the entry of `also` that is to be made."""
        entry = self.kept.find(rollouts, problems, ask) if self.kept else None
        known = entry.read() if entry else None
        return entry, known, self._missing(rollouts, also, ask) if known is None else None

    def _missing(self, rollouts: Rollouts, problems: Sequence[Problem], ask: dict[str, Any]) -> "Entry | None":
        """The entry of a greedy evaluation of `problems` that is still to be made; None if there is nothing to make."""
        if not self.kept or not problems:
            return None
        entry = self.kept.find(rollouts, problems, {key: ask[key] for key in GREEDY})
        return entry if entry.read() is None else None


class Entry:
    """The file of one evaluation of the problems `ids`."""

    def __init__(self, path: Path, key: str, ids: list[str]):
        self.path, self.key, self.ids = path, key, ids

    def read(self) -> Evaluation | None:
        """The evaluation; None if there is none or it is not what was written."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["key"] != self.key or content["sha256"] != _hash_of(content["rows"]):
                return None
            found = Evaluation.from_rows(content["rows"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return found if [record.id for record in found.greedy] == self.ids else None

    def write(self, evaluation: Evaluation) -> None:
        """Keep the evaluation, and delete the oldest entries; a folder that cannot be written is left alone."""
        if not processes.is_main():
            return
        rows = list(evaluation.rows())
        with contextlib.suppress(OSError):
            write_whole(self.path, json.dumps({"key": self.key, "sha256": _hash_of(rows), "rows": rows}))
            entries = sorted(self.path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
            for old in entries[MOST_ENTRIES:]:
                old.unlink(missing_ok=True)


def _hash_of(rows: Any) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def fingerprint(rollouts: Rollouts, problems: Sequence[Problem], ask: dict[str, Any]) -> str:
    """A hash of everything that shapes `evaluate(rollouts, problems, **ask)`."""
    prompt: PromptFormat = ask["prompt"]
    grader: Grader = ask["grader"]
    asked = [encode_prompt(rollouts.tokenizer, prompt.messages(problem.question), prompt) for problem in problems]
    sampling, endings = ask.get("sampling"), rollouts.endings
    model: Any = rollouts.model
    device = next(model.parameters()).device.type
    parts = [
        _sources(),
        {name: metadata.version(name) for name in LIBRARIES},
        [device, device_name(device), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        [type(rollouts).__name__, rollouts.backend if isinstance(rollouts, EngineRollouts) else "", os.name],
        [rollouts.batch_size.value, sorted(endings.ids), list(endings.texts)],
        [[problem.id, problem.question, problem.answer] for problem in problems],
        asked,
        {name: value for name, value in ask.items() if name not in ("prompt", "sampling", "grader")},
        grader.identity,
        sampling and asdict(sampling),
        causal_lm(model).config.to_json_string(),
        policy_hash(model),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def policy_hash(model: Any) -> str:
    """A hash of the names and bytes of all weights but LoRA pairs that add nothing: their first matrix is random."""
    digest, idle, seen = hashlib.sha256(), set(), set()
    for module in model.modules():
        for name, second in getattr(module, "lora_B", {}).items():
            if not bool(second.weight.any()):
                idle |= {id(part) for part in (*module.lora_A[name].parameters(), *second.parameters())}
            else:
                digest.update(f"{name} {module.scaling[name]}".encode())
    for name, whole in (*model.named_parameters(), *model.named_buffers()):
        if id(whole) in idle or id(whole) in seen:
            continue
        seen.add(id(whole))
        tensor: Any
        for tensor in stored_tensors(whole):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@cache
def _sources() -> str:
    """A hash of this package's sources."""
    digest = hashlib.sha256()
    root = Path(str(resources.files("tiny_math_solver")))
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cpp", ".h")):
        digest.update(f"{path.relative_to(root).as_posix()} ".encode() + path.read_bytes())
    return digest.hexdigest()
