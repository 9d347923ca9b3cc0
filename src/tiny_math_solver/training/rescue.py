"""A run that rescues itself: after a collapse it goes back to the state before the damage, and goes on with more care.

States, the trained weights and the optimizer's moments, are kept in memory every few steps. What goes back is the
policy alone: steps keep counting, and the order of the problems, the draws and the schedule go on, so that no step
number comes twice. The steps that were undone stay in the records; the guards forget them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from tiny_math_solver.config.schema import Config
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.records import MetricsRow
from tiny_math_solver.training.collapse import Collapse
from tiny_math_solver.training.trainer import MathGRPOTrainer

EVERY, COPIES = 3, 3  # steps between the states that are kept; a collapse is noticed some 2 to 5 steps after its start
WEIGHT, RATE = 0.35, 0.5  # factors for the weights of all but the measure and for the learning rate, at every rescue

RescueRow = dict[str, Any]  # step, text, undone, back_to and changed, as in the row of events.jsonl


@dataclass
class PolicyState:
    """The policy after step `taken`; a rescue makes it the policy after a later `step`, too."""

    taken: int
    step: int
    weights: list[torch.Tensor]  # on the CPU
    moments: dict[str, Any]  # the optimizer's state, by the number of the parameter


class Rescue(TrainerCallback):
    """Keeps states while a run goes well, and undoes a collapse.

    `config` is the configuration that is in force, with what rescues have changed; `rows` are the rescues so far.
    """

    def __init__(self, trainer: MathGRPOTrainer, config: Config, events: EventLog):
        self.trainer, self.given, self.config, self.events = trainer, config, config, events
        trainer.states_kept = COPIES if config.allowed_rescues else 0
        self.states: list[PolicyState] = []  # the oldest first
        self.rows: list[RescueRow] = []
        self.weight_factor = self.rate_factor = 1.0  # of what is configured

    @property
    def left(self) -> int:
        """Rescues that are left."""
        return max(0, self.given.allowed_rescues - len(self.rows))

    @property
    def is_used_up(self) -> bool:
        return bool(self.rows) and not self.left

    @property
    def undone(self) -> set[int]:
        """The steps that were undone."""
        return {step for row in self.rows for step in range(row["undone"][0], row["undone"][1] + 1)}

    def kept(self, rows: Sequence[MetricsRow]) -> list[MetricsRow]:
        """Rows of metrics without those undone, their reward as the present weights make it."""
        if not self.rows:
            return list(rows)
        undone, names = self.undone, self.config.reward_names
        weights = {f"rewards/{name}/mean": weight for name, weight in zip(names.names, names.weights, strict=True)}
        return [
            {**row, "reward": sum(weight * row[name] for name, weight in weights.items())}
            if row["step"] <= self.rows[-1]["step"] and all(row.get(name) is not None for name in weights)
            else row
            for row in rows
            if row["step"] not in undone
        ]

    # -- Keeping states -------------------------------------------------------------------------------------------

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the state after every few steps, and the first one at once."""
        step = state.global_step
        if not self.left or (self.states and (step % EVERY or self.states[-1].step == step)):
            return
        optimizer: Any = self.trainer.optimizer
        weights = [p.detach().to("cpu", copy=True) for p in self._parameters()]
        moments = _copied(optimizer.state_dict()["state"])
        self.states = [*self.states, PolicyState(step, step, weights, moments)][-COPIES:]

    # -- Going back -----------------------------------------------------------------------------------------------

    def undo(self, step: int, collapse: Collapse) -> bool:
        """Undo a collapse that was noticed after `step`; False if no rescue is left, or no step after it."""
        if not self.left or not self.states or step >= self.trainer.state.max_steps:
            return False
        # the completions of a step are those of the state before it, which is why a clean step proves no more
        clean = [state for state in self.states if state.step < collapse.clean]
        state = (clean or self.states)[-1 if clean else 0]
        undone = [state.step + 1, step]
        self._restore(state)
        state.step = step
        changed = self._change()
        start = f"the state after step {state.taken}" if state.taken else "the start"
        steps = f"steps {undone[0]} to {step} are undone" if undone[0] < step else f"step {step} is undone"
        settings = ", ".join(f"{name} {value}" for name, value in changed.items())
        text = (
            f"{collapse.text}; the damage dates from step {collapse.clean + 1}: back to {start}, {steps}; "
            f"from here on {settings}"
        )
        details = {"undone": undone, "back_to": state.taken, "changed": changed}
        self.rows.append({"step": step, "text": text, **details})
        self.states = [*clean[:-1], state] if self.left else []
        self.trainer.step_metrics.lasting["rescues"] = len(self.rows)
        self.events.add(step, "rescue", text, **details)
        return True

    def _restore(self, state: PolicyState) -> None:
        """Copy the state into weights and optimizer, and drop the completions of another policy."""
        optimizer: Any = self.trainer.optimizer
        with torch.no_grad():
            for parameter, weight in zip(self._parameters(), state.weights, strict=True):
                parameter.copy_(weight)
        moments = {int(index): moment for index, moment in _copied(state.moments).items()}  # JSON has text as keys
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        self.trainer.buffer.drop()

    def _change(self) -> dict[str, Any]:
        """Weight all but the measure less and lower the learning rate; returns the settings with their new values."""
        before = self.config
        self.weight_factor *= WEIGHT
        self.rate_factor *= RATE
        self._scale_rates(RATE)
        self._set_config()
        now = self.config
        settings = {
            "grpo.reward_weights": (list(before.reward_names.weights), list(now.reward_names.weights)),
            "grpo.scale_rewards": (before.grpo_config.scale_rewards, now.grpo_config.scale_rewards),
            "grpo.learning_rate": (before.grpo_config.learning_rate, now.grpo_config.learning_rate),
        }
        return {name: new for name, (old, new) in settings.items() if new != old}

    def _set_config(self) -> None:
        """Apply the factors to what is configured, and the weights to the trainer.

        Where a group differs in the format alone, dividing by the group's own standard deviation undoes what the weight
        of the format does; that of the batch lets it count.
        """
        names, args = self.given.reward_names, self.given.grpo_config
        rate = _rounded(self.rate_factor * args.learning_rate)
        weights = [_rounded(weight) for weight in names.with_others(self.weight_factor)]
        is_weight_undone = args.scale_rewards == "group" and args.multi_objective_aggregation == "sum_then_normalize"
        are_others_paid = any(names.weights[place] for place in names.others)
        is_rescaled = is_weight_undone and are_others_paid and self.weight_factor != 1
        scale = "batch" if is_rescaled else args.scale_rewards
        self.config = self.given.while_training(reward_weights=weights, learning_rate=rate, scale_rewards=scale)
        self.trainer.scale_rewards = scale
        self.trainer.reward_weights[:] = torch.tensor(weights, dtype=self.trainer.reward_weights.dtype)

    def _scale_rates(self, factor: float) -> None:
        """Multiply the learning rate by `factor`, for the rest of the schedule."""
        optimizer: Any = self.trainer.optimizer
        scheduler: Any = self.trainer.lr_scheduler
        for group in optimizer.param_groups:
            group["lr"] *= factor
            if "initial_lr" in group:
                group["initial_lr"] *= factor
        if getattr(scheduler, "base_lrs", None):
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _parameters(self) -> list[Any]:
        model: Any = self.trainer.model
        return [p for p in model.parameters() if p.requires_grad]

    # -- Checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        factors = {"weight_factor": self.weight_factor, "rate_factor": self.rate_factor}
        return {"rows": self.rows, **factors, "states": [vars(state) for state in self.states]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]
        self.weight_factor, self.rate_factor = state["weight_factor"], state["rate_factor"]
        self.states = [PolicyState(**kept) for kept in state["states"]] if self.left else []
        if self.rows:
            self._set_config()
            self.trainer.step_metrics.lasting["rescues"] = len(self.rows)

    def restore_rates(self) -> None:
        """Apply the factor to the learning rate of a resumed run, once there is an optimizer with that configured."""
        if self.rate_factor != 1:
            self._scale_rates(self.rate_factor)


def _copied(value: Any) -> Any:
    """A copy on the CPU of a tree with tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    return {key: _copied(part) for key, part in value.items()} if isinstance(value, dict) else value


def _rounded(value: float) -> float:
    """Without what binary fractions leave behind: 0.1225 for 0.35 × 0.35."""
    return float(f"{value:.12g}")
