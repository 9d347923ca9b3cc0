"""Completions as a table in Weights & Biases, TensorBoard and Trackio, beside the metrics.

The metrics themselves are sent by transformers' own callbacks, under the names of metrics.jsonl after `train/`.
"""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from tiny_math_solver.runs.records import total_reward
from tiny_math_solver.training.trainer import MathGRPOTrainer

ROWS = 8
COLUMNS = ("question", "gold", "completion", "answer", "how", "reward", "advantage")


class SampleTables(TrainerCallback):
    """Sends a table `samples` of a step's first completions with each dev evaluation."""

    def __init__(self, trainer: MathGRPOTrainer):
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "dev/accuracy" not in logs or not state.is_world_process_zero:
            return
        rows = [{**row, "reward": total_reward(row)} for row in self.trainer.recorder.last_rows[:ROWS]]
        table = [[row[column] for column in COLUMNS] for row in rows]
        for tracker, send in SENDERS.items():
            if table and tracker in args.report_to:
                send(table, state.global_step, self.trainer)


def _to_wandb(table: list[list[Any]], step: int, trainer: MathGRPOTrainer) -> None:
    import wandb

    wandb.log({"samples": wandb.Table(columns=list(COLUMNS), data=table), "train/global_step": step})


def _to_tensorboard(table: list[list[Any]], step: int, trainer: MathGRPOTrainer) -> None:
    """TensorBoard has no tables: the completions as text, indented so that it is shown as it stands."""
    from transformers.integrations import TensorBoardCallback

    texts = []
    for row in table:
        of = dict(zip(COLUMNS, row, strict=True))
        head = f"{of['question']}\n\ngold {of['gold']}, read {of['answer']} ({of['how']}), reward {of['reward']:g}"
        texts.append("\n".join(f"    {line}" for line in f"{head}\n\n{of['completion']}".splitlines()))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_text("samples", "\n\n---\n\n".join(texts), step)


def _to_trackio(table: list[list[Any]], step: int, trainer: MathGRPOTrainer) -> None:
    import pandas
    import trackio

    trackio.log({"samples": trackio.Table(dataframe=pandas.DataFrame(table, columns=list(COLUMNS)))})


SENDERS: dict[str, Callable[[list[list[Any]], int, MathGRPOTrainer], None]] = {
    "wandb": _to_wandb, "tensorboard": _to_tensorboard, "trackio": _to_trackio,
}  # fmt: skip
