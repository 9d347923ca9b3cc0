"""The problems of training: how often the model solved each, over all completions of the run."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tiny_math_solver.report.rollouts import RolloutLog

COURSES = {
    "never solved": "no sample was right",
    "improving": "a quarter more samples are right in the later half of its visits than in the earlier",
    "slipping": "a quarter fewer samples are right in the later half of its visits than in the earlier",
    "in between": "sometimes right, without such a change, or asked once",
    "always solved": "every sample was right",
}
CHANGE = 0.25
POINTS = 16  # of the course of one problem
Visit = tuple[int, int, int]  # step, right samples, all samples


def problem_list(log: RolloutLog) -> list[dict[str, Any]]:
    """Every problem of training with its visits, those with the most samples first."""
    visits: dict[str, list[Visit]] = defaultdict(list)
    for step in log.steps:
        for id, (right, samples) in step.problems.items():
            visits[id].append((step.number, right, samples))
    rows = [
        {
            "id": id,
            "question": log.questions[id],
            "visits": len(course),
            "right": sum(right for _, right, _ in course),
            "samples": sum(samples for _, _, samples in course),
            "course": course_of(course),
            "points": thinned(course),
        }
        for id, course in visits.items()
    ]
    return sorted(rows, key=lambda row: -row["samples"])


def course_of(visits: Sequence[Visit]) -> str:
    """The name in COURSES of the way a problem went."""
    if not (right := sum(right for _, right, _ in visits)):
        return "never solved"
    if right == sum(samples for _, _, samples in visits):
        return "always solved"
    half = len(visits) // 2
    if half:
        change = _rate(visits[-half:]) - _rate(visits[:half])
        if abs(change) >= CHANGE:
            return "improving" if change > 0 else "slipping"
    return "in between"


def thinned(visits: Sequence[Visit]) -> list[Visit]:
    """At most POINTS visits; neighbours of a longer course are added up under the step of the last of them."""
    size = -(-len(visits) // POINTS)
    parts = [visits[i : i + size] for i in range(0, len(visits), size)]
    return [(part[-1][0], sum(v[1] for v in part), sum(v[2] for v in part)) for part in parts]


def _rate(visits: Sequence[Visit]) -> float:
    return sum(right for _, right, _ in visits) / sum(samples for _, _, samples in visits)
