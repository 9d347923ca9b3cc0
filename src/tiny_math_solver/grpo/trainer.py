"""TRL's GRPOTrainer with rollouts through our interface and every completion recorded.

Loss, advantages, optimizer and schedule are TRL's own. The two seams: `rollout_func`, which TRL offers for
generation, and the scored generation batch, which is read (not changed) for the records.
"""

from typing import Any

from accelerate.utils import gather_object
from trl import GRPOConfig, GRPOTrainer

from tiny_math_solver.answers import extract_answer, write_number
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import chat_messages, encode_prompt
from tiny_math_solver.rewards import as_text, correctness_reward, format_reward
from tiny_math_solver.rollouts import ReferenceRollouts, Sampling
from tiny_math_solver.runs import RunFolder


class MathGRPOTrainer(GRPOTrainer):
    """GRPO on word problems with the two rule-based rewards."""

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        train: list[Problem],
        tokenizer: Any,
        peft_config: Any,
        system: str,
        run: RunFolder,
        batch_size: int,
        callbacks: list[Any],
    ):
        from datasets import Dataset

        self.run = run
        self.sampling = sampling_of(args)
        self.completions = self.completion_tokens = 0
        self.best_reward = 0.0
        self.extra_metrics: dict[str, float] = {}  # merged into the next logged line
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
        self.rollouts = ReferenceRollouts(self.model, tokenizer, batch_size)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update(self.extra_metrics)
        self.extra_metrics = {}
        super().log(logs, start_time)

    def _rollout(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """TRL's generation hook: `prompts` come as chat messages, already repeated once a sample."""
        prompt_ids = [encode_prompt(self.processing_class, messages) for messages in prompts]
        rollouts = self.rollouts.generate(prompt_ids, 1, self.sampling)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [r.completion_ids for r in rollouts],
            "logprobs": None,  # TRL reads them for vLLM's importance-sampling correction only
        }

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        self._scored_ids = completion_ids_list
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
        self.completions += len(rows)
        self.completion_tokens += sum(r["tokens"] for r in rows)
        self.best_reward = max([self.best_reward, *(sum(r["rewards"].values()) for r in rows)])
        self.run.append_jsonl("rollouts.jsonl", rows)


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
