"""Both evaluations of one loaded model: by our prompt and grader, and by the harness."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval.api.task import Task

from tiny_math_solver.evaluation.evaluate import Evaluation, evaluate
from tiny_math_solver.evaluation.prompt_settings import PromptSettings
from tiny_math_solver.harness.comparison import LENIENT, Comparison, ask, compare
from tiny_math_solver.harness.lines import Asked
from tiny_math_solver.harness.model import RolloutsLM
from tiny_math_solver.models.load import LoadedModel
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import make_rollouts
from tiny_math_solver.support.console import Console


@dataclass(frozen=True)
class Sides:
    """A model, the settings of our prompt, the problems, and the grader that reads the completions of both sides."""

    loaded: LoadedModel
    settings: PromptSettings
    problems: Sequence[Problem]
    grader: Grader
    batch_size: int
    console: Console

    def ours(self) -> tuple[Evaluation, Asked]:
        """Our evaluation of the problems, and how they were asked."""
        started, limit, stops = time.monotonic(), self.settings.max_new_tokens, self.settings.stop_strings
        rollouts = make_rollouts(
            self.loaded.model, self.loaded.tokenizer, self.batch_size, console=self.console, stop_strings=stops
        )
        with self.console.progress("our prompt", len(self.problems)) as advance:
            found = evaluate(
                rollouts,
                self.problems,
                prompt=self.settings.prompt,
                max_new_tokens=limit,
                grader=self.grader,
                on_done=advance,
            )
        cut = [record for record in found.greedy if not record.finished]
        return found, Asked(
            examples=0,
            chat_template=True,
            system=bool(self.settings.prompt.system),
            limits=[limit],
            stops=stops,
            cut=len(cut),
            cut_wrong=sum(not record.correct for record in cut),
            shortened=0,
            seconds=time.monotonic() - started,
        )

    def theirs(
        self, task: Task, ours: Evaluation, examples: int, *, chat_template: bool
    ) -> tuple[dict[str, float], Comparison, Asked]:
        """The harness's scores by filter, the comparison with `ours`, and how it asked."""
        with self.console.progress("lm-eval's prompt", len(self.problems)) as advance:
            model = RolloutsLM(
                self.loaded.model, self.loaded.tokenizer, self.settings.prompt, self.batch_size, self.console, advance
            )
            scores, seconds = ask(task, model, chat_template)
        comparison = compare(task, self.problems, ours, self.grader)
        cut = [comparison.theirs[place] for place in sorted(model.cut)]
        asked = Asked(
            examples=examples,
            chat_template=chat_template,
            system=False,
            limits=sorted(model.limits),
            stops=sorted(model.stops),
            cut=len(cut),
            cut_wrong=sum(not each.readings[LENIENT].right for each in cut),
            shortened=model.shortened,
            seconds=seconds,
        )
        return scores, comparison, asked
