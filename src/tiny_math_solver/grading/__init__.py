"""The grader: reads the final answer off a completion and compares numbers exactly. The only copy of both.

grade.py     question, completion, gold → Graded       rewards.py   the same in TRL's signature
gold.py      gold → number
reader.py    completion → Answer, with the files below, in the order in which they are applied:
    own_text.py   the part of a completion that counts    turns.py      no reasoning, no turn tokens
    loops.py      words repeated without an end           judge.py      text addressed to whoever grades
    truncation.py a number that the length limit has cut  markers.py    `####`, `\\boxed{}`, "the answer is"
    working.py    lists and equations at a marker         revision.py   what the text around a marker changes
    closing.py    the closing sentence, if no marker decides
    prose.py      the number that a sentence states       links.py      numbers that belong together
    gaps.py       what links two numbers
    refusals.py   no answer, or in one case only          retractions.py  words that take a number back
    units.py      one quantity in two units               cues.py       words that change what a number means
    numerals.py   text → numbers                          scales.py     lakh, million, dozen
    markup.py     Markdown and LaTeX → plain text
"""

from tiny_math_solver.grading.gold import parse_gold
from tiny_math_solver.grading.grade import Gold, Graded, grade, rewards_of
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.numerals import Number, parse_number, write_number
from tiny_math_solver.grading.reader import Answer, extract_answer, is_correct

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
