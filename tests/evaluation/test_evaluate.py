"""Evaluation blocks from records written by hand."""

import pytest

from tiny_math_solver.evaluation.evaluate import Evaluation, EvaluationRecord
from tiny_math_solver.grading import parse_gold


def record(id: str, answer: str | None, gold: str, sample: int | None = None, how: str = "hashes") -> EvaluationRecord:
    right = answer is not None and parse_gold(answer) == parse_gold(gold)
    return EvaluationRecord(id, "q", gold, "text", answer, how, right, right and how == "hashes", 5, True, sample)


def test_the_block_counts_lenient_and_strict_apart():
    block = Evaluation([record("a", "1", "1"), record("b", "2", "2", how="phrase"), record("c", None, "3")]).summary()
    assert (block["n"], block["correct"]) == (3, 2)
    assert block["accuracy"] == pytest.approx(2 / 3)
    assert block["strict_accuracy"] == pytest.approx(1 / 3)
    assert block["pass_at_k"] == block["maj_at_k"] == {}


def test_majority_votes_by_number_whatever_the_golds_writing():
    """ "1,000" in the gold column and 1000 in a completion are one number and one vote."""
    sampled = [record("a", answer, "1,000", i) for i, answer in enumerate(["1000", "1000", "7", None])]
    block = Evaluation([record("a", "1000", "1,000")], sampled, 4).summary()
    assert block["maj_at_k"]["4"] == 1.0


def test_a_paired_verdict_needs_the_same_problems():
    one, other = Evaluation([record("a", "1", "1")]), Evaluation([record("b", "1", "1")])
    with pytest.raises(ValueError, match="same problems"):
        one.against(other)
    assert one.against(one).p_value == 1.0
