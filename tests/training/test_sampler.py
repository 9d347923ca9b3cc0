"""The order of the problems: TRL's where nothing is passed over, and the same after a run is resumed."""

from collections import Counter

import pytest
from trl.trainer.utils import RepeatSampler

from tiny_math_solver.training.problem_history import LEAST, ProblemHistory
from tiny_math_solver.training.sampler import ProblemSampler

NAMES = [f"p{n}" for n in range(50)]


def hopeless(names: list[str], base: float = 0.5) -> ProblemHistory:
    """A history in which all of `names` were all wrong at their last visit."""
    history = ProblemHistory()
    for name in names:
        history.observe(1, name, 0, 4)
    history.hard_base = base
    return history


@pytest.mark.parametrize("shuffle", [True, False])
def test_without_a_history_the_order_is_that_of_trls_sampler_for_three_epochs(shuffle: bool):
    """50 problems in batches of 7: each epoch leaves one out. Catches another generator or another end of an epoch."""
    theirs = RepeatSampler(NAMES, mini_repeat_count=1, batch_size=7, shuffle=shuffle, seed=42)
    ours = ProblemSampler(NAMES, 7, 42, shuffle=shuffle)
    for _ in range(3):
        assert [problem for _ in range(7) for problem in ours.batch()] == list(theirs)
    assert ours.skipped == 0


def test_problems_are_passed_over_as_often_as_their_history_says():
    """40 of 50 are asked with probability 1/4. Over 400 epochs of 20 asked problems each, 6.7 standard deviations."""
    sampler = ProblemSampler(NAMES, 5, 1, history=hopeless(NAMES[:40], base=0.25))
    epochs, asked = 400, Counter[int]()
    while sampler._epoch < epochs:
        asked.update(sampler.batch())
    rates = [asked[n] / epochs for n in range(50)]
    assert all(0.1 < rate < 0.4 for rate in rates[:40])
    assert sum(rates[:40]) / 40 == pytest.approx(0.25, abs=0.03)
    assert all(rate > 0.9 for rate in rates[40:])  # a few are left out at the end of an epoch


def test_each_problem_is_asked_at_most_once_an_epoch_and_once_a_batch():
    sampler = ProblemSampler(NAMES, 6, 3, history=hopeless(NAMES[:30]))
    for _ in range(50):
        epoch, chosen = sampler._epoch, sampler.batch()
        chosen += sampler.more(2)
        assert len(set(chosen)) == 8
        if sampler._epoch == epoch:
            earlier = sampler._order[: sampler._place]
            assert len(earlier) == len(set(earlier))


def test_a_batch_is_filled_even_if_every_problem_is_at_its_rarest():
    """Catches a loop without an end. Once around the problems, they are asked whatever their history."""
    history = hopeless(NAMES, base=0)
    assert history.ask_probability("p0") == LEAST
    sampler = ProblemSampler(NAMES, 50, 5, history=history)
    assert sorted(sampler.batch()) == list(range(50))
    assert 0 < sampler.skipped <= 50
    assert sampler.more(3) == []  # none is left that the batch has not asked


def test_skipped_counts_what_the_batch_under_way_passed_over():
    sampler = ProblemSampler(NAMES, 4, 2, history=hopeless(NAMES[:25], base=0))
    chosen = sampler.batch()
    place = sampler._order.index(chosen[-1])
    assert sampler.skipped == place + 1 - 4
    before = sampler.skipped
    sampler.more(4)
    assert sampler.skipped >= before
    sampler.history = None
    sampler.batch()
    assert sampler.skipped == 0


@pytest.mark.parametrize("batches", [0, 3, 20])
def test_a_restored_sampler_goes_on_as_the_saved_one(batches: int):
    history = hopeless(NAMES[:20])
    sampler = ProblemSampler(NAMES, 6, 9, history=history)
    for _ in range(batches):
        sampler.batch()
        sampler.more(2)
    restored = ProblemSampler(NAMES, 6, 9, history=history)
    restored.load_state_dict(sampler.state_dict())
    for _ in range(12):
        assert restored.batch() == sampler.batch()
        assert restored.more(1) == sampler.more(1)
