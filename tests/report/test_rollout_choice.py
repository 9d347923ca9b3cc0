"""rollouts.jsonl is read as it grows, and of its completions the page takes the last and those that tell most."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers.long_run import rows
from tiny_math_solver.report import rollouts
from tiny_math_solver.report.preference import preference, whole_from
from tiny_math_solver.report.rollouts import RolloutLog
from tiny_math_solver.report.samples import CUT, DEAD, ENDS, FIRST, FORMAT, OTHER, Sample, kinds_of, telling_order

# -- Which completions tell most ------------------------------------------------------------------------------------


def sample(place: int, right: bool, advantage: float = 0.0, *, id: str = "a", **others: Any) -> Sample:
    graded = {"strict": right, "finished": True, "used": True, "reward": float(right), "tokens": 10, "size": 100}
    return Sample(place=place, id=id, correct=right, advantage=advantage, **(graded | others))


def test_a_completion_is_of_the_first_kind_that_fits():
    group = [
        sample(0, False, -0.9), sample(1, True, 0.7), sample(2, True, 0.7, strict=False),
        sample(3, False, finished=False), sample(4, False, -1.1), sample(5, True, 1.5), sample(6, True, 0.7),
    ]  # fmt: skip
    assert kinds_of(group, solved=False) == [OTHER, FIRST, FORMAT, CUT, ENDS, ENDS, OTHER]
    assert kinds_of(group, solved=True) == [OTHER, OTHER, FORMAT, CUT, ENDS, ENDS, OTHER]
    assert kinds_of([sample(i, False) for i in range(3)], solved=True) == [DEAD, OTHER, OTHER]
    assert kinds_of([sample(i, True) for i in range(3)], solved=False) == [FIRST, OTHER, OTHER]


def test_a_step_gives_one_of_each_kind_in_turn_those_of_the_most_uneven_groups_first():
    even = [sample(0, False, -1.0, id="even"), sample(1, False, -1.0, id="even"), sample(2, True, 1.0, id="even")]
    uneven = [
        sample(3, False, -0.5, id="uneven"),
        sample(4, True, 2.5, id="uneven"),
        sample(5, False, -0.6, id="uneven"),
    ]
    dead = [sample(6, False, id="dead"), sample(7, False, id="dead", finished=False)]
    order = telling_order([even, uneven, dead], solved={"even"})
    assert [(chosen.place, kind) for chosen, kind in order] == [
        (4, FIRST), (7, CUT), (5, ENDS), (6, DEAD), (0, ENDS), (2, ENDS), (3, OTHER), (1, OTHER),
    ]  # fmt: skip


def log_of(folder: Path, made: list[dict[str, Any]]) -> RolloutLog:
    folder.mkdir(exist_ok=True)
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    log = RolloutLog(folder / "rollouts.jsonl")
    log.update()
    return log


def test_half_of_a_page_goes_to_the_last_steps_and_half_to_what_tells_in_all(tmp_path: Path):
    log = log_of(tmp_path, list(rows(960, 40, per_step=96)))
    order = list(preference(log.steps, undone={3}))
    assert len(order) == len(set(order)) == 960
    chosen = order[:300]
    by_step = Counter(log.steps[step].number for step, _ in chosen)
    assert whole_from(log.steps, set(chosen)) == 10
    assert by_step[10] == 96
    assert by_step[9] > 40  # the last steps go on from here
    assert by_step[3] >= 3 * by_step[2] > 0  # undone by a rescue
    assert min(by_step.values()) >= 10  # no step is without its own
    characters = [sum(log.steps[s].sizes[r] for s, r in part) for part in (
        [c for c in chosen if c[0] >= 8], [c for c in chosen if c[0] < 8]
    )]  # fmt: skip
    assert characters[0] / sum(characters) == pytest.approx(0.5, abs=0.1)
    assert whole_from(log.steps, set(order)) == 1
    assert whole_from(log.steps, set(order) - {(9, 0)}) is None


def test_the_first_right_answer_is_that_of_the_whole_run(tmp_path: Path):
    """A problem solved in an earlier step is no first hit in a later one, and in one step it is only hit first once."""
    made = [
        {**row, "step": 1 + i // 8, "id": "a", "correct": i not in (0, 1), "strict": True, "finished": True}
        for i, row in enumerate(rows(24, 10))
    ]
    log = log_of(tmp_path, made)
    assert [(step.number, kind) for step in log.steps for kind in step.kinds if kind == FIRST] == [(1, FIRST)]
    assert [step.problems["a"] for step in log.steps] == [(6, 8), (8, 8), (8, 8)]


# -- Reading a file that grows --------------------------------------------------------------------------------------


def test_a_file_that_grows_is_read_on_from_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = list(rows(96, 10, per_step=16))
    lines = [json.dumps(row) + "\n" for row in made]
    path = tmp_path / "rollouts.jsonl"
    log = RolloutLog(path)
    starts: list[int] = []
    read = rollouts.read_jsonl_from

    def noted(path: Path, place: int, lines: int) -> Any:
        starts.append(place)
        return read(path, place, lines)

    monkeypatch.setattr(rollouts, "read_jsonl_from", noted)
    log.update()
    assert log.steps == []
    for end in (5, 16, 40, 41, 96):
        path.write_text("".join(lines[:end]) + lines[end % 96][:20])  # a line is being written
        log.update()
    assert starts == [0, 0, 0, 0, len("".join(lines[:32])), len("".join(lines[:32]))]
    whole = RolloutLog(path)
    whole.update()
    assert log.steps == whole.steps
    assert [next(log.rows([place]))["completion"] for step in log.steps for place in step.places] == [
        row["completion"] for row in made
    ]


def test_a_file_that_was_cut_back_is_read_anew(tmp_path: Path):
    """A resumed run cuts its records back to the checkpoint, and may have written more than before until we look."""
    log = log_of(tmp_path, list(rows(96, 10, per_step=16)))
    other = [
        *rows(16, 10, per_step=16),
        *({**row, "step": row["step"] + 1} for row in rows(112, 10, per_step=16, seed=1)),
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    log.update()
    fresh = log_of(tmp_path / "fresh", other)
    assert log.steps == fresh.steps
    assert log.questions == fresh.questions
    (tmp_path / "rollouts.jsonl").unlink()
    log.update()
    assert log.steps == []
