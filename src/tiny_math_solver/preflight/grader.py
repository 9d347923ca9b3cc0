"""The grader on answers that have fooled graders: a table to run before trusting a number."""

from tiny_math_solver.grading.grade import grade

# (completion, gold, whether it is right, whether its answer stands after ####)
TRICKY = (
    ("4 * 3 = 12\n#### 12", "12", True, True),
    ("#### 1,200", "1200", True, True),
    ("#### $18.00", "18", True, True),
    ("The answer is \\boxed{18}.", "18", True, False),
    ("So she has **18** left.\nAnswer: 18", "18", True, False),
    ("#### -5", "-5", True, True),
    ("#### 5", "-5", False, True),
    ("#### 18\nWait, that was wrong.\n#### 20", "20", True, True),
    ("#### 18\nWait, that was wrong.\n#### 20", "18", False, True),
    ("#### 18 or 20", "18", False, False),
    ("#### 17-19", "17", False, False),
    ("#### 3/4", "3", False, True),
    ("#### 0.75", "3/4", True, True),
    ("#### 9007199254740993", "9007199254740992", False, True),
    ("#### 1e3", "1000", True, True),
    ("####", "18", False, False),
    ("", "18", False, False),
    ("#### 12", "12.0", True, True),
    ("#### ??", "12", False, False),
)


def misread() -> list[str]:
    """A line for each answer of the table that is not paid as it should be; empty if there is none."""
    wrong = []
    for completion, gold, right, marked in TRICKY:
        graded = grade(None, completion, gold)
        if (found := (graded.correct, graded.is_marked)) != (right, marked):
            wrong.append(f"{completion!r} with gold {gold}: (right, after ####) {found}, expected {(right, marked)}")
    return wrong
