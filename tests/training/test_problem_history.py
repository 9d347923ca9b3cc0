"""Pass rates of problems: which of them are asked less often, and how that is tuned."""

import pytest
import torch

from tiny_math_solver.runs.state_files import load_tree, save_tree
from tiny_math_solver.training.problem_history import LEAST, ProblemHistory


def seen(*visits: tuple[str, int]) -> ProblemHistory:
    history = ProblemHistory()
    for step, (problem, right) in enumerate(visits):
        history.observe(step, problem, right, 4)
    return history


def test_only_problems_that_were_all_right_or_all_wrong_lately_are_asked_less_often():
    """Catches a streak that goes on over a mixed visit, or that counts right and wrong visits together."""
    history = seen(("easy", 4), ("easy", 4), ("hard", 0), ("hard", 0), ("hard", 0), ("mixed", 0), ("mixed", 1))
    history.easy_base, history.hard_base = 0.6, 0.4
    assert history.ask_probability("easy") == pytest.approx(0.6**2)
    assert history.ask_probability("hard") == pytest.approx(0.4**3)
    assert history.ask_probability("mixed") == history.ask_probability("never asked") == 1
    history.observe(9, "hard", 4, 4)
    assert history.ask_probability("hard") == 0.6
    history.observe(10, "hard", 0, 0)  # no samples: nothing is known
    assert history.ask_probability("hard") == 0.6


def test_no_problem_is_excluded_for_good():
    assert seen(*[("hard", 0)] * 1000).ask_probability("hard") == LEAST > 0


def test_a_base_falls_while_a_batch_holds_more_such_groups_than_it_should_and_rises_otherwise():
    """Of 24 groups 2 may be all right and 4 all wrong. Catches the two bases taken for one another."""
    groups = [(f"{n}", 4 if n < 3 else 0 if n < 7 else 2, 4) for n in range(24)]  # 3 all right, 4 all wrong
    history = ProblemHistory()
    history.observe_batch(1, groups)
    assert (history.easy_base, history.hard_base) == (pytest.approx(0.49), pytest.approx(0.51))
    for step in range(2, 200):
        history.observe_batch(step, groups)
    assert (history.easy_base, history.hard_base) == (LEAST, 1.0)


def test_a_restored_history_asks_as_the_saved_one(tmp_path):
    history = seen(("a", 4), ("b", 0), ("b", 0), ("c", 1))
    history.observe_batch(5, [("d", 0, 4)])
    save_tree(tmp_path / "state", history.state_dict())
    restored = ProblemHistory()
    restored.load_state_dict(load_tree(tmp_path / "state"))
    assert restored.streaks == {"a": 1, "b": -2, "c": 0, "d": -1}
    assert [restored.ask_probability(p) for p in "abcde"] == [history.ask_probability(p) for p in "abcde"]
    assert (restored.easy_base, restored.hard_base) == (history.easy_base, history.hard_base)


def test_the_history_of_all_gsm8k_stays_small_in_a_checkpoint(tmp_path):
    history = ProblemHistory()
    for step in range(20):
        history.observe_batch(step, [(f"train-{n}", n % 5, 4) for n in range(7473)])
    save_tree(tmp_path / "state", history.state_dict())
    assert history.state_dict()["streaks"].dtype == torch.int32
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000
