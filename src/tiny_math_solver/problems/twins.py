"""Twins: test problems that differ from a train problem in nothing but their numbers and names.

A model that has trained on "Ann has 3 pens and buys 2" has been shown how "Max has 7 pens and buys 5" is solved, so
such a test problem says less of what it can do with a new one. They are counted, not dropped: their answers do differ.
"""

import string
from collections.abc import Mapping, Sequence

from tiny_math_solver.problems.problem import Problem

SHOWN = 200  # characters of a question in a note
FEWEST_WORDS = 8  # that two questions have to share: "What is 3 + 4?" says little
NUMBER_WORDS = {
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty",
    "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand", "million", "half", "third", "quarter",
    "once", "twice", "double", "triple", "dozen",
}  # fmt: skip
_NO_MARKS = str.maketrans(string.punctuation, " " * len(string.punctuation), string.digits)


def twin_notes(train: Sequence[Problem], sets: Mapping[str, Sequence[Problem]]) -> list[str]:
    """A note on each set of test problems, by its name, of which some have a twin in train."""
    asked = {name: [(_words(problem.question), problem) for problem in problems] for name, problems in sets.items()}
    wanted = {words for problems in asked.values() for words, _ in problems if words.count(" ") >= FEWEST_WORDS - 1}
    endings = {_words(_ending(problem)) for problems in sets.values() for problem in problems}
    known: dict[str, Problem] = {}
    for problem in train:
        # twins end alike, which takes a fraction of the time to see
        if _words(_ending(problem)) in endings and (words := _words(problem.question)) in wanted:
            known.setdefault(words, problem)
    notes = []
    for name, problems in asked.items():
        if twins := [(problem, known[words]) for words, problem in problems if words in known]:
            test, trained = min(twins, key=lambda pair: len(pair[0].question))
            notes.append(
                f"{len(twins):,} of {len(problems):,} {name} problems differ{'s' * (len(twins) == 1)} from a train "
                f"problem only in numbers and names, such as {_shown(test)} from {_shown(trained)}"
            )
    return notes


def _words(text: str) -> str:
    """The words of a text without numbers and names, which are taken by their capitals."""
    words = text.translate(_NO_MARKS).split()
    return " ".join([word for word in words if not word[0].isupper() and word not in NUMBER_WORDS])


def _ending(problem: Problem) -> str:
    return problem.question[problem.question.rfind(". ") + 1 :]


def _shown(problem: Problem) -> str:
    line = " ".join(problem.question.split())
    return f"{problem.id} ({line if len(line) <= SHOWN else f'{line[: SHOWN - 1]}…'})"
