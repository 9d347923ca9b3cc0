"""Side-by-side measurements: ours and the stock way, alternating in one run, medians after a warm-up.

machine.py    what the hardware can do at best
rollouts.py   the engine, transformers' generate and, from another environment, vLLM: the same rows and tokens
steps.py      GRPO steps and the time to a dev accuracy: ours against TRL's own GRPOTrainer
report.py     all of it as a table and as JSON
"""
