"""The grader: reads the final answer off a completion and compares numbers exactly. The only copy of both."""

from tiny_math_solver.grading.grade import Gold, Graded, grade, rewards_of
from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.numerals import Number, parse_gold, parse_number, write_number
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
