"""TRL's GRPOTrainer at its hooks: who is called for generation, rewards, log-probabilities, gradient and checkpoints.

Loss functions, advantages, optimizer and schedule are TRL's own. docs/architecture.md has the figure of one step.

    _get_train_sampler                    the order of the problems, kept for resuming
    _prepare_inputs                       micro-batches of the rows of all processes, in the same order in each
    _generate_and_score_completions       batches.py chooses problems, generation.py makes and grades their completions,
                                          update/share.py chooses rows, recorder.py keeps all
    compute_loss                          update/ gathers micro-batches; the last one of a step makes the gradient
    _get_per_token_logps_and_entropies    what the loss asks for, from the update's scorer
    log                                   step_metrics.py adds its numbers
    _save_checkpoint, _load_from_checkpoint     checkpointing.py

`build.py` puts the parts together.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import set_peft_model_state_dict
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from tiny_math_solver.models.adapter import ADAPTER_WEIGHTS, WHOLE_WEIGHTS, save_adapter, save_whole
from tiny_math_solver.models.ends import causal_lm
from tiny_math_solver.models.starting_adapter import MergedAdapter
from tiny_math_solver.rollouts import EngineRollouts, Rollouts, Sampling
from tiny_math_solver.support import processes
from tiny_math_solver.support.dealing import group_parts, largest_share
from tiny_math_solver.support.errors import EXIT_BAD_INPUT, StoppedError
from tiny_math_solver.support.memory import give_back
from tiny_math_solver.support.out_of_memory import retry_on_oom
from tiny_math_solver.support.own_code import OwnCodeError
from tiny_math_solver.training.batches import Batches
from tiny_math_solver.training.generation import DatasetRow, Generation
from tiny_math_solver.training.measures import share_without_gradient
from tiny_math_solver.training.recorder import Recorder
from tiny_math_solver.training.step_metrics import StepMetrics
from tiny_math_solver.training.trl_state import GenerationBuffer, LoggedMetrics, Mark, measured_alone, moved
from tiny_math_solver.update.passes import joined, select_rows
from tiny_math_solver.update.policy_update import PolicyUpdate
from tiny_math_solver.update.share import down_sampled, kept_rows

COMPARE_EVERY = 5  # steps between comparisons of the update's scorer with the model itself


class Saver(Protocol):
    """Writes and reads checkpoints when the Trainer asks (checkpointing.py)."""

    def save(self) -> None: ...

    def restore_policy(self) -> None: ...


class MathGRPOTrainer(GRPOTrainer):
    """GRPO on word problems with the two rule-based rewards.

    `rows` are the training problems as `dataset_rows` makes them. Without an `update` TRL passes its own micro-batches
    through the model; without a `saver` nothing is saved.
    """

    batches: Batches
    update: PolicyUpdate | None = None
    saver: Saver | None = None
    states_kept = 0  # to go back to after a collapse (rescue.py)
    merged: MergedAdapter | None = None  # into the base, before the adapter that is trained was put on it

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        rows: list[DatasetRow],
        tokenizer: Any,
        lora_config: Any,
        generation: Generation,
        recorder: Recorder,
    ):
        from datasets import Dataset

        self.generation, self.recorder = generation, recorder
        self.logged, self.buffer = LoggedMetrics(self), GenerationBuffer(self)
        self.step_losses: list[Tensor] = []  # of the micro-batches of the optimizer step under way
        self._step_is_over = False
        self.flaws: list[str] = []  # of generation batches, on any process: the run ends with this step
        own_backend = args.use_vllm or args.use_transformers_continuous_batching
        rewards: list[Any] = [generation.checked(function) for function in generation.reward_functions()]
        super().__init__(
            model=model,
            args=args,
            reward_funcs=rewards,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora_config,
            rollout_func=None if own_backend else generation.rollout_func,
        )

    def release(self) -> None:
        """Free what only training and rollouts need, so that another model has room; the policy itself stays."""
        self.update = self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self.accelerator.free_memory()
        self.policy.zero_grad(set_to_none=True)
        del self.generation.rollouts
        gc.collect()
        give_back()

    @property
    def rollouts(self) -> Rollouts:
        return self.generation.rollouts

    @property
    def sampling(self) -> Sampling:
        return self.generation.sampling

    @property
    def step_metrics(self) -> StepMetrics:
        return self.generation.step_metrics

    @property
    def policy(self) -> Any:
        """The transformers model itself; the adapter is in its layers."""
        return causal_lm(self.accelerator.unwrap_model(self.model))

    @property
    def policy_dtype(self) -> torch.dtype:
        """The dtype that the update computes in."""
        if self.args.bf16 or self.args.fp16:
            return torch.bfloat16 if self.args.bf16 else torch.float16
        return self.policy.dtype

    @property
    def rows_per_generation(self) -> int:
        """Completions that a process samples for one generation batch, if it gets the largest share."""
        args: Any = self.args
        samples: Any = self.num_generations
        groups, shares = args.generation_batch_size // samples, self.accelerator.num_processes
        parts = group_parts(groups, samples, shares)
        return largest_share(groups * len(parts), shares) * max(map(len, parts))

    @property
    def weights_file(self) -> str:
        """The file in which `save_policy` writes what is trained."""
        return ADAPTER_WEIGHTS if hasattr(self.accelerator.unwrap_model(self.model), "peft_config") else WHOLE_WEIGHTS

    def save_policy(self, folder: Path) -> None:
        """Write the adapter as plain PEFT of the base that was configured, or the whole model; with its tokenizer."""
        model = self.accelerator.unwrap_model(self.model)
        if self.weights_file == WHOLE_WEIGHTS:
            save_whole(model, self.processing_class, folder)
        else:
            save_adapter(model, self.processing_class, folder, self.merged)

    def load_policy(self, weights: dict[str, Tensor]) -> None:
        """Load the weights that `save_policy` wrote."""
        model = self.accelerator.unwrap_model(self.model)
        if self.weights_file == WHOLE_WEIGHTS:
            model.load_state_dict(weights, strict=False)  # tied weights are stored once
        else:
            set_peft_model_state_dict(model, self.merged.trained_part(model, weights) if self.merged else weights)

    # -- Hooks, in the order in which a step meets them -----------------------------------------------------------

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self.sampler = super()._get_train_sampler(dataset)
        return self.sampler

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The micro-batch under way.

        With an `update` it has the rows of all processes, shuffled in the same way however many these are.
        """
        if self.update is None:
            return super()._prepare_inputs(generation_batch)
        micro_step, parts = self.buffer.micro_step, self.buffer.parts
        if not self.buffer.batches or micro_step % (parts * self.num_iterations) == 0:
            whole = self._generate_and_score_completions(generation_batch)
            shuffled = torch.randperm(
                len(whole["advantages"]), generator=torch.Generator().manual_seed(self._batch_seed)
            )
            self.buffer.fill(select_rows(whole, shuffled.to(whole["advantages"].device)))
        return self.buffer.batches[micro_step % parts]

    @property
    def _batch_seed(self) -> int:
        """The seed of the generation batch under way, which has the same number with any number of processes."""
        return (self.args.seed << 32) + self.buffer.micro_step // self.buffer.parts

    def _generate_and_score_completions(self, inputs: list[DatasetRow]) -> dict[str, Any]:
        """TRL's rows of a generation batch: those of all processes where there is an `update`, else of this one."""
        processes.begins(f"the rollouts of step {self.state.global_step + 1}")
        mark = self.logged.mark()
        with self._own_code_runs(mark):
            inputs = self.batches.begin(inputs, self._batch_seed)
            own = super()._generate_and_score_completions(inputs)
        self.logged.add(self.generation.metrics())
        if self.rollouts.endings.texts:
            self._count_stopped(mark)
        self.logged.add(self.batches.metrics)
        device = own["advantages"].device
        own["group"] = torch.tensor([row["group"] for row in inputs], device=device)
        output = own
        if processes.count() > 1:
            output = joined([moved(part, device) for part in processes.gather(moved(own, "cpu"))])
        if self.scale_rewards == "batch":  # of which TRL sees no group without a gradient
            share = share_without_gradient(output["advantages"], output["group"])
            self.logged.replace(mark, "frac_reward_zero_std", share)
        if self.update is not None and self.update.share < 1:
            self._drop_rows(output, self.update.share)
        if not bool(output["advantages"].isfinite().all()):
            self.generation.flaws.append("advantage is not finite")
        self.flaws += chain(*processes.gather(self.generation.flaws))
        if not self.flaws:  # or the records would hold what is no number
            self._record(output)
        return own if self.update is None else output

    @contextlib.contextmanager
    def _own_code_runs(self, mark: Mark) -> Iterator[None]:
        """Give functions of the user the trainer's state and log; if one fails, save the run as after its last step.

        Raises StoppedError then.
        """
        grader = self.generation.grader
        outside, grader.extra = grader.extra, {"trainer_state": self.state, "log_metric": self._add_metric}
        parts: list[Any] = [self.batches, self.step_metrics] if grader.runs_own_code else []
        before = [deepcopy(part.state_dict()) for part in parts]
        try:
            yield
        except OwnCodeError as error:
            self.logged.rewind(mark)
            for part, state in zip(parts, before, strict=True):
                part.load_state_dict(state)
            step = self.state.global_step + 1
            self.recorder.events.add(step, "own code failed", str(error))
            if self.saver and step > 1:
                self.saver.save()
            again = f"mend it and start the run again: it goes on with step {step}" if step > 1 else "mend it"
            raise StoppedError(f"stopped in step {step} by {error}; {again}", EXIT_BAD_INPUT) from error
        finally:
            grader.extra = outside

    def _add_metric(self, name: str, value: float) -> None:
        self.logged.add({name: value})

    def _drop_rows(self, output: dict[str, Any], share: float) -> None:
        """Mark the rows that are not learned from, and compare the others among themselves."""
        samples: Any = self.num_generations
        by_group = self.scale_rewards == "group" and self.multi_objective_aggregation == "sum_then_normalize"
        used, advantages = down_sampled(output["advantages"], samples, kept_rows(samples, share), rescale=by_group)
        # what TRL's token-weighted losses divide by
        output |= {"used": used, "advantages": advantages, "num_items_in_batch": output["completion_mask"][used].sum()}

    def _record(self, output: dict[str, Any]) -> None:
        step, used = self.state.global_step + 1, output.get("used")
        rows = self.generation.records(step, output["advantages"].tolist(), None if used is None else used.tolist())
        self.recorder.record(step, rows + self.batches.records(step))
        self.batches.observe(step, self.recorder.last_rows)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of a micro-batch, of which TRL's `training_step` takes the gradient.

        With an `update` the gradient of the whole step is made at its last micro-batch, and what is returned is a
        number without a graph behind it.
        """
        if self.update is None:
            loss = super().compute_loss(model, inputs)
        else:
            self.update.window.append(inputs)
            loss = self._update_policy(model) if self.accelerator.sync_gradients else self._no_loss()
        self.step_losses = [loss.detach()] if self._step_is_over else [*self.step_losses, loss.detach()]
        self._step_is_over = self.accelerator.sync_gradients
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's scoring of completions `[B, logits_to_keep]`.

        Where TRL asks for entropies it gets the surprisal of the sampled tokens, whose mean is an estimate of it.
        """
        if self.update is None:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        if torch.is_grad_enabled():
            logprobs = self.update.pass_logprobs()
        else:
            scored = self.ref_model if model is not None and model is self.ref_model else self.policy
            logprobs = self.update.logprobs_without_gradient(scored, input_ids, attention_mask, logits_to_keep)
        return logprobs, -logprobs.detach() if kwargs.get("compute_entropy") else None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update(self.step_metrics.take(self.state.global_step))
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.saver:
            self.saver.save()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self.saver
        self.saver.restore_policy()

    def _count_stopped(self, mark: Mark) -> None:
        """Log completions that end at a stop string as ended: TRL takes all without an end token for cut off."""
        tokens, ended = torch.tensor(self.generation.ended()).unbind(1)
        lengths = tokens[ended.bool()].float() if ended.any() else torch.zeros(1)
        for name, value in {
            "clipped_ratio": 1 - ended.float().mean(),
            "mean_terminated_length": lengths.mean(),
            "min_terminated_length": lengths.min(),
            "max_terminated_length": lengths.max(),
        }.items():
            self.logged.replace(mark, f"completions/{name}", value.item())

    # -- The gradient of a step -----------------------------------------------------------------------------------

    def _update_policy(self, model: Any) -> Tensor:
        update, mark = self.update, self.logged.mark()
        processes.begins(f"the update of step {self.state.global_step + 1}")
        assert update is not None
        if isinstance(self.rollouts, EngineRollouts):
            self.rollouts.free_caches()

        def attempt() -> Any:
            self.logged.rewind(mark)
            return update.run(
                lambda batch: self._compute_loss(model, batch),  # TRL's loss; compute_loss would report each call
                self.accelerator.backward,
                compare=self.state.global_step % COMPARE_EVERY == 0,
            )

        with self.step_metrics.timed("update"):
            with measured_alone(self.accelerator):
                result = retry_on_oom(attempt, update.shrink)
            with self.step_metrics.waiting(self.args.device.type):
                self.logged.gather(mark)
                update.conclude(result)
        for name, value in result.metrics.items():
            self.logged.replace(mark, name, value)
        self.step_metrics.excused |= result.excused
        update.window = []
        return result.loss.requires_grad_()

    def _no_loss(self) -> Tensor:
        return torch.zeros((), device=self.args.device, requires_grad=True)
