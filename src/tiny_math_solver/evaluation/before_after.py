"""The test problems before and after training, and their records in the run folder."""

from collections.abc import Sequence
from typing import Any

from tiny_math_solver.config.schema import Config
from tiny_math_solver.evaluation.evaluate import Evaluation
from tiny_math_solver.evaluation.kept import Evaluator
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.splits import TEST, UNSEEN, Splits
from tiny_math_solver.prompts import PromptFormat
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import Rollouts, Sampling
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.runs.records import read_jsonl
from tiny_math_solver.support.errors import UserError

TestResult = dict[str, Evaluation]  # by the names of `Splits.tested`


def evaluate_test(
    config: Config,
    rollouts: Rollouts,
    splits: Splits,
    run: RunFolder,
    when: str,
    evaluator: Evaluator,
    grader: Grader,
    also: Sequence[Problem] = (),
) -> TestResult:
    """Answer every test problem greedily and sample some; the records go to `eval/<when>.jsonl`.

    The problems `also` are answered with them and kept by the evaluator.
    """
    grpo, settings = config.grpo_config, config.evaluation
    ask: dict[str, Any] = {
        "prompt": PromptFormat.of(config),
        "max_new_tokens": config.max_completion_length,
        "grader": grader,
    }
    sampled = {
        "samples": settings.samples,
        "sampled_problems": settings.sampled_problems,
        "sampling": Sampling(config.max_completion_length, temperature=grpo.temperature),
        "seed": grpo.seed,
    }
    advice = "evaluation.test_limit, evaluation.samples"
    results = {TEST: evaluator.evaluate(f"{when}-test", rollouts, splits.test, ask | sampled, advice, also)}
    for name, problems in splits.tested.items():
        if name != TEST:
            words = "unseen kinds" if name == UNSEEN else name
            results[name] = evaluator.evaluate(f"{when}-test, {words}", rollouts, problems, ask, advice)
    return keep_test(run, when, results)


def keep_test(run: RunFolder, when: str, results: TestResult) -> TestResult:
    """Write the records of `results`, and return these."""
    for name, result in results.items():
        run.write_jsonl(_record_name(when, name), result.rows())
    return results


def recorded_test(run: RunFolder, splits: Splits, when: str) -> TestResult | None:
    """The result that `evaluate_test` left on disk, if all of it is there and of these problems."""
    found = {}
    for name, problems in splits.tested.items():
        try:
            found[name] = Evaluation.from_rows(read_jsonl(run.path / _record_name(when, name)))
        except (TypeError, UserError):  # rows of something else
            return None
        if [record.id for record in found[name].greedy] != [problem.id for problem in problems]:
            return None
    return found


def _record_name(when: str, name: str) -> str:
    return f"eval/{when}.jsonl" if name == TEST else f"eval/{when}-{name}.jsonl"
