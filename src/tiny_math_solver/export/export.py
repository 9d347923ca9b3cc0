"""A trained model → a folder with a GGUF file that is proved to answer as it does, and Ollama's Modelfile."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tiny_math_solver.evaluation.evaluate import Evaluation, evaluate
from tiny_math_solver.evaluation.prompt_settings import PromptSettings
from tiny_math_solver.evaluation.statistics import Paired
from tiny_math_solver.export.gguf_file import Exported, write_gguf
from tiny_math_solver.export.llama_cpp import LlamaCpp, LlamaCppRollouts, find_llama_cpp
from tiny_math_solver.export.modelfile import frame_of, modelfile
from tiny_math_solver.models.ends import eos_ids
from tiny_math_solver.models.load import load_model
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import encode_prompt, self_contained_template, turn_end
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import Rollouts, make_rollouts
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.support.errors import EXIT_PROOF_FAILED, UserError
from tiny_math_solver.support.files import write_text
from tiny_math_solver.support.progress import Advance

WEIGHT_GAPS = {
    "f32": 0.0,
    "f16": 1e-3,
    "q8_0": 0.02,
    "q4_k_m": 0.15,
}  # of a weight's root mean square, that rounding explains


class ProofFailedError(UserError):
    """The exported file does not answer as the model does."""

    exit_code = EXIT_PROOF_FAILED


@dataclass(frozen=True)
class Proof:
    """The model and the file made of it on the same problems; `by` says which program answered with the file."""

    by: str
    before: Evaluation
    after: Evaluation

    @property
    def same_answers(self) -> int:
        """Completions without an answer are compared as text."""
        pairs = zip(self.before.greedy, self.after.greedy, strict=True)
        return sum((a.answer or a.completion) == (b.answer or b.completion) for a, b in pairs)

    @property
    def paired(self) -> Paired:
        return self.after.against(self.before)

    @property
    def lost(self) -> float:
        """The share of problems by which the file is worse; below 0 where it is better."""
        return (self.paired.broken - self.paired.fixed) / max(1, len(self.after.greedy))


class Export:
    """A model in float32, its adapter merged, with the settings of its run."""

    def __init__(self, name: str, settings: PromptSettings):
        """Loads a model as `load_model` does."""
        loaded = load_model(name, dtype="float32", device="cpu")
        merged = loaded.model.merge_and_unload() if hasattr(loaded.model, "merge_and_unload") else loaded.model
        self.model, self.tokenizer, self.settings = merged, loaded.tokenizer, settings
        if settings.template is not None:
            self.tokenizer.chat_template = settings.template
        self.endings = Endings(self.tokenizer, eos_ids(merged, self.tokenizer), settings.stop_strings)

    def write(self, out: Path, name: str, kind: str) -> Path:
        """Write `out`/NAME-KIND.gguf and a Modelfile.

        Raises UserError for what llama.cpp does not compute, and where `out` cannot be written.
        """
        prompt, end = self.settings.prompt, turn_end(self.tokenizer)
        file = out / f"{name}-{kind}.gguf"
        template = self_contained_template(self.tokenizer, prompt)
        asked = encode_prompt(self.tokenizer, prompt.messages("1 + 1?"), prompt)
        exported = Exported(name, kind, template, asked, end.token if end else None)
        stops = [*(self.tokenizer.decode([i]) for i in sorted(self.endings.ids)), *self.settings.stop_strings]
        limits = self.settings.max_new_tokens, self.model.config.get_text_config().max_position_embeddings
        text = modelfile(file.name, frame_of(self.tokenizer, prompt), prompt.system, stops, limits)
        try:
            write_gguf(file, self.model, self.tokenizer, exported)
            write_text(out / "Modelfile", text)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None
        return file

    def prove(self, file: Path, kind: str, problems: Sequence[Problem], grader: Grader, on_done: Advance) -> Proof:
        """Answer `problems` with the model and with the file, greedily. `on_done` counts the answers of both.

        llama.cpp answers with the file if it is there; else transformers, which reads such files too. Raises
        ProofFailedError where the file's weights are others, or its template and vocabulary make other prompts.
        """

        def answers(rollouts: Rollouts, done: int = 0) -> Evaluation:
            return evaluate(
                rollouts,
                problems,
                prompt=self.settings.prompt,
                max_new_tokens=self.settings.max_new_tokens,
                grader=grader,
                on_done=lambda more: on_done(done + more),
            )

        if run := find_llama_cpp():
            longest = max(len(self._prompt(problem)) for problem in problems)
            with run(file, longest + self.settings.max_new_tokens) as llama:
                self._check_prompts(llama, problems)
                before = answers(self._rollouts(self.model))
                return Proof(llama.name, before, answers(LlamaCppRollouts(llama, self.endings), len(problems)))
        read = _read_back(file)
        _check_weights(self.model, read, WEIGHT_GAPS[kind])
        before = answers(self._rollouts(self.model))
        return Proof("transformers", before, answers(self._rollouts(read), len(problems)))

    def _rollouts(self, model: Any) -> Rollouts:
        return make_rollouts(model, self.tokenizer, stop_strings=self.settings.stop_strings)

    def _prompt(self, problem: Problem) -> list[int]:
        prompt = self.settings.prompt
        return encode_prompt(self.tokenizer, prompt.messages(problem.question), prompt)

    def _check_prompts(self, llama: LlamaCpp, problems: Sequence[Problem]) -> None:
        for problem in problems:
            own = self._prompt(problem)
            theirs = llama.prompt_ids(self.settings.prompt.messages(problem.question))
            if theirs != own:
                pairs = enumerate(zip(own, theirs, strict=False))
                place = next((i for i, pair in pairs if pair[0] != pair[1]), min(len(own), len(theirs)))
                shown = [self.tokenizer.decode(ids[max(0, place - 3) : place + 8]) for ids in (own, theirs)]
                raise ProofFailedError(
                    f"{llama.name} asks in another way than training did: {shown[1]!r} instead of {shown[0]!r} "
                    f"(problem {problem.id})"
                )


def _read_back(file: Path) -> Any:
    """The model in a GGUF file, its weights dequantised to float32. Raises UserError if transformers cannot read it."""
    from transformers import AutoModelForCausalLM

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of tqdm's
            return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    except ValueError as error:  # a family that it reads from other files alone
        raise UserError(
            f"no llama.cpp is there for the proof, and transformers does not read the file ({error}): install "
            "llama.cpp (llama-server), or npm install node-llama-cpp"
        ) from None


def _check_weights(model: Any, read: Any, most: float) -> None:
    own, theirs = model.state_dict(), read.state_dict()
    for name, weight in own.items():
        scale = weight.float().square().mean().sqrt().clamp(min=1e-8)
        gap = ((theirs[name].float() - weight.float()).square().mean().sqrt() / scale).item()
        if not gap <= most:
            raise ProofFailedError(f"{name} was written with an error of {gap:.1%}, which rounding does not explain")
