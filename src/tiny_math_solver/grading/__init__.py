"""The grader: reads the final answer off a completion and compares numbers exactly. The only copy of both.

graded.py      one graded completion                    rewards.py      correctness and format in TRL's signature
grade.py       question, completion, gold → Graded       golds.py        the gold number of a problem's row
kinds/         answers that are no numbers               equations.py    equations in a text, and if they hold
reader.py      completion → Answer, with the files below, in the order in which they are applied
own_text.py    the part of a completion that counts      turns.py        no reasoning, no turn tokens
truncation.py  loops and numbers that are cut off        tags.py         <think> and <answer>
judge.py       text addressed to whoever grades          markers.py      `####`, `\\boxed{}`, "the answer is"
working.py     lists and equations at a marker           revision.py     what the text around a marker changes
closing.py     the closing sentence                      prose.py        the number that a sentence states
points.py      signs that a number is its result         links.py        numbers that belong together
gaps.py        what links two numbers                    retractions.py  words that take a number back
refusals.py    no answer, or in one case only            units.py        one quantity in two units
cues.py        tables of words                           numerals.py     text → numbers
scales.py      lakh, million, dozen                      markup.py       Markdown and LaTeX → plain text
"""

from tiny_math_solver.grading.grade import Gold, grade, is_correct, parse_gold
from tiny_math_solver.grading.graded import Graded
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.numerals import Number, parse_number, write_number
from tiny_math_solver.grading.reader import Answer, extract_answer

__all__ = [
    "Answer",
    "Gold",
    "Graded",
    "How",
    "Number",
    "extract_answer",
    "grade",
    "is_correct",
    "parse_gold",
    "parse_number",
    "write_number",
]
