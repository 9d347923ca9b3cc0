"""Before a run starts: whether it can succeed, fit and finish.

start.py      what `train` asks before its first step, and refuses
check.py      the whole list, for `tiny-math check`
memory.py     memory part by part, and a trial        forecast.py   what the base model makes of a few problems
pace.py       the speeds that were measured           grader.py     the reward on tricky answers
"""
