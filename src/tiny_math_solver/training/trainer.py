"""TRL's GRPOTrainer with our rollouts and our passes over a step's rows, and every completion recorded.

Loss functions, advantages, optimizer and schedule are TRL's own. The seams: `rollout_func`, which TRL offers for
generation; the scored generation batch, which is read (not changed) for the records; `training_step`, which hands
TRL's loss other micro-batches that give the same gradient; and the log-probabilities that the loss asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOConfig

from tiny_math_solver.config.schema import Config
from tiny_math_solver.grading import extract_answer, write_number
from tiny_math_solver.grading.rewards import as_text, correctness_reward, format_reward
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import Prompt, chat_messages, encode_prompt
from tiny_math_solver.rollouts import EngineRollouts, Rollouts, Sampling, make_rollouts
from tiny_math_solver.rollouts.linear import UnsupportedModelError
from tiny_math_solver.rollouts.policy_weights import refuse_unsupported
from tiny_math_solver.rollouts.rollout import causal_lm
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.out_of_memory import with_smaller_parts
from tiny_math_solver.training.live_view import PARTS
from tiny_math_solver.training.resumable import Checkpoints, ResumableGRPOTrainer
from tiny_math_solver.update.kernel_scorer import NativeUpdate, why_not
from tiny_math_solver.update.passes import Batch, completion_logprobs, passes, rows_by_length, trimmed

CHECK_EVERY, CHECK_ROWS = 5, 8  # steps between comparisons of the native passes with the model, and their rows
SCORED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
SAMPLED = "sampling_per_token_logps"  # what TRL calls the rollouts' own log-probabilities


class MathGRPOTrainer(ResumableGRPOTrainer):
    """GRPO on word problems with the two rule-based rewards."""

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        train: list[Problem],
        tokenizer: Any,
        peft_config: Any,
        config: Config,
        run: RunFolder,
        callbacks: list[Any],
        checkpointing: Checkpoints | None = None,
        say: Any = print,
        tell: Callable[[int, str, str], Any] | None = None,
    ):
        from datasets import Dataset

        self.run, self.checkpointing = run, checkpointing
        self.sampling = sampling_of(args)
        self.completions = self.completion_tokens = 0
        self.best_reward = 0.0
        self.rollouts_bytes = config.records.rollouts_mb * 10**6
        self._recording = True
        self.dropped_steps = 0  # in a row, since something was not finite
        self.sizes_asked_for = [config.update.tokens_per_pass, config.rollouts.batch_size]
        self.tell = tell or (lambda step, name, text: say(f"{name}: {text}"))
        self.last_rows: list[dict[str, Any]] = []  # of rollouts.jsonl
        self.extra_metrics: dict[str, float] = {}  # merged into the next logged line
        self.seconds = dict.fromkeys(PARTS, 0.0)  # where the time went since the last one
        self._logged_step = 0
        system = config.prompt.system
        rows = [
            {"prompt": chat_messages(p.question, system), "answer": p.answer, "question": p.question, "id": p.id}
            for p in train
        ]
        rewards: list[Any] = [correctness_reward, format_reward]
        own_backend = args.use_vllm or args.use_transformers_continuous_batching
        super().__init__(
            model=model,
            args=args,
            reward_funcs=rewards,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=callbacks,
            rollout_func=None if own_backend else self._rollout,
        )
        engine, native = config.rollouts.engine, config.rollouts.native
        self.rollouts: Rollouts = make_rollouts(
            self.model, tokenizer, config.rollouts.batch_size, engine, native, self.sampling, say
        )
        if isinstance(self.rollouts, EngineRollouts):
            self.rollouts.on_shrink = self._told_of_rollouts
        self.tokens_per_pass = config.update.tokens_per_pass
        self.finite_loss, self._fresh = True, True  # of the optimizer step under way; which has just begun
        self._window: list[Batch] = []  # micro-batches of the optimizer step under way
        self._update_logprobs = torch.empty(0)  # of the pass under way
        reason = self._no_own_passes() if config.update.own_passes else "update.own_passes is false"
        if reason:
            say(f"update in TRL's own micro-batches: {reason}")
        self.own_passes = not reason
        self.native: NativeUpdate | None = None
        weights = self.rollouts.weights if isinstance(self.rollouts, EngineRollouts) else None
        if weights and weights.kernels and self.own_passes:
            if reason := why_not(weights, self.model):
                say(f"update in torch, not by kernels: {reason}")
            else:
                self.native = NativeUpdate(weights)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update(self.extra_metrics)
        if steps := self.state.global_step - self._logged_step:
            logs.update({f"time/{part}": seconds / steps for part, seconds in self.seconds.items()})
            self._logged_step = self.state.global_step
        self.extra_metrics = {}
        self.seconds = dict.fromkeys(PARTS, 0.0)
        super().log(logs, start_time)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time of what is inside for `part` of a step."""
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started

    def _rollout(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """TRL's generation hook: `prompts` come as chat messages, already repeated once a sample."""
        groups: dict[str, Prompt] = {}
        for messages in prompts:
            if (key := as_text(messages)) not in groups:
                groups[key] = Prompt(encode_prompt(self.processing_class, messages), len(groups))
        asked = [groups[as_text(messages)] for messages in prompts]
        # processes may share a group, so each needs draws of its own, and so does every batch
        batch = self._step * self.accelerator.num_processes + self.accelerator.process_index
        sampling = replace(self.sampling, seed=(self.args.seed << 32) + batch)
        with self.timed("rollout"):
            rollouts = self.rollouts.generate(asked, 1, sampling)
        return {
            "prompt_ids": [prompt.ids for prompt in asked],
            "completion_ids": [r.completion_ids for r in rollouts],
            # TRL carries them along and reads them for vLLM's importance-sampling correction only
            "logprobs": None if rollouts[0].logprobs is None else [r.logprobs for r in rollouts],
        }

    def _told_of_rollouts(self, rows: int) -> None:
        text = f"rollouts go on with {rows} completions at once; lower rollouts.batch_size to save the time"
        self.tell(self.state.global_step + 1, "out of memory", text)

    # -- The update -----------------------------------------------------------------------------------------------

    def _no_own_passes(self) -> str:
        """Why the step's rows cannot be passed through the model in another order than TRL's; empty if they can."""
        if self.accelerator.num_processes > 1:
            return "several processes train together"
        if self.top_entropy_quantile < 1 or self._entropy_bonus_enabled or self.aux_loss_enabled:
            return "entropy and auxiliary terms are means over TRL's micro-batches"
        args: Any = self.args
        if args.cast_lm_head_to_fp32 or args.use_liger_kernel:
            return "cast_lm_head_to_fp32 and use_liger_kernel change the forward pass"
        inner = self._causal_lm()
        try:
            refuse_unsupported(inner.config)
        except UnsupportedModelError as error:
            return str(error)
        head = inner.get_output_embeddings()
        return "the output layer is trained" if any(p.requires_grad for p in head.parameters()) else ""

    def _causal_lm(self) -> Any:
        return causal_lm(self.accelerator.unwrap_model(self.model))

    @property
    def rows_at_once(self) -> int:
        """Completions that this process samples for one generation batch."""
        args: Any = self.args
        return args.generation_batch_size // self.accelerator.num_processes

    @property
    def policy_dtype(self) -> torch.dtype:
        """What the update computes in."""
        if self.args.bf16 or self.args.fp16:
            return torch.bfloat16 if self.args.bf16 else torch.float16
        return self._causal_lm().dtype

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = self._micro_step(model, inputs, num_items_in_batch)
        self.finite_loss = bool(loss.isfinite()) and (self.finite_loss or self._fresh)
        self._fresh = self.accelerator.sync_gradients
        return loss

    def _micro_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Tensor:
        """Gather the micro-batches of an optimizer step; at the last one pass all their rows through the model."""
        if not self.own_passes:
            return super().training_step(model, inputs, num_items_in_batch)
        started = time.perf_counter()
        model.train()
        self._window.append(self._prepare_inputs(inputs))
        self._step += 1
        loss = torch.zeros((), device=self.args.device)
        if self.accelerator.sync_gradients:
            with self.timed("update"):
                loss = with_smaller_parts(lambda: self._update(model), self._halve_passes)
            self._window = []
        self._current_train_step_time += time.perf_counter() - started
        if self.accelerator.sync_gradients:
            self._metrics["train"]["step_time"].append(self._current_train_step_time)
            self._current_train_step_time = 0.0
        return loss

    def shrink_passes(self, longest: int) -> bool:
        """Halve the tokens of a pass, down to the `longest` row; False where that is no help."""
        if not self.own_passes or self.tokens_per_pass <= longest:
            return False
        self.tokens_per_pass = max(longest, self.tokens_per_pass // 2)
        return True

    def _halve_passes(self) -> bool:
        """After memory ran out: smaller passes, down to a completion each, and nothing left of the attempt."""
        longest = max(int((b["prompt_mask"].sum(1) + b["completion_mask"].sum(1)).max()) for b in self._window)
        if not self.shrink_passes(longest):
            return False
        for parameter in self._causal_lm().parameters():
            parameter.grad = None
        metrics = self._metrics["train"]
        for name in metrics:
            del metrics[name][self._logged_before.get(name, 0) :]
        self.tell(
            self.state.global_step + 1,
            "out of memory",
            f"the step is repeated with update.tokens_per_pass {self.tokens_per_pass}; lower it to save the time",
        )
        return True

    def _update(self, model: Any) -> Tensor:
        """The step's loss, its gradient accumulated in the parameters."""
        self._logged_before = {name: len(values) for name, values in self._metrics["train"].items()}
        loss, nothing = torch.zeros((), device=self.args.device), torch.empty(0, device=self.args.device)
        metrics, gaps = self._metrics["train"], [nothing]
        logged = len(metrics["entropy"])
        # without a KL term, rows of zero advantage have exactly no gradient
        if self.native:
            self.native.begin()
            if self.state.global_step % CHECK_EVERY == 0:
                metrics["sampling/transformers_logp_difference/max"].append(self._gap_to_transformers())
        budget, skip = self.tokens_per_pass, self.beta == 0
        for part in passes(self._window, self.loss_type, budget, skip=skip, by_prompt=self.native is not None):
            part_loss = self._compute_loss(model, part.batch) * part.weight
            self.accelerator.backward(part_loss)
            loss += part_loss.detach()
            if (sampled := part.batch.get(SAMPLED)) is not None:
                gaps.append((self._update_logprobs - sampled).abs()[part.batch["completion_mask"].bool()])
        if self.native:
            self.native.finish()
        for parameter in model.parameters():  # the optimizer takes a step with a zero gradient, none without one
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        surprisals = [-b[SAMPLED][b["completion_mask"].bool()] for b in self._window if SAMPLED in b]
        if len(surprisal := torch.cat([nothing, *surprisals])):
            metrics["entropy"][logged:] = [surprisal.mean().item()]  # of every row, not the passed ones alone
        if len(gap := torch.cat(gaps)):
            metrics["sampling/sampling_logp_difference/mean"].append(gap.mean().item())
            metrics["sampling/sampling_logp_difference/max"].append(gap.max().item())
        return loss

    @torch.no_grad()
    def _gap_to_transformers(self) -> float:
        """The largest difference of a log-probability between the native passes and the model itself, on a few rows."""
        assert self.native is not None
        few = trimmed({name: value[:CHECK_ROWS] for name, value in self._window[0].items() if name in SCORED})
        ids, mask = (torch.cat([few[f"prompt_{part}"], few[f"completion_{part}"]], 1) for part in ("ids", "mask"))
        asked = ids, mask, few["completion_ids"].shape[1], self.temperature
        return (self.native.logprobs(*asked) - completion_logprobs(self._causal_lm(), *asked)).abs().max().item()

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's scoring of completions `[B, logits_to_keep]`, without padding and without keeping the logits.

        With a gradient it is one pass, as cut by `passes`; without one the rows are passed by length.
        Where TRL asks for entropies it gets the surprisal of the sampled tokens, whose mean is an estimate of it.
        """
        if not self.own_passes:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        inner = self.ref_model if model is self.ref_model and model is not None else self._causal_lm()

        def score(rows: Any) -> Tensor:
            with self.accelerator.autocast():
                return completion_logprobs(
                    inner, input_ids[rows], attention_mask[rows], logits_to_keep, self.temperature
                )

        if torch.is_grad_enabled():
            logprobs = (
                self.native.logprobs(input_ids, attention_mask, logits_to_keep, self.temperature)
                if self.native
                else score(slice(None))
            )
            self._update_logprobs = logprobs.detach()
        else:
            logprobs = torch.empty(len(input_ids), logits_to_keep, device=input_ids.device)
            for rows in rows_by_length(attention_mask.sum(1), self.tokens_per_pass):
                logprobs[rows] = score(rows)
        return logprobs, -logprobs.detach() if kwargs.get("compute_entropy") else None, None

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        self._scored_ids = completion_ids_list
        with self.timed("reward"):
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self._record(inputs)
        return output

    def _record(self, inputs: list[dict[str, Any]]) -> None:
        """Append the generation batch to rollouts.jsonl, each process giving its share."""
        share = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))

        def scored(column: Any) -> list[Any]:
            return list(column)[-len(inputs) * self.accelerator.num_processes :][share]

        logs: Any = self._logs
        completions = [as_text(turns) for turns in scored(logs["completion"])]
        advantages = scored(logs["advantages"])
        rewards = {name: scored(values) for name, values in logs["rewards"].items()}
        rows = []
        for i, (problem, ids) in enumerate(zip(inputs, self._scored_ids, strict=True)):
            answer = extract_answer(completions[i], question=as_text(problem["prompt"]))
            rows.append(
                {
                    "step": self.state.global_step + 1,
                    "id": problem["id"],
                    "question": problem["question"],
                    "gold": problem["answer"],
                    "completion": completions[i],
                    "answer": None if answer.value is None else write_number(answer.value),
                    "how": answer.how.value,
                    "rewards": {name: values[i] for name, values in rewards.items()},
                    "advantage": advantages[i],
                    "tokens": len(ids),
                    "finished": ids[-1] in self.eos_token_ids,
                }
            )
        rows = gather_object(rows)  # of all processes
        self.last_rows = rows
        self.completions += len(rows)
        self.completion_tokens += sum(r["tokens"] for r in rows)
        self.best_reward = max([self.best_reward, *(sum(r["rewards"].values()) for r in rows)])
        if self._recording and not self.run.append_jsonl("rollouts.jsonl", rows, self.rollouts_bytes):
            self._recording = False
            text = "rollouts.jsonl has come to records.rollouts_mb: later completions are not kept"
            self.tell(self.state.global_step + 1, "records", text)


def sampling_of(args: GRPOConfig) -> Sampling:
    """The sampling settings that GRPOConfig spreads over its fields."""
    extra: Any = args.generation_kwargs or {}
    return Sampling(
        max_new_tokens=int(args.max_completion_length or 0),  # the configuration refuses null
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        extra=extra,
    )
