"""The completions that a page shows where it cannot show all: the last steps whole, of the others those that tell."""

from collections.abc import Iterator, Sequence, Set

from tiny_math_solver.report.rollouts import Step

UNDONE = 4  # turns of a step that a rescue undid, for each turn of another
Choice = tuple[int, int]  # place of a step among the steps, place of a row among its rows


def preference(steps: Sequence[Step], undone: Set[int]) -> Iterator[Choice]:
    """Every completion once, in the order in which a page takes them until it is full.

    Half of the characters go to the last steps, from the last one back; half to the completions that tell most, one of
    each step in turn (`telling_order`), and UNDONE of each step in `undone`.
    """
    sources = [_from_the_last_back(steps), _each_in_turn(steps, undone)]
    taken: set[Choice] = set()
    characters = [0, 0]
    while True:
        source = 0 if characters[0] <= characters[1] else 1
        choice = next(sources[source], None)
        if choice is None:
            return
        if choice not in taken:
            taken.add(choice)
            characters[source] += 1 + steps[choice[0]].sizes[choice[1]]
            yield choice


def _from_the_last_back(steps: Sequence[Step]) -> Iterator[Choice]:
    for place in reversed(range(len(steps))):
        for row in range(len(steps[place].places)):
            yield place, row


def _each_in_turn(steps: Sequence[Step], undone: Set[int]) -> Iterator[Choice]:
    queues = {place: iter(step.order) for place, step in enumerate(steps)}
    while queues:
        for place, queue in list(queues.items()):
            for _ in range(UNDONE if steps[place].number in undone else 1):
                row = next(queue, None)
                if row is None:
                    queues.pop(place, None)
                    break
                yield place, row


def whole_from(steps: Sequence[Step], chosen: Set[Choice]) -> int | None:
    """The number of the first of the last steps that are chosen whole; None if the last one is not."""
    found = None
    for place in reversed(range(len(steps))):
        if any((place, row) not in chosen for row in range(len(steps[place].places))):
            break
        found = steps[place].number
    return found
