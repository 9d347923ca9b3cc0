"""Our rollouts as a model of lm-evaluation-harness: text in, text out, as its own model for transformers does it."""

import json
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from transformers import GenerationConfig

from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.prompts import PromptFormat, group_prompts, template_call
from tiny_math_solver.rollouts import Rollouts, Sampling, make_rollouts
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.progress import Advance

MOST_TOKENS = 256  # of a completion, where a task sets no limit: HFLM's own default
SHAPE_GREEDY = ("repetition_penalty", "no_repeat_ngram_size", "num_beams", "min_new_tokens", "suppress_tokens")


class RolloutsLM(LM):
    """Implements `generate_until` for greedy tasks, with the encoding, the limits and the stops of the harness's HFLM.

    `limits` are those of the requests in tokens, `stops` the texts that end completions, `cut` the places of requests
    whose completions reached their limit; `shortened` counts prompts that lost their beginning because model and
    completion leave no room for it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: PromptFormat,
        batch_size: int = 128,
        console: Console | None = None,
        on_done: Advance | None = None,
    ):
        super().__init__()
        self.model, self.tokenizer, self.prompt = model, tokenizer, prompt
        self.batch_size, self.console, self.on_done = BatchSize(batch_size), console, on_done
        self.window = resolve_max_length(model.config, tokenizer)
        self.limits: set[int] = set()
        self.stops: set[str] = set()
        self.cut: set[int] = set()
        self.shortened = self.done = 0

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Raises UserError for tasks that sample, and where a model has no room for completions."""
        alike: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
        texts = [""] * len(requests)
        for settings, places in alike.items():
            made = self._generate([requests[place].args[0] for place in places], json.loads(settings))
            for place, (text, is_finished) in zip(places, made, strict=True):
                texts[place] = text
                if not is_finished:
                    self.cut.add(place)
        return texts

    def _generate(self, contexts: list[str], settings: dict[str, Any]) -> list[tuple[str, bool]]:
        asked = normalize_gen_kwargs(settings, MOST_TOKENS)
        if asked.get("do_sample"):
            raise UserError("this task samples its completions; only greedy tasks are compared")
        limit, stops = asked["max_gen_toks"], handle_stop_sequences(asked.get("until"), eos=None)
        if limit >= self.window:
            raise UserError(
                f"this task asks for up to {limit} tokens, and the model has room for {self.window} with the prompt"
            )
        self.limits.add(limit)
        self.stops.update(stops)
        rollouts = make_rollouts(self.model, self.tokenizer, self.batch_size, console=self.console, stop_strings=stops)
        prompts = group_prompts(self._encode(context, self.window - limit) for context in contexts)
        made = rollouts.generate(prompts, 1, Sampling(limit, temperature=0), on_done=self._count)
        return [(self._text(rollouts, rollout.completion_ids, stops), rollout.finished) for rollout in made]

    def _encode(self, context: str, room: int) -> list[int]:
        is_begun = has_bos_prefix(context, self.tokenizer.bos_token)
        ids = self.tokenizer(context, add_special_tokens=not is_begun)["input_ids"]
        self.shortened += len(ids) > room
        return ids[-room:]

    def _text(self, rollouts: Rollouts, ids: list[int], stops: list[str]) -> str:
        own = ids[:-1] if ids and ids[-1] in rollouts.endings.ids else ids
        text = self.tokenizer.decode(own, skip_special_tokens=True)
        return postprocess_generated_text(text, stops, think_end_token=None)

    def _count(self, *_: Any) -> None:
        self.done += 1
        if self.on_done:
            self.on_done(self.done)

    # -- Chat templates -------------------------------------------------------------------------------------------

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        template, variables = template_call(self.tokenizer, self.prompt)
        return self.tokenizer.apply_chat_template(
            chat_history,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **variables,
        )

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    # -- What greedy completions do not need ----------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        raise NotImplementedError("only tasks of generate_until are asked")

    def loglikelihood_rolling(self, requests: list[Instance]) -> NoReturn:
        raise NotImplementedError("only tasks of generate_until are asked")


def settings_of_its_own(model: Any) -> dict[str, Any]:
    """The settings of a model's generation_config.json with which `lm_eval --model hf` would decode otherwise."""
    own, usual = causal_lm(model).generation_config, GenerationConfig()
    found = {name: getattr(own, name, None) for name in SHAPE_GREEDY}
    return {name: value for name, value in found.items() if value not in (None, getattr(usual, name, None), 0, 1)}
