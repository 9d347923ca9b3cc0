"""Side-by-side measurements: ours and the stock way, alternating in one run, medians after a warm-up.

machine.py    what the hardware can do at best
rollouts.py   the engine, transformers' generate and, from another environment, vLLM: the same rows and tokens
families.py   a small model of every family: the engine's distance from transformers
steps.py      GRPO steps and the time to a dev accuracy: ours against TRL's own GRPOTrainer
trace.py      kernels and bytes of a GPU's step, counted without one
sampling.py   the time to a dev accuracy with the settings that choose problems and rows, and without
report.py     all of it as a table and as JSON
"""

# Each part that can be measured, and the devices on which it is measured unless parts are chosen: on a CPU a step of
# the large model takes stock TRL an hour.
PARTS: dict[str, tuple[str, ...]] = {
    "machine": ("cpu", "cuda"),
    "rollouts": ("cpu",),
    "rollouts-0.5b": ("cpu", "cuda"),
    "rollouts-families": ("cpu",),
    "steps": ("cpu",),
    "steps-0.5b": ("cuda",),
    "table-0.5b": ("cuda",),
    "memory": ("cuda",),
    "race": ("cpu",),
    "trace": ("cpu",),
    "sampling": (),  # half an hour: only if chosen
}
