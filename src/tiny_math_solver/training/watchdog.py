"""Looks at a run step by step: the guards at its metrics, and at what must not reach the adapter."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.config.schema import Config
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import read_jsonl
from tiny_math_solver.support.console import Console, printable
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.training.guards import Finding, Row, findings

DROPPED_STEPS = 3  # in a row, then the run stops
EXAMPLES, EXAMPLE_CHARACTERS = 3, 300


class Watchdog(TrainerCallback):
    """Has the guards look at each logged step, and keeps what is not finite away from the adapter.

    `trainer` is set once it is there. `tell(step, name, text)` takes what is found.
    """

    def __init__(self, run: RunFolder, config: Config, tell: Callable[[int, str, str], Any]):
        self.run, self.config, self.tell = run, config, tell
        self.trainer: Any = None
        self.rows: list[Row] = []
        self.speaking: set[str] = set()
        self.examples: list[Row] = []  # of rollouts.jsonl
        self.reason = ""  # why the run has to stop
        self.by_choice = False  # guards.stop says so
        self._kept: list[torch.Tensor] = []  # the adapter before the optimizer's step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rows = [row for row in read_jsonl(self.run.path / "metrics.jsonl") if "reward" in row]  # of a resumed run
        self.speaking = {finding.name for finding in self._find()} if self.rows else set()

    def on_log(self, args: Any, state: Any, control: Any, logs: Row | None = None, **kwargs: Any) -> None:
        if not logs or "reward" not in logs or "loss" not in logs:
            return
        self.examples = self.examples or self.trainer.last_rows[:EXAMPLES]
        self.rows.append({"step": state.global_step, **logs})
        found = self._find()
        for finding in found:
            if finding.name not in self.speaking:
                self.tell(state.global_step, finding.name, finding.text)
            if finding.fatal and self.config.guards.stop:
                self.reason, self.by_choice = finding.name, True
                control.should_training_stop = True
        self.speaking = {finding.name for finding in found}

    def _find(self) -> list[Finding]:
        return findings(self.rows, self.config, self.trainer.policy_dtype)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the step where its loss or a gradient is not finite: without a gradient the optimizer does nothing."""
        if self.trainer.accelerator.scaler is not None:
            return  # it drops such steps itself, and looks for its scale that way
        parameters = self._parameters()
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite_loss = self.trainer.finite_loss or args.world_size > 1  # of several processes the gradients tell all
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        if bool(norms.isfinite().all()) and finite_loss:
            self.trainer.dropped_steps = 0
            if not self._kept:
                self._kept = [torch.empty_like(p) for p in parameters]
            with torch.no_grad():
                torch._foreach_copy_(self._kept, parameters)
            return
        self.trainer.dropped_steps += 1
        for parameter in parameters:
            parameter.grad = None
        what = "gradient" if finite_loss else "loss"
        self.tell(state.global_step + 1, "not finite", f"the {what} is not finite: this step is dropped")
        if self.trainer.dropped_steps >= DROPPED_STEPS:
            self.reason = (
                f"{DROPPED_STEPS} steps in a row were not finite; lower grpo.learning_rate, or model.dtype float32"
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the step back where it left weights that are not finite; the optimizer's moments are lost then."""
        if not self._kept or self.trainer.dropped_steps:
            return
        parameters = self._parameters()
        if not bool(torch.stack(torch._foreach_norm(parameters)).isfinite().all()):
            with torch.no_grad():
                torch._foreach_copy_(parameters, self._kept)
            self.reason = "the optimizer left weights that are not finite; lower grpo.learning_rate"
            self.tell(state.global_step + 1, "not finite", "weights are not finite: this step is taken back")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.reason:
            control.should_training_stop = True
            # after a step that was taken back the optimizer's moments are lost: the last checkpoint has them
            control.should_save = bool(self.trainer.dropped_steps) and args.save_strategy != SaveStrategy.NO

    def _parameters(self) -> list[Any]:
        return [p for p in self.trainer.model.parameters() if p.requires_grad]

    def raise_if_stopped(self, console: Console) -> None:
        """Raise StoppedError where a guard has ended training; shows what was sampled where nothing was ever right."""
        if not self.reason:
            return
        if self.reason == "no reward":
            for row in self.examples:
                console.say(f"\nquestion: {printable(row['question'])}\ngold: {row['gold']}")
                console.say(f"completion: {printable(row['completion'][:EXAMPLE_CHARACTERS])}")
        anyway = "; --resume --allow guards.stop --guards.stop false goes on" if self.by_choice else ""
        raise StoppedError(
            f"stopped by a guard: {self.reason}{anyway}; records and the best adapter so far are in {self.run.path}",
            EXIT_LEARNED_NOTHING,
        )
