"""The guards at work: they read each logged step, and keep what is not finite away from the adapter."""

from collections.abc import Collection
from itertools import chain
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
from tiny_math_solver.training.guards import Finding, findings, not_measured
from tiny_math_solver.training.measures import expected_quantities, is_finite, not_finite, remedy
from tiny_math_solver.training.rescue import Rescue
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.training.trl_state import Mark

MAX_DROPPED_STEPS = 3  # in a row, then the run stops
MAX_COLLAPSED = 2  # logged steps in a row that find the run collapsed, then it stops
EXAMPLES, EXAMPLE_CHARACTERS = 3, 300
WHOLE_RUN = "train_loss"  # the Trainer logs it in one line, the last
OF_STEP_LINES = {"loss", "grad_norm"}


class Watchdog(TrainerCallback):
    """Reports what the guards find in each logged step; drops steps whose numbers are not finite.

    A collapse is undone by `rescue`; one that is not, and lasts, stops the run.
    A loss or gradient that is not finite may happen once; three in a row stop the run. Anything else that is not
    finite stops it at once.
    """

    def __init__(self, trainer: MathGRPOTrainer, run: RunFolder, config: Config, events: EventLog, rescue: Rescue):
        self.trainer, self.run, self.config, self.events = trainer, run, config, events
        self.rescue = rescue
        self.collapsed = 0  # logged steps in a row
        self.rows: list[MetricsRow] = []
        self.active: set[str] = set()  # guards that found something at the last step
        self.examples: list[RolloutRow] = []
        self.dropped_steps = 0  # in a row
        self.reason = ""  # why the run has to stop
        self.is_optional = False  # guards.stop false would go on
        self._has_dropped, self._dropped_step = False, -1  # since the last logged line; the last one
        self._has_unlogged_step = False
        self._mark: Mark = {}  # of what was logged before the step under way
        self._weights_before: list[torch.Tensor] = []  # the adapter before the optimizer's step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rows = [row for row in read_jsonl(self.run.path / "metrics.jsonl") if "reward" in row]  # of a resumed run
        self._judge(rows)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._has_unlogged_step = True
        self._mark = self.trainer.logged.mark()

    def on_log(self, args: Any, state: Any, control: Any, logs: MetricsRow | None = None, **kwargs: Any) -> None:
        if not logs or not self._has_unlogged_step:  # the times of the whole run alone
            return
        self._has_unlogged_step = False
        row = {"step": state.global_step, **logs}
        expected = self._expected(row)
        if "reward" in row:
            self.examples = self.examples or self.trainer.recorder.last_rows[:EXAMPLES]
            self.rows.append(row)
            found = self._find(expected)
            self.collapsed = self.collapsed + 1 if any(finding.collapse for finding in found) else 0
        else:  # earlier completions are learned from again
            found = [finding] if (finding := not_measured(row, expected)) else []
        if self._is_rescued(found, state.global_step):
            self.collapsed = 0
            self._judge(self.rows)
            return
        for finding in found:
            if finding.name not in self.active:
                self.events.add(state.global_step, finding.name, finding.text)
            if self._ends(finding):
                self.reason = finding.name if finding.optional else finding.text
                if finding.collapse:
                    self.reason += f": {finding.text}"
                self.is_optional = finding.optional
                control.should_training_stop = True
        self.active = {finding.name for finding in found}

    def _judge(self, rows: list[MetricsRow]) -> None:
        """Go on from `rows` without those that were undone."""
        self.rows = self.rescue.kept(rows)
        self.active = {finding.name for finding in self._find(())} if self.rows else set()

    def _is_rescued(self, found: list[Finding], step: int) -> bool:
        """Have a collapse undone, if it is the worst that was found. All processes do as the main one."""
        own = next((finding.collapse for finding in found if finding.collapse), None)
        collapse = processes.gather(None if any(finding.fatal for finding in found) else own)[0]
        return collapse is not None and self.rescue.undo(step, collapse)

    def _ends(self, finding: Finding) -> bool:
        """True if the run stops after such a finding."""
        lasts = finding.collapse is not None and (self.collapsed >= MAX_COLLAPSED or self.rescue.is_used_up)
        return (finding.fatal or lasts) and (self.config.guards.stop or not finding.optional)

    def _expected(self, row: MetricsRow) -> set[str]:
        """The numbers that `row` must have. Of a dropped step there are none, and what is not finite is taken out.

        A run that ends between two lines of `logging_steps` has TRL's means of its last steps in the line of the whole
        run, for which the Trainer logs neither their loss nor their gradient.
        """
        batches, excused = self.trainer.step_metrics.take_measured()
        has_dropped, self._has_dropped = self._has_dropped, False
        if self.trainer.accelerator.scaler is not None and not is_finite(row.get("grad_norm")):
            row.pop("grad_norm", None)  # a step that the scaler dropped, to find its scale
            excused = {**excused, "grad_norm": "the loss scale was too large"}
        if not has_dropped:
            absent = OF_STEP_LINES if WHOLE_RUN in row else set()
            return expected_quantities(self.trainer, with_batch=batches > 0) - excused.keys() - absent
        for name in [name for name, value in row.items() if not is_finite(value)]:
            del row[name]
        return set()

    def _find(self, expected: Collection[str]) -> list[Finding]:
        return findings(self.rows, self.rescue.config, self.trainer.policy_dtype, expected, self.rescue.undone)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the step if its numbers are not finite: without a gradient the optimizer does nothing."""
        step, parameters = state.global_step + 1, self._parameters()
        is_finite_loss, texts = self._numbers()
        if flaws := self.trainer.flaws:
            self._drop(step, flaws[0])
            self.reason = f"step {step}: {flaws[0]}: {remedy(flaws)}"
            return
        if not is_finite_loss or not self._has_finite_gradient(parameters):
            self.dropped_steps += 1
            self._drop(step, f"the {'gradient' if is_finite_loss else 'loss'} is not finite")
            if self.dropped_steps >= MAX_DROPPED_STEPS:
                self.reason = (
                    f"{MAX_DROPPED_STEPS} steps in a row were not finite; lower grpo.learning_rate, or set model.dtype "
                    "float32"
                )
            return
        self.dropped_steps = 0
        if texts:
            self._drop(step, ", ".join(texts))
            self.reason = f"step {step}: {', '.join(texts)}: {remedy(texts)}"
        elif self.trainer.accelerator.scaler is None:
            if not self._weights_before:
                self._weights_before = [torch.empty_like(p) for p in parameters]
            with torch.no_grad():
                torch._foreach_copy_(self._weights_before, parameters)

    def _numbers(self) -> tuple[bool, list[str]]:
        """False for a loss that is not finite, and a text for each logged number that is not: of all processes.

        They are known together, since a process that dropped a step alone would train another adapter.
        """
        is_finite_loss = all(bool(loss.isfinite()) for loss in self.trainer.step_losses)
        own = is_finite_loss, not_finite(self.trainer.logged.since(self._mark))
        losses, texts = zip(*processes.gather(own), strict=True)
        return all(losses), list(chain(*texts))

    def _has_finite_gradient(self, parameters: list[Any]) -> bool:
        if self.trainer.accelerator.scaler is not None:
            return True  # it drops such steps itself, and finds its scale that way
        gradients = [p.grad for p in parameters if p.grad is not None]
        return not gradients or bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())

    def _drop(self, step: int, text: str) -> None:
        self._has_dropped, self._dropped_step = True, step
        for parameter in self._parameters():
            parameter.grad = None
        self.events.add(step, "not finite", f"{text}: this step is dropped")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the step back if it left weights that are not finite; the optimizer's moments are lost then."""
        if not self._weights_before or self._dropped_step == state.global_step + 1:
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
            control.should_save = self._dropped_step == state.global_step and args.save_strategy != SaveStrategy.NO

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

    def state_dict(self) -> dict[str, Any]:
        return {
            "dropped_steps": self.dropped_steps,
            "has_dropped": self._has_dropped,
            "collapsed": self.collapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dropped_steps, self._has_dropped = state["dropped_steps"], state.get("has_dropped", False)
        self.collapsed = state.get("collapsed", 0)
