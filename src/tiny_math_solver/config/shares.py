"""The batch of a step shared by another number of processes."""

from tiny_math_solver.config.schema import Config
from tiny_math_solver.support import processes

BATCH_FIELDS = (
    "grpo.per_device_train_batch_size", "grpo.gradient_accumulation_steps", "grpo.steps_per_generation",
    "grpo.generation_batch_size",
)  # fmt: skip


def same_batch(config: Config, completions: int) -> dict[str, int] | None:
    """The fields of section `grpo` to change so that a step has `completions`, each generation batch as many as then.

    `completions` come from `config` and another number of processes. None where these processes cannot share them
    equally. A micro-batch is at most as large as configured.
    """
    grpo, count = config.grpo, processes.count()
    rows, repeats = grpo["per_device_train_batch_size"], grpo["gradient_accumulation_steps"]
    generation = grpo.get("generation_batch_size")
    if generation is None:
        generation = completions // repeats * (grpo.get("steps_per_generation") or repeats)
    if completions % count or generation % count:
        return None
    of_step, of_generation = completions // count, generation // count
    rows = max(n for n in range(1, rows + 1) if of_step % n == 0 and of_generation % n == 0)
    changed = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": of_step // rows}
    if grpo.get("steps_per_generation"):
        changed["steps_per_generation"] = of_generation // rows
    return {name: value for name, value in changed.items() if value != grpo[name]}
