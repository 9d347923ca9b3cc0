"""Asking a model: in the terminal (`tiny-math solve`) and in a browser (`tiny-math play`).

ask.py     a question → reasoning as it is written, answer, vote      terminal.py   the prompt of `solve`
play.py    the page of `play`, served to this machine alone           page.*        what it shows
"""
