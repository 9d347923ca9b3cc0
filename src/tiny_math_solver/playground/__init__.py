"""Querying a model: in the terminal (`tiny-math solve`) and in a browser (`tiny-math play`).

solver.py  a question → a streamed completion, its answer, a vote     terminal.py   the prompt of `solve`
play.py    the server of `play`, for this machine only                page.*        its page
"""
