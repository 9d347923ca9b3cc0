"""Rollouts by plain `transformers` generation: the reference for the engine, and its fallback."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tiny_math_solver.models.ends import causal_lm, eos_ids
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.rollouts.rollout import OnDone, Rollout, refuse_unknown_ids
from tiny_math_solver.rollouts.sampling import Sampling, draw, uniforms
from tiny_math_solver.rollouts.scheduler import Request, requests_of
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.device import forked_rng


class ReferenceRollouts:
    """Generate with a transformers model, with or without a PEFT adapter.

    The weights are the model's own, not a copy, so rollouts always come from the current policy.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int | BatchSize = 128,
        stop_strings: Sequence[str] = (),
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        self.eos_ids = eos_ids(model, tokenizer)
        self.stop_strings = tuple(stop_strings)

    @property
    def endings(self) -> Endings:
        return Endings(self.tokenizer, self.eos_ids, self.stop_strings)

    def generate(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        sampling: Sampling,
        *,
        logprobs: bool = False,
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """`samples` completions of every prompt, in the order of the prompts."""
        refuse_unknown_ids(prompts, self.model.get_input_embeddings().weight.shape[0], self.tokenizer)
        # prompts of similar length share a batch, since padding costs time
        requests = sorted(requests_of(prompts, samples), key=lambda request: len(request.prompt.ids))
        with self._policy() as model, forked_rng(self.model.device):
            if requests:
                torch.manual_seed(_common_seed(requests, sampling.seed))
            for start in range(0, len(requests), self.batch_size.value):
                chosen = requests[start : start + self.batch_size.value]
                for request, rollout in zip(
                    chosen, self._generate_batch(model, chosen, sampling, logprobs), strict=True
                ):
                    request.rollout = rollout
                    if on_done:
                        on_done(request.index, rollout)
        return [r.rollout for r in sorted(requests, key=lambda r: r.index)]  # type: ignore[misc]

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """One completion's token ids, all at once."""
        (rollout,) = self.generate([Prompt(prompt_ids, 0)], 1, sampling)
        yield rollout.completion_ids

    @contextmanager
    def _policy(self) -> Iterator[Any]:
        """The model in evaluation mode (LoRA dropout off) and without its own generation settings."""
        inner = causal_lm(self.model)
        was_training, own_settings = self.model.training, inner.generation_config
        self.model.eval()
        # generate() takes settings that a call leaves unset from here, such as Qwen's top_k 20, repetition_penalty 1.1
        inner.generation_config = GenerationConfig()
        try:
            with torch.inference_mode():
                yield inner
        finally:
            inner.generation_config = own_settings
            self.model.train(was_training)

    def _generate_batch(
        self, model: Any, requests: Sequence[Request], sampling: Sampling, logprobs: bool
    ) -> list[Rollout]:
        rows = [request.prompt.ids for request in requests]
        pad, longest = self.tokenizer.pad_token_id, max(map(len, rows))
        input_ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
        stops = [_AtText(self.endings, longest)] if self.stop_strings else []
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=self._settings(sampling),
            stopping_criteria=StoppingCriteriaList(stops),
            logits_processor=LogitsProcessorList(_draws(requests, longest, sampling)),
        )
        completions = [self._until_end(ids) for ids in output[:, longest:].tolist()]
        scores = self._logprobs(model, rows, [c for c, _ in completions], sampling) if logprobs else [None] * len(rows)
        return [
            Rollout(row, ids, finished, score)
            for row, (ids, finished), score in zip(rows, completions, scores, strict=True)
        ]

    def _settings(self, sampling: Sampling) -> GenerationConfig:
        chosen: dict[str, Any] = {
            "max_new_tokens": sampling.max_new_tokens,
            "do_sample": _by_transformers(sampling),
            "repetition_penalty": sampling.repetition_penalty,
            "eos_token_id": self.eos_ids,
            "pad_token_id": self.tokenizer.pad_token_id,
            "use_cache": True,
            "disable_compile": True,
        }
        if _by_transformers(sampling):
            chosen |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
            chosen["min_p"] = sampling.min_p
        return GenerationConfig(**(chosen | sampling.extra))

    def _until_end(self, ids: list[int]) -> tuple[list[int], bool]:
        """The completion without the padding behind it, and True if it ended by itself."""
        for position, token in enumerate(ids):
            if token in self.eos_ids:
                ids = ids[: position + 1]
                break
        endings = self.endings
        ids = ids[: endings.at_text(ids)]
        return ids, endings.finished(ids)

    def _logprobs(
        self, model: Any, rows: list[list[int]], completions: list[list[int]], sampling: Sampling
    ) -> list[list[float]]:
        """Log-probabilities at the sampling temperature, by one forward pass per completion."""
        scores = []
        for row, completion in zip(rows, completions, strict=True):
            ids = torch.tensor([row + completion], device=model.device)
            logits = model(ids).logits[0, len(row) - 1 : -1].float() / (sampling.temperature or 1.0)  # [T, V]
            chosen = torch.tensor(completion, device=model.device).unsqueeze(1)
            scores.append(logits.log_softmax(-1).gather(1, chosen).squeeze(1).tolist())
        return scores


def _by_transformers(sampling: Sampling) -> bool:
    """True if settings that only transformers knows cut the distribution: then it draws too."""
    return bool(sampling.extra) and not sampling.greedy


def _common_seed(requests: Sequence[Request], seed: int) -> int:
    """The seed where transformers draws for all rows in turn: of all that are asked, or processes would draw alike."""
    text = f"{seed}/{[(request.prompt.ids, request.sample) for request in requests]}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _draws(requests: Sequence[Request], prompt: int, sampling: Sampling) -> list[LogitsProcessor]:
    """What draws the tokens of the rows, after `prompt` tokens each; nothing where transformers does."""
    if sampling.greedy or _by_transformers(sampling):
        return []
    rows = [uniforms(r.prompt.ids, r.sample, sampling.seed, sampling.max_new_tokens) for r in requests]
    return [_Draw(torch.from_numpy(np.stack(rows)), prompt, sampling)]


class _Draw(LogitsProcessor):
    """Draws by the `uniform` numbers `[B, T]`, as the engine does, and leaves no other token to choose."""

    def __init__(self, uniform: Tensor, prompt: int, sampling: Sampling):
        self.uniform, self.prompt, self.sampling = uniform, prompt, sampling

    def __call__(self, input_ids: Any, scores: Any) -> Tensor:
        uniform = self.uniform[:, input_ids.shape[1] - self.prompt].to(scores.device)
        tokens, _ = draw(scores, uniform, self.sampling)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class _AtText(StoppingCriteria):
    """Ends the rows whose completion, after `prompt` tokens, holds a stop string."""

    def __init__(self, endings: Endings, prompt: int):
        self.endings, self.prompt = endings, prompt

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Tensor:
        rows = input_ids[:, self.prompt :].tolist()
        stopped = [self.endings.at_text(ids, len(ids) - 1) is not None for ids in rows]
        return torch.tensor(stopped, device=input_ids.device)
