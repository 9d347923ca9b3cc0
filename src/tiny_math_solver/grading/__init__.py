"""The grader: reads the final answer off a completion and compares numbers exactly. The only copy of both.

grade.py       question, completion, gold → Graded       rewards.py      the same in TRL's signature
reader.py      completion → Answer, with the files below, in the order in which they are applied
own_text.py    the part of a completion that counts      turns.py        no reasoning, no turn tokens
truncation.py  loops and numbers that are cut off        judge.py        text addressed to whoever grades
markers.py     `####`, `\\boxed{}`, "the answer is"      working.py      lists and equations at a marker
revision.py    what the text around a marker changes     closing.py      the closing sentence
prose.py       the number that a sentence states         points.py       signs that a number is its result
links.py       numbers that belong together              gaps.py         what links two numbers
retractions.py words that take a number back             refusals.py     no answer, or in one case only
units.py       one quantity in two units                 cues.py         tables of words
numerals.py    text → numbers                            scales.py       lakh, million, dozen
markup.py      Markdown and LaTeX → plain text
"""

from tiny_math_solver.grading.grade import Gold, Graded, grade, is_correct, parse_gold, rewards_of
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
    "rewards_of",
    "write_number",
]
