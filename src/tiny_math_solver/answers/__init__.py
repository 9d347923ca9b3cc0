"""The grader: read the final answer off a completion, compare numbers exactly. The only copy of both."""

from tiny_math_solver.answers.extract import Answer, extract_answer, is_correct
from tiny_math_solver.answers.markers import How
from tiny_math_solver.answers.numerals import Number, parse_gold, parse_number, write_number

__all__ = ["Answer", "How", "Number", "extract_answer", "is_correct", "parse_gold", "parse_number", "write_number"]
