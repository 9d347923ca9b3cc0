"""A task of lm-evaluation-harness by its name, asked about problems that this package has read.

The harness would download the task's data set itself, at whatever commit the Hub has today. Here both sides get the
same rows: those of the task's own data set at its pinned commit, or of any other source in the layout of GSM8K.
"""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from tiny_math_solver.hub.datasets import DatasetName, MissingSplitError
from tiny_math_solver.problems import generated
from tiny_math_solver.problems.layouts import ReadOptions
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.sources import Loaded, Source, is_file, read_source
from tiny_math_solver.problems.splits import named_problems
from tiny_math_solver.support.errors import UserError

SEED = 1234  # of the draw of few-shot examples: lm_eval's default
GENERATES = "generate_until"
ADVICE = "name them with --lm-eval-train, or ask without with --num-fewshot 0"


@dataclass(frozen=True)
class HarnessTask:
    """A task as the harness configures it, before it has any data."""

    name: str
    config: dict[str, Any]  # of its YAML file, with what that includes
    manager: TaskManager

    @property
    def examples(self) -> int:
        """The number of few-shot examples in front of each question, unless it is set."""
        return int(self.config.get("num_fewshot") or 0)

    @property
    def has_own_examples(self) -> bool:
        """True if the task brings its examples along instead of drawing them from train problems."""
        own = self.config.get("fewshot_config") or {}
        return "samples" in own and not own.get("split") and not self.config.get("fewshot_split")

    def source(self, split: str) -> str:
        """A split of the task's own data set, as it is written in settings."""
        return f"{self.config['dataset_path']}:{self.config.get('dataset_name') or ''}:{split}"

    @property
    def test_split(self) -> str:
        return self.config.get("test_split") or self.config.get("validation_split") or ""

    @property
    def train_split(self) -> str:
        return self.config.get("fewshot_split") or self.config.get("training_split") or self.test_split

    @property
    def _splits(self) -> set[str]:
        names = ("training_split", "validation_split", "test_split", "fewshot_split")
        return {self.config[name] for name in names if self.config.get(name)}

    def build(self, test: Sequence[Problem], train: Sequence[Problem], examples: int) -> Task:
        """The harness's task about `test`, with so many `examples`, which are drawn from `train` if it has none itself.

        Raises UserError where there are not so many, and where the task cannot make a prompt of such rows.
        """
        if examples and self.config.get("num_fewshot") == 0:
            raise UserError(f"--num-fewshot {examples}: lm-eval asks {self.name} without examples in any case")
        there = len(self.config["fewshot_config"]["samples"]) if self.has_own_examples else len(train)
        if examples > there:
            raise UserError(f"--num-fewshot {examples}: there are {there} worked examples for {self.name}")
        rows = {name: _table(test if name == self.test_split else train or test[:1]) for name in self._splits}
        changed = {"task": self.name, "custom_dataset": lambda **_: rows}
        try:
            found = self.manager.load({"group": f"{self.name} here", "task": [changed]})
        except Exception as error:  # a task is a program and templates, which may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UserError(f"lm-eval's task {self.name} cannot be asked about these problems ({reason})") from None
        task = found["tasks"][self.name]
        if len(task.eval_docs) != len(test):
            raise UserError(f"lm-eval's task {self.name} drops some of the problems, and cannot be compared")
        task.set_config("num_fewshot", examples)
        task.set_fewshot_seed(SEED)
        return task


def find_task(name: str) -> HarnessTask:
    """Raises UserError for a task that is not there, or that does not have the model write one greedy completion."""
    manager = _index(name)
    entry = manager.task_index.get(name)
    if entry is None or entry.cfg is None:
        close = difflib.get_close_matches(name, [*manager.all_subtasks, "gsm8k"], n=1, cutoff=0.7)
        hint = f"; did you mean {close[0]}?" if close else ""
        what = "is a group of tasks: name one of them" if entry else "has no task of this name"
        raise UserError(f"--lm-eval {name}: lm-eval {what}{hint}; lm_eval ls tasks lists them")
    config = entry.cfg
    if name in manager.all_groups:
        raise UserError(f"--lm-eval {name}: a group of tasks; name one of them (lm_eval ls tasks)")
    if "class" in config or not config.get("dataset_path"):
        raise UserError(f"--lm-eval {name}: this task is a program with data of its own; gsm8k is compared, for one")
    kind = config.get("output_type", GENERATES)
    if kind != GENERATES:
        raise UserError(
            f"--lm-eval {name}: this task scores given answers by their likelihood ({kind}); only tasks in which the "
            "model writes an answer are compared, such as gsm8k"
        )
    if not (config.get("test_split") or config.get("validation_split")):
        raise UserError(f"--lm-eval {name}: this task has no test problems")
    settings = config.get("generation_kwargs") or {}
    if config.get("repeats", 1) != 1 or settings.get("do_sample"):
        raise UserError(f"--lm-eval {name}: this task samples its completions; only greedy tasks are compared")
    return HarnessTask(name, config, manager)


def _index(name: str) -> TaskManager:
    """The tasks that there are; those in the folder of this name alone, if it is there, since all take seconds."""
    folder = Path(lm_eval.tasks.__file__).parent / name
    if name.isidentifier() and folder.is_dir():
        few = TaskManager(include_path=str(folder), include_defaults=False)
        if name in few.all_subtasks:
            return few
    return _all_tasks()


@cache
def _all_tasks() -> TaskManager:
    return TaskManager()


# -- Problems -------------------------------------------------------------------------------------------------


def read_test(task: HarnessTask, source: str | None, options: ReadOptions) -> Loaded:
    """The problems of a source, by default of the task's own data set, whose rows are kept as they are."""
    if source is not None:
        return named_problems(source, options)
    return read_source(Source(task.source(task.test_split), "evaluation"), replace(options, keeps_columns=True))


def read_train(task: HarnessTask, source: str | None, train: str | None, options: ReadOptions) -> Loaded:
    """The problems that few-shot examples are drawn from: `train`, else the train split beside the test problems.

    Raises UserError where there is none.
    """
    if train is None and source is None:
        return read_source(Source(task.source(task.train_split), "train"), replace(options, keeps_columns=True))
    name = train or source or ""
    base = name.partition(":")[0]
    if base in generated.SOURCES:
        return Loaded(generated.SOURCES[base].problems("train", generated.TRAIN), [])
    if is_file(name):
        if train is None and not Path(name).expanduser().is_dir():
            raise UserError(f"{task.name} shows worked examples, and {name} is a single file: {ADVICE}")
        return read_source(Source(name, "train"), options)
    named = DatasetName.parse(name)
    if train is None:  # a split that is named is the one asked about
        named = replace(named, split=None)
    at = f"@{named.revision}" if named.revision else ""
    try:
        return read_source(Source(f"{named.name}:{named.subset or ''}:{named.split or ''}{at}", "train"), options)
    except MissingSplitError as error:
        raise UserError(f"{task.name} shows worked examples, and {error}; {ADVICE}") from None


def quiet() -> None:
    """Leave out the harness's bars, and its remarks for developers; what it warns of is decided here."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


def _table(problems: Sequence[Problem]) -> datasets.Dataset:
    """Rows as the harness reads them: those of the source where they were kept, else question and worked answer."""
    rows = [dict(p.columns) or {"question": p.question, "answer": p.worked_answer} for p in problems]
    return datasets.Dataset.from_list(rows)
