"""What memory a run will take, part by part, and a trial of its largest parts before the first step."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from tiny_math_solver.rollouts import EngineRollouts
from tiny_math_solver.support.out_of_memory import retry_on_oom
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.update.kernel_scorer import HEAD_TOKENS as NATIVE_HEAD_TOKENS
from tiny_math_solver.update.passes import HEAD_TOKENS

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Part:
    name: str
    size: int  # bytes
    setting: str = ""  # what makes it smaller
    held: bool = False  # it is taken already


@dataclass(frozen=True)
class Longest:
    """The longest row that can come: tokens of its prompt, tokens of its completion."""

    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Plan:
    parts: list[Part]
    free: int  # bytes, without what is taken already

    @property
    def needed(self) -> int:
        """Bytes still to be taken."""
        return sum(part.size for part in self.parts if not part.held)

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    def __str__(self) -> str:
        parts = ", ".join(f"{part.name} {readable(part.size)}" for part in self.parts)
        return f"{readable(self.needed)} more needed, {readable(self.free)} free: {parts}"

    @property
    def advice(self) -> str:
        largest = sorted((p for p in self.parts if p.setting), key=lambda part: -part.size)
        return ", ".join(dict.fromkeys(f"lower {part.setting}" for part in largest))


def memory_plan(trainer: MathGRPOTrainer, longest: Longest) -> Plan:
    """Of a trainer whose weights are loaded; activations are counted as the passes keep them."""
    model, rollouts = trainer.accelerator.unwrap_model(trainer.model), trainer.rollouts
    device = trainer.accelerator.device.type
    parts = [
        Part("weights", sum(p.nbytes for p in model.parameters()), held=True),
        Part("adapter's gradient and optimizer", 4 * trained_bytes(trainer), "lora.r"),
    ]
    if isinstance(rollouts, EngineRollouts):
        parts.append(Part("the rollouts' copy", rollouts.weights.nbytes, held=True))
        cache = rollouts.cache_bytes(trainer.rows_at_once, longest.prompt, trainer.sampling)
        parts.append(Part("keys and values", cache, "rollouts.batch_size"))
    if trainer.native:
        parts.append(Part("gradients of merged weights", 2 * trainer.native.nbytes, "update.own_passes"))
    parts.append(Part("a pass of the update", _pass_bytes(trainer, longest), "update.tokens_per_pass"))
    return Plan(parts, available(device))


def trained_bytes(trainer: MathGRPOTrainer) -> int:
    """Of what is trained, in float32."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return FLOAT * sum(p.numel() for p in model.parameters() if p.requires_grad)


def _pass_bytes(trainer: MathGRPOTrainer, longest: Longest) -> int:
    """What one forward and backward pass keeps: activations layer by layer, and logits."""
    config = trainer.accelerator.unwrap_model(trainer.model).config
    width, heads = config.hidden_size, config.num_attention_heads
    gate = getattr(config, "intermediate_size", None) or 4 * width
    dim = getattr(config, "head_dim", None) or width // heads
    qkv = (heads + 2 * (getattr(config, "num_key_value_heads", None) or heads)) * dim
    if trainer.native:
        tokens, token = max(trainer.tokens_per_pass, longest.tokens), (4 * width + qkv + heads * dim + 3 * gate) * FLOAT
        logits = NATIVE_HEAD_TOKENS * config.vocab_size * FLOAT
    else:
        size = trainer.policy_dtype.itemsize
        token = (8 * width + 2 * qkv + 4 * gate) * size + 4 * width * FLOAT  # norms are taken in float32
        rows = trainer.args.per_device_train_batch_size
        tokens = max(trainer.tokens_per_pass, longest.tokens) if trainer.own_passes else rows * longest.tokens
        scored = min(HEAD_TOKENS, tokens) if trainer.own_passes else rows * longest.completion
        logits = scored * config.vocab_size * (size + 2 * FLOAT)
    layers = 1 if trainer.args.gradient_checkpointing else config.num_hidden_layers
    return tokens * layers * token + logits


def try_longest(trainer: MathGRPOTrainer, longest: Longest) -> float:
    """Do the largest parts once, with the longest rows there can be; returns tokens a second of the update.

    Where memory runs out the parts are halved, for the run as well; an out-of-memory error is raised where that does
    not help. No random state is touched, and no gradient is left.
    """
    rollouts = trainer.rollouts
    if isinstance(rollouts, EngineRollouts):
        rollouts.try_longest(trainer.rows_at_once, longest.prompt, trainer.sampling)

    def halve() -> bool:
        if not trainer.shrink_passes(longest.tokens):
            return False
        trainer.tell(0, "out of memory", f"update.tokens_per_pass {trainer.tokens_per_pass} from here on")
        return True

    devices = [trainer.accelerator.device] if trainer.accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        speed = retry_on_oom(lambda: _try_pass(trainer, longest), halve)
        return max(speed, _try_pass(trainer, longest)) if trainer.tokens_per_pass < speed else speed  # once warm


def _try_pass(trainer: MathGRPOTrainer, longest: Longest) -> float:
    rows = trainer.args.per_device_train_batch_size
    if trainer.own_passes:
        rows = max(1, trainer.tokens_per_pass // longest.tokens)
    device = trainer.accelerator.device
    ids = torch.arange(rows * longest.tokens, device=device).view(rows, -1) % 97  # rows that share nothing
    model: Any = trainer.model
    was_training = model.training
    model.train()
    try:
        started = time.perf_counter()
        if trainer.native:
            trainer.native.begin()
        scored, *_ = trainer._get_per_token_logps_and_entropies(
            model, ids, torch.ones_like(ids), longest.completion, compute_entropy=True
        )
        scored.sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return ids.numel() / (time.perf_counter() - started)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)


def available(device: str) -> int:
    """Bytes that can still be taken: of the GPU, else of the machine or of the container this runs in."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return min(psutil.virtual_memory().available, _container_free())


def _container_free() -> int:
    """What the control group leaves, file cache counted as free; a huge number where there is no limit."""
    for limit, used, stat in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
        *[tuple(f"/sys/fs/cgroup/memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat"))],
    ):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in Path(stat).read_text().splitlines())
            taken = int(Path(used).read_text()) - int(counts.get("inactive_file", 0))
            return max(0, int(Path(limit).read_text()) - taken)  # "max" is no number: no limit
    return 1 << 62


def readable(size: float) -> str:
    """Bytes for people: 3.7 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
