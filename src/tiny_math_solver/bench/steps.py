"""GRPO steps side by side: ours and TRL's own `GRPOTrainer`, on the same problems, steps and completion counts."""

import gc
import tempfile
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed
from trl import GRPOTrainer

from tiny_math_solver.bench.rollouts import QWEN, load_case_model
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.evaluate import evaluate
from tiny_math_solver.grading import Graded, How
from tiny_math_solver.grading.rewards import as_text, correctness_reward, format_reward
from tiny_math_solver.models.load import load_base, load_tokenizer
from tiny_math_solver.problems.splits import Splits, load_splits
from tiny_math_solver.prompts import PromptFormat, train_prompts
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import QuietConsole
from tiny_math_solver.support.out_of_memory import is_out_of_memory
from tiny_math_solver.training.build import make_trainer
from tiny_math_solver.training.trainer import MathGRPOTrainer

TARGET = 0.8  # dev accuracy that the race is to
EVERY = 2  # steps between its evaluations, which are on nobody's clock


@dataclass(frozen=True)
class Side:
    """One way to train; `overrides` say how it cuts the same completions into micro-batches."""

    name: str
    stock: bool
    batch: int | None = None  # completions of a micro-batch, instead of the configuration's
    accumulation: int = 1
    is_checkpointed: bool = False

    @property
    def overrides(self) -> list[str]:
        if self.batch is None:
            return []
        return [
            "--grpo.per_device_train_batch_size", f"{self.batch}",
            "--grpo.gradient_accumulation_steps", f"{self.accumulation}",
            "--grpo.gradient_checkpointing", str(self.is_checkpointed).lower(),
        ]  # fmt: skip

    def halved(self) -> "Side | None":
        """The same with micro-batches of half the size; None if that cannot be."""
        if self.batch is None or self.batch % 2:
            return None
        return replace(self, batch=self.batch // 2, accumulation=2 * self.accumulation)


def sides(completions: int) -> dict[str, Side]:
    """Ours, and TRL's trainer in the settings of the seed and in its best ones."""
    checkpointed = "TRL, batch 1 with accumulation and gradient checkpointing"
    return {
        "ours": Side("ours", stock=False),
        "trl_best": Side("TRL, whole batch at once, or as much as fits", stock=True, batch=completions),
        "trl_seed": Side(checkpointed, stock=True, batch=1, accumulation=completions, is_checkpointed=True),
    }


def step_times(
    config_path: Path, overrides: list[str], steps: int, rounds: int, *, only: tuple[str, ...] = (), coin: bool = False
) -> dict[str, Any]:
    """Median seconds a step of every side over `rounds` alternating runs of `steps` steps from the same start.

    `coin` rewards completions by chance, so that a model that never answers right has gradients too.
    """
    config = load_config(config_path, overrides)
    taken: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    micro_batches: dict[str, int | None] = {}
    for _ in range(rounds):
        for name, side in sides(config.completions_per_step).items():
            if only and name not in only:
                continue
            times, micro_batches[name] = _as_fits(side, config_path, overrides, steps, coin=coin)
            taken.setdefault(name, []).extend(times[1:])  # the first one warms up
            if torch.cuda.is_available():
                peaks[name] = max(peaks.get(name, 0), torch.cuda.max_memory_allocated())
    seconds = {name: median(times) for name, times in taken.items()}
    return {
        **({"peak_memory_bytes": peaks, "micro_batches": micro_batches} if peaks else {}),
        "steps": steps,
        "rounds": rounds,
        "completions_per_step": config.completions_per_step,
        "seconds_per_step": seconds,
        "times_faster_than": {name: s / seconds["ours"] for name, s in seconds.items() if name != "ours"},
    }


def _as_fits(
    side: Side, config_path: Path, overrides: list[str], steps: int, *, coin: bool
) -> tuple[list[float], int | None]:
    """The seconds of each step, in micro-batches as large as fit into memory, and their size."""
    while True:
        gc.collect()  # an earlier side's trainer, and what did not fit, are in cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            return train_side(side, config_path, overrides, steps, coin=coin), side.batch
        except Exception as error:
            if not is_out_of_memory(error) or (smaller := side.halved()) is None:
                raise
            side = smaller


def race(config_path: Path, overrides: list[str], limit: int, rounds: int) -> dict[str, Any]:
    """Training seconds until the greedy accuracy on dev passes TARGET, ours against TRL's best settings.

    Medians over `rounds` alternating runs with a seed each. A side that has not got there after `limit` steps is
    reported with the accuracy it had.
    """
    config = load_config(config_path, overrides)
    both = sides(config.completions_per_step)
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl_best": []}
    for seed in range(rounds):
        for name, finished in runs.items():
            times: list[float] = []
            reached = _Reached(config)
            train_side(both[name], config_path, [*overrides, "--grpo.seed", str(seed)], limit, times, reached)
            finished.append({"seconds": sum(times), "steps": len(times), "accuracy": reached.accuracy})
    seconds = {name: median(run["seconds"] for run in finished) for name, finished in runs.items()}
    return {
        "target": TARGET,
        "evaluated_every": EVERY,
        "runs": runs,
        "seconds": seconds,
        "times_faster_than": {"trl_best": seconds["trl_best"] / seconds["ours"]},
    }


def train_side(
    side: Side,
    path: Path,
    overrides: list[str],
    steps: int,
    times: list[float] | None = None,
    *extra: TrainerCallback,
    coin: bool = False,
) -> list[float]:
    """Train `steps` steps from the start and return the seconds each took."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [*overrides, *side.overrides, "--grpo.max_steps", str(steps), "--grpo.output_dir", f"{folder}/run"]
        settings += ["--grpo.save_strategy", "no"]  # neither side writes checkpoints
        config = load_config(path, settings)
        splits, tokenizer = load_splits(config.problems), load_tokenizer(config.model.name, config.model.revision)
        times = [] if times is None else times
        set_seed(config.grpo_config.seed)
        make = _stock_trainer if side.stock else _own_trainer
        trainer = make(config, splits, tokenizer, [_Clock(times), *extra])
        if coin:
            _pay_by_chance(trainer)
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        for callback in extra:
            callback.trainer = trainer  # type: ignore[attr-defined]
        trainer.train()
    return times


def of_qwens_shape(folder: str, problems: int, samples: int, new_tokens: int) -> list[str]:
    """Overrides for a random model of Qwen2.5-0.5B's shape, saved in `folder`."""
    model, tokenizer = load_case_model(QWEN)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    load_case_model.cache_clear()  # its memory is not the step's
    rows = problems * samples
    return [
        "--model.name", folder, "--model.dtype", "auto", "--rollouts.batch_size", f"{rows}",
        "--grpo.num_generations", f"{samples}", "--grpo.per_device_train_batch_size", f"{rows}",
        "--grpo.gradient_accumulation_steps", "1", "--grpo.max_completion_length", str(new_tokens),
        "--update.tokens_per_pass", "null",
    ]  # fmt: skip


def _pay_by_chance(trainer: Any) -> None:
    if isinstance(trainer, MathGRPOTrainer):
        trainer.generation.grader.grade = _coin_grade  # type: ignore[method-assign]
    else:
        trainer.reward_funcs = [_coin, _coin]


def _coin_grade(question: Any, text: str | None, gold: Any) -> Graded:
    is_right = bool(_coin([text])[0])
    return Graded(None, How.HASHES if is_right else How.NONE, is_right, text or "")


def _coin(completions: list[Any], **kwargs: Any) -> list[float]:
    return [float(zlib.crc32(as_text(turns).encode()) & 1) for turns in completions]


def _own_trainer(config: Config, splits: Splits, tokenizer: Any, callbacks: list[Any]) -> Any:
    run, console = RunFolder(config.output_dir), QuietConsole()
    run.create()
    problems, prompts = train_prompts(tokenizer, splits.train, PromptFormat.of(config), config.prompt.max_tokens)
    model = load_base(config.model.name, config.model.revision, config.model.dtype)
    events = EventLog(run, console)
    trainer = make_trainer(config, model, tokenizer, problems, prompts, run, console, events)
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def _stock_trainer(config: Config, splits: Splits, tokenizer: Any, callbacks: list[Any]) -> Any:
    """TRL as its documentation shows it, with our two rewards, which are cheap."""
    prompt = PromptFormat.of(config)
    rewards: list[Any] = [correctness_reward, format_reward]
    return GRPOTrainer(
        model=load_base(config.model.name, config.model.revision, config.model.dtype),
        args=config.grpo_config,
        reward_funcs=rewards,
        train_dataset=Dataset.from_list(
            [{"prompt": prompt.messages(p.question), "answer": p.answer} for p in splits.train]
        ),
        processing_class=tokenizer,
        peft_config=config.lora_config,
        callbacks=callbacks,
    )


class _Clock(TrainerCallback):
    """Seconds of every optimizer step: rollouts, rewards and update."""

    def __init__(self, times: list[float]):
        self.times = times
        self.started = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter() - self.started)


class _Reached(TrainerCallback):
    """Stop once dev accuracy passes the target; the same evaluation, by the engine, whoever trains."""

    def __init__(self, config: Config):
        self.dev = load_splits(config.problems).dev
        self.ask: dict[str, Any] = {
            "prompt": PromptFormat.of(config), "max_new_tokens": config.max_completion_length,
            "grader": Grader.of(config),
        }  # fmt: skip
        self.batch_size = config.rollouts.batch_size
        self.trainer: Any = None
        self.accuracy = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % EVERY:
            return
        rollouts = EngineRollouts(self.trainer.model, self.trainer.processing_class, self.batch_size)
        self.accuracy = evaluate(rollouts, self.dev, **self.ask).accuracy
        control.should_training_stop = self.accuracy > TARGET
