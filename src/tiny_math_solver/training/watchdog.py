"""The guards at work: they read each logged step, and keep what is not finite away from the adapter."""

from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from tiny_math_solver.config.schema import Config
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import MetricsRow, RolloutRow, read_jsonl
from tiny_math_solver.support import processes
from tiny_math_solver.support.console import Console, printable
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING, StoppedError
from tiny_math_solver.training.guards import Finding, findings
from tiny_math_solver.training.trainer import MathGRPOTrainer

MAX_DROPPED_STEPS = 3  # in a row, then the run stops
EXAMPLES, EXAMPLE_CHARACTERS = 3, 300


class Watchdog(TrainerCallback):
    """Reports what the guards find in each logged step; drops steps whose loss or gradient is not finite."""

    def __init__(self, trainer: MathGRPOTrainer, run: RunFolder, config: Config, events: EventLog):
        self.trainer, self.run, self.config, self.events = trainer, run, config, events
        self.rows: list[MetricsRow] = []
        self.active: set[str] = set()  # guards that found something at the last step
        self.examples: list[RolloutRow] = []
        self.dropped_steps = 0  # in a row
        self.reason = ""  # why the run has to stop
        self.is_optional = False  # guards.stop false would go on
        self._weights_before: list[torch.Tensor] = []  # the adapter before the optimizer's step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rows = [row for row in read_jsonl(self.run.path / "metrics.jsonl") if "reward" in row]  # of a resumed run
        self.active = {finding.name for finding in self._find()} if self.rows else set()

    def on_log(self, args: Any, state: Any, control: Any, logs: MetricsRow | None = None, **kwargs: Any) -> None:
        if not logs or "reward" not in logs or "loss" not in logs:
            return
        self.examples = self.examples or self.trainer.recorder.last_rows[:EXAMPLES]
        self.rows.append({"step": state.global_step, **logs})
        found = self._find()
        for finding in found:
            if finding.name not in self.active:
                self.events.add(state.global_step, finding.name, finding.text)
            if finding.fatal and self.config.guards.stop:
                self.reason, self.is_optional = finding.name, True
                control.should_training_stop = True
        self.active = {finding.name for finding in found}

    def _find(self) -> list[Finding]:
        return findings(self.rows, self.config, self.trainer.policy_dtype)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the step if its loss or a gradient is not finite: without a gradient the optimizer does nothing."""
        if self.trainer.accelerator.scaler is not None:
            return  # it drops such steps itself, and finds its scale that way
        parameters = self._parameters()
        gradients = [p.grad for p in parameters if p.grad is not None]
        is_finite_loss = all(processes.gather(all(bool(loss.isfinite()) for loss in self.trainer.step_losses)))
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        if bool(norms.isfinite().all()) and is_finite_loss:
            self.dropped_steps = 0
            if not self._weights_before:
                self._weights_before = [torch.empty_like(p) for p in parameters]
            with torch.no_grad():
                torch._foreach_copy_(self._weights_before, parameters)
            return
        self.dropped_steps += 1
        for parameter in parameters:
            parameter.grad = None
        what = "gradient" if is_finite_loss else "loss"
        self.events.add(state.global_step + 1, "not finite", f"the {what} is not finite: this step is dropped")
        if self.dropped_steps >= MAX_DROPPED_STEPS:
            self.reason = (
                f"{MAX_DROPPED_STEPS} steps in a row were not finite; lower grpo.learning_rate, or set model.dtype "
                "float32"
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the step back if it left weights that are not finite; the optimizer's moments are lost then."""
        if not self._weights_before or self.dropped_steps:
            return
        parameters = self._parameters()
        if not bool(torch.stack(torch._foreach_norm(parameters)).isfinite().all()):
            with torch.no_grad():
                torch._foreach_copy_(parameters, self._weights_before)
            self.reason = "the optimizer left weights that are not finite; lower grpo.learning_rate"
            self.events.add(state.global_step + 1, "not finite", "weights are not finite: this step is taken back")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.reason:
            control.should_training_stop = True
            # after a step that was taken back the optimizer's moments are lost: the last checkpoint has them
            control.should_save = bool(self.dropped_steps) and args.save_strategy != SaveStrategy.NO

    def _parameters(self) -> list[Any]:
        model: Any = self.trainer.model
        return [p for p in model.parameters() if p.requires_grad]

    def raise_if_stopped(self, console: Console) -> None:
        """Raise StoppedError if a guard has ended training; shows samples if none of them ever earned a reward."""
        if not self.reason:
            return
        if self.reason == "no reward":
            for row in self.examples:
                console.say(f"\nquestion: {printable(row['question'])}\ngold: {row['gold']}")
                console.say(f"completion: {printable(row['completion'][:EXAMPLE_CHARACTERS])}")
        anyway = "; to continue: --resume --allow guards.stop --guards.stop false" if self.is_optional else ""
        raise StoppedError(
            f"stopped by a guard: {self.reason}{anyway}; records and the best adapter so far are in {self.run.path}",
            EXIT_LEARNED_NOTHING,
        )

    def state_dict(self) -> dict[str, int]:
        return {"dropped_steps": self.dropped_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.dropped_steps = state["dropped_steps"]
