"""The memory a run will take, part by part, and a trial of its largest parts before the first step."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.support import processes
from tiny_math_solver.support.device import forked_rng, free_gpu_memory, synchronize
from tiny_math_solver.support.out_of_memory import retry_on_oom
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.scorer import whole_rows
from tiny_math_solver.update.torch_scorer import FLOAT32_BYTES, torch_pass_bytes

NO_LIMIT = 1 << 62  # bytes
STATE = 3  # sizes of what is trained: weights, and the two moments of Adam


@dataclass(frozen=True)
class Part:
    """One use of memory; `setting` makes it smaller, `held` parts are taken already."""

    name: str
    size: int  # bytes
    setting: str = ""
    held: bool = False

    @property
    def advice(self) -> str:
        """The change of a setting that makes the part smaller."""
        return "set update.own_passes to false" if self.setting == "update.own_passes" else f"lower {self.setting}"


@dataclass(frozen=True)
class Longest:
    """The longest row that can come: tokens of its prompt, tokens of its completion."""

    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class MemoryPlan:
    """All parts, and the `free` bytes beside what is taken already."""

    parts: list[Part]
    free: int

    @property
    def needed(self) -> int:
        """Bytes still to be taken."""
        return sum(part.size for part in self.parts if not part.held)

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    def __str__(self) -> str:
        parts = ", ".join(f"{part.name} {readable(part.size)}" + " (allocated)" * part.held for part in self.parts)
        return f"{readable(self.needed)} more needed, {readable(self.free)} free: {parts}"

    @property
    def advice(self) -> str:
        """The settings to lower, that of the largest part first."""
        largest = sorted((p for p in self.parts if p.setting), key=lambda part: -part.size)
        return ", ".join(dict.fromkeys(part.advice for part in largest))


def memory_plan(trainer: MathGRPOTrainer, longest: Longest) -> MemoryPlan:
    """The plan of a trainer whose weights are loaded; activations are counted as the passes keep them."""
    model, rollouts = trainer.accelerator.unwrap_model(trainer.model), trainer.rollouts
    parts = [
        Part("weights", sum(p.nbytes for p in model.parameters()), held=True),
        Part("adapter's gradient and optimizer", 4 * trained_bytes(trainer), "lora.r"),
    ]
    if trainer.states_kept and trainer.accelerator.device.type != "cuda":  # they are on the CPU
        size = trainer.states_kept * STATE * trained_bytes(trainer)
        parts.append(Part("states to go back to", size, "lora.r"))
    if isinstance(rollouts, EngineRollouts):
        parts.append(Part("the rollouts' copy", rollouts.weights.nbytes, held=True))
        cache = rollouts.cache_bytes(trainer.rows_per_generation, longest.prompt, trainer.sampling)
        parts.append(Part("keys and values", cache, "rollouts.batch_size"))
    if trainer.update is not None and trainer.update.scorer.nbytes:
        parts.append(Part("gradients of merged weights", trainer.update.scorer.nbytes, "update.own_passes"))
    parts.append(Part("a pass of the update", pass_bytes(trainer, longest), "update.tokens_per_pass"))
    device = trainer.accelerator.device.type
    sharing = 1 if device == "cuda" else processes.on_this_machine()
    return MemoryPlan(parts, available(device) // sharing)


def trained_bytes(trainer: MathGRPOTrainer) -> int:
    """Bytes of what is trained, in float32."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return FLOAT32_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)


def pass_bytes(trainer: MathGRPOTrainer, longest: Longest) -> int:
    """Bytes that one forward and backward pass keeps: activations layer by layer, and logits."""
    if trainer.update is not None:
        return trainer.update.scorer.pass_bytes(max(trainer.update.tokens_per_pass.value, longest.tokens))
    rows = trainer.args.per_device_train_batch_size
    return torch_pass_bytes(
        trainer.policy.config, trainer.policy_dtype, rows * longest.tokens, rows * longest.completion,
        is_checkpointed=bool(trainer.args.gradient_checkpointing),
    )  # fmt: skip


def try_longest(trainer: MathGRPOTrainer, longest: Longest) -> float:
    """Do the largest parts once, with the longest rows there can be; returns tokens per second of the update.

    Where memory runs out the parts are halved, for the run as well; an out-of-memory error is raised where that does
    not help. No random state is touched, and no gradient is left.
    """
    rollouts, update = trainer.rollouts, trainer.update
    if isinstance(rollouts, EngineRollouts):
        rollouts.try_longest(trainer.rows_per_generation, longest.prompt, trainer.sampling)

    def shrink() -> bool:
        return update is not None and update.tokens_per_pass.halve(at_least=longest.tokens)

    with forked_rng(trainer.accelerator.device):
        speed = retry_on_oom(lambda: _try_pass(trainer, longest), shrink)
        is_short = update is not None and update.tokens_per_pass.value < speed
        return max(speed, _try_pass(trainer, longest)) if is_short else speed  # once more, warm


def _try_pass(trainer: MathGRPOTrainer, longest: Longest) -> float:
    rows = trainer.args.per_device_train_batch_size
    if trainer.update is not None:
        rows = max(1, trainer.update.tokens_per_pass.value // longest.tokens)
    model: Any = trainer.model
    was_training = model.training
    model.train()
    try:
        started = time.perf_counter()
        _score(trainer, made_up_rows(rows, longest, trainer.accelerator.device)).sum().backward()
        synchronize(trainer.accelerator.device.type)
        return rows * longest.tokens / (time.perf_counter() - started)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)


def _score(trainer: MathGRPOTrainer, batch: Batch) -> torch.Tensor:
    """Log-probabilities of a batch as the update computes them, with their gradient."""
    if trainer.update is not None:
        trainer.update.scorer.begin()
        return trainer.update.scorer.logprobs(batch)
    ids, mask, completion = whole_rows(batch)
    scored, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, completion, compute_entropy=True)
    return scored


def made_up_rows(rows: int, longest: Longest, device: Any) -> Batch:
    """Rows of the greatest length that share nothing."""
    ids = torch.arange(rows * longest.tokens, device=device).view(rows, -1) % 97
    prompt, completion = ids.split([longest.prompt, longest.completion], 1)
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "group": torch.arange(rows, device=device),
    }


def available(device: str) -> int:
    """Bytes that can still be taken: of the GPU, else of the machine or of the container this runs in."""
    free = free_gpu_memory(device)
    return min(psutil.virtual_memory().available, _container_free()) if free is None else free


def _container_free() -> int:
    """Bytes that the control group leaves, file cache counted as free; NO_LIMIT where there is none."""
    for limit, used, stat in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
        *[tuple(f"/sys/fs/cgroup/memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat"))],
    ):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in Path(stat).read_text(encoding="ascii").splitlines())
            taken = int(Path(used).read_text(encoding="ascii")) - int(counts.get("inactive_file", 0))
            return max(0, int(Path(limit).read_text(encoding="ascii")) - taken)  # "max" is no number: no limit
    return NO_LIMIT


def readable(size: float) -> str:
    """Bytes for people: 3.7 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
