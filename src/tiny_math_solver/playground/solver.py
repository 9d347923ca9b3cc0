"""One question to a model: the completion as it is generated, its answer, and a vote of several samples."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from tiny_math_solver.evaluation.prompt_settings import PromptSettings
from tiny_math_solver.grading import Graded
from tiny_math_solver.grading.rewards import as_text
from tiny_math_solver.models.load import LoadedModel
from tiny_math_solver.prompts import Prompt, encode_prompt
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, Rollouts, Sampling

VOTE_TEMPERATURE = 0.8  # of the samples in a vote, unless another is given


@dataclass(frozen=True)
class Vote:
    """The count of every answer among `samples` samples, most frequent first; samples without one do not vote."""

    counts: list[tuple[str, int]]
    samples: int

    def __str__(self) -> str:
        """Who wins, or that none does, then the others and the samples that do not vote."""
        silent = self.samples - sum(count for _, count in self.counts)
        if not self.counts:
            return f"none of {self.samples} samples has an answer"
        most = self.counts[0][1]
        *others, last = (answer for answer, count in self.counts if count == most)
        if others:
            parts = [f"{', '.join(others)} and {last} tie with {_votes(most)} each"]
        else:
            parts = [f"{last} wins with {_votes(most)} of {self.samples}"]
        parts += [f"{answer} has {count}" for answer, count in self.counts if count < most]
        if silent:
            parts.append(f"{silent} of {self.samples} without an answer")
        return "; ".join(parts)


def _votes(count: int) -> str:
    return "1 vote" if count == 1 else f"{count} votes"


class Stream:
    """A completion piece by piece; behind the last one, all of its text, and whether it ended by itself."""

    def __init__(self, pieces: Generator[str, None, bool]):
        self._pieces = pieces
        self.text, self.is_finished = "", False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except StopIteration as end:
            self.is_finished = bool(end.value)
            raise
        self.text += piece
        return piece

    def close(self) -> None:
        """End it here: the model is free for another question."""
        self._pieces.close()


class Solver:
    """A loaded model with its prompt settings; answers one question at a time, from any thread.

    `about` is a sentence on what the model knows, or empty; `doubt` says of a question what is beyond that, or nothing.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        rollouts: Rollouts,
        settings: PromptSettings,
        grader: Grader,
        about: str = "",
        doubt: Callable[[str], str] = lambda question: "",
    ):
        self.loaded, self.rollouts, self.settings, self.grader = loaded, rollouts, settings, grader
        self.about, self.doubt = about, doubt
        self._busy = threading.Lock()
        if isinstance(rollouts, EngineRollouts):
            loaded.model.requires_grad_(False)  # or the engine would copy the weights anew for every question

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.loaded.model, "disable_adapter")

    def stream(self, question: str, temperature: float = 0.0, seed: int = 0, base: bool = False) -> Stream:
        """The completion, piece by piece as it is generated; with `base`, by the model without its adapter."""
        return Stream(self._pieces(question, temperature, seed, base))

    def _pieces(self, question: str, temperature: float, seed: int, base: bool) -> Generator[str, None, bool]:
        endings, sampling = self.rollouts.endings, Sampling(self.settings.max_new_tokens, temperature, seed=seed)
        held = max((len(text) - 1 for text in endings.texts), default=0)  # may be the start of a stop string
        ids: list[int] = []
        shown = ""
        with self._busy, self._policy(base):
            for made in self.rollouts.stream(self._prompt_ids(question), sampling):
                ids += made
                text = endings.text(ids)
                if text.endswith("\ufffd"):  # ends within a character
                    continue
                text = text[: max(0, len(text) - held)]
                if len(text) > len(shown):
                    yield text[len(shown) :]
                    shown = text
        rest = endings.text(ids)[len(shown) :]
        if rest:
            yield rest
        return endings.finished(ids)

    def read(self, question: str, text: str, gold: str | None = None) -> Graded:
        """The completion, graded; without a gold it has an answer, and is never correct."""
        return self.grader.grade(as_text(self._messages(question)), text, gold)

    def vote(self, question: str, samples: int, temperature: float, seed: int = 0, base: bool = False) -> Vote:
        """The vote of `samples` completions, at VOTE_TEMPERATURE if `temperature` is 0."""
        sampling = Sampling(self.settings.max_new_tokens, temperature or VOTE_TEMPERATURE, seed=seed)
        with self._busy, self._policy(base):
            made = self.rollouts.generate([Prompt(self._prompt_ids(question), 0)], samples, sampling)
        texts = [self.rollouts.endings.text(r.completion_ids) for r in made]
        answers = [self.read(question, text).answer for text in texts]
        return Vote(Counter(answer for answer in answers if answer is not None).most_common(), samples)

    def _messages(self, question: str) -> list[dict[str, str]]:
        return self.settings.prompt.messages(question)

    def _prompt_ids(self, question: str) -> list[int]:
        return encode_prompt(self.loaded.tokenizer, self._messages(question), self.settings.prompt)

    def _policy(self, base: bool) -> Any:
        """The context in which the model runs: without its adapter if `base`, else as it is."""
        return self.loaded.model.disable_adapter() if base and self.has_adapter else contextlib.nullcontext()
