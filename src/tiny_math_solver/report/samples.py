"""A completion of training without its texts, and which completions of a step tell a reader most."""

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import chain, zip_longest

FIRST, FORMAT, CUT, ENDS, DEAD, OTHER = (
    "first right answer to a problem",
    "right, but not in its place",
    "cut off",
    "best or worst of its group",
    "from a group all right or all wrong",
    "other",
)
KINDS = (FIRST, FORMAT, CUT, ENDS, DEAD, OTHER)  # a completion is of the first that fits


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of rollouts.jsonl without its texts."""

    place: int  # in the file, in bytes
    size: int  # of its completion, in characters that the page would show
    id: str  # of the problem
    correct: bool
    strict: bool
    finished: bool
    used: bool
    reward: float
    advantage: float
    tokens: int


Group = Sequence[Sample]  # the samples of one problem in one step


def outcome(group: Group) -> str:
    """`all right` or `all wrong` if the rewards of a group are all equal, so that it has no gradient; else `mixed`."""
    if any(sample.reward != group[0].reward for sample in group):
        return "mixed"
    return "all right" if group[0].correct else "all wrong"


def kinds_of(group: Group, *, solved: bool) -> list[str]:
    """The kind of each sample of a group; `solved` is True if its problem was solved in an earlier step."""
    first = None if solved else next((sample for sample in group if sample.correct), None)
    by_advantage = sorted(group, key=lambda sample: sample.advantage)
    is_mixed = outcome(group) == "mixed"

    def kind(sample: Sample) -> str:
        if sample is first:
            return FIRST
        if sample.correct and not sample.strict:
            return FORMAT
        if not sample.finished:
            return CUT
        if is_mixed:
            return ENDS if sample is by_advantage[0] or sample is by_advantage[-1] else OTHER
        return DEAD if sample is group[0] else OTHER

    return [kind(sample) for sample in group]


def telling_order(groups: Sequence[Group], solved: Set[str]) -> list[tuple[Sample, str]]:
    """The samples of a step with their kinds, those that tell most first.

    One of each kind in turn, of the groups with the largest advantages first; the rest of the groups come last.
    """
    by_kind: dict[str, list[tuple[float, Sample]]] = defaultdict(list)
    for group in groups:
        largest = max(abs(sample.advantage) for sample in group)
        for sample, kind in zip(group, kinds_of(group, solved=group[0].id in solved), strict=True):
            by_kind[kind].append((largest, sample))
    queues = {
        kind: [(sample, kind) for _, sample in sorted(entries, key=lambda entry: -entry[0])]
        for kind, entries in by_kind.items()
    }
    turns = zip_longest(*(queues.get(kind, []) for kind in KINDS if kind != OTHER))
    return [*filter(None, chain.from_iterable(turns)), *queues.get(OTHER, [])]
