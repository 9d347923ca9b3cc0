"""Graded completions → rewards: those of the package, and functions of the user in TRL's signature.

grader.py       everything that a configuration says about right and wrong: kind of answer, rewards, measure
shipped.py      the rewards that come with the package
own.py          calls the user's functions, and checks what they return
completion.py   what a reward is told of a completion
trial.py        tries the user's functions before a run
"""
