"""The grader: read the final answer off a completion, compare numbers exactly. The only copy of both."""

from tiny_math_solver.grading.markers import How
from tiny_math_solver.grading.numerals import Number, parse_gold, parse_number, write_number
from tiny_math_solver.grading.reader import Answer, extract_answer, is_correct

__all__ = ["Answer", "How", "Number", "extract_answer", "is_correct", "parse_gold", "parse_number", "write_number"]
