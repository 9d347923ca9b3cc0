"""EleutherAI's lm-evaluation-harness beside our own evaluation: the same model, the same problems, both scores.

tasks.py        a task of the harness, asked about problems that we read
model.py        our rollouts as a model of the harness
sides.py        one loaded model evaluated by our prompt and grader, and by the harness
comparison.py   completions of both prompts read by both graders, and what the difference comes from
lines.py        the comparison as lines of text, and as a JSON object

Prompts, few-shot examples, filters and metric are the harness's; only the problems and the completions are ours.
"""
