"""The memory a run will take, part by part, and a trial of its largest parts before the first step."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from tiny_math_solver.models.quantized import stored_tensors
from tiny_math_solver.rollouts import EngineRollouts, Sampling
from tiny_math_solver.rollouts.engine import SMALL_CACHE_BYTES
from tiny_math_solver.rollouts.speed import DecodeSpeed
from tiny_math_solver.support import processes
from tiny_math_solver.support.device import forked_rng, synchronize
from tiny_math_solver.support.memory import available, readable, resident
from tiny_math_solver.support.out_of_memory import retry_on_oom
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.update.passes import Batch
from tiny_math_solver.update.scorer import whole_rows
from tiny_math_solver.update.torch_scorer import FLOAT32_BYTES, torch_pass_bytes

LARGE_PASS = 1 << 30  # bytes
EFFICIENT_PASS = 2048  # tokens, beyond which a CPU is no faster
STATE = 3  # sizes of what is trained: weights, and the two moments of Adam
KERNELS_AT_WORK, TORCH_AT_WORK = 200_000_000, 250_000_000  # compiled operators, threads, late imports; measured
ROLLOUTS, UPDATE = "rollouts", "update"  # phases
WEIGHTS, COPY, MERGED, PASS = "weights", "the rollouts' copy", "gradients of merged weights", "a pass of the update"


@dataclass(frozen=True)
class Part:
    """One use of memory; `setting` makes it smaller, `held` parts are taken already.

    Parts of one `phase` are there together, and not while those of the other are; without one they are always there.
    """

    name: str
    size: int  # bytes
    setting: str = ""
    held: bool = False
    phase: str = ""

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
    """All parts, and the `free` bytes beside what is taken already; `note` says how the run was fitted to them."""

    parts: list[Part]
    free: int
    note: str = ""

    @property
    def needed(self) -> int:
        """Bytes still to be taken at the peak."""
        return self._of("") + max(self._of(ROLLOUTS), self._of(UPDATE))

    @property
    def peak(self) -> int:
        """Bytes at the peak, with what is taken already."""
        return self.needed + sum(part.size for part in self.parts if part.held)

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    def __str__(self) -> str:
        parts = ", ".join(f"{part.name} {readable(part.size)}" + " (allocated)" * part.held for part in self.parts)
        sums = f"{readable(self.peak)} at its peak, {readable(self.needed)} more needed, {readable(self.free)} free"
        return f"{sums}: {parts}" + (f"; {self.note}" if self.note else "")

    @property
    def judgement(self) -> str:
        """If it fits, in a few words."""
        verdict = "fits" if self.fits else "does not fit"
        at_peak, in_all = readable(self.peak), readable(self.peak - self.needed + self.free)
        return f"{verdict}: {at_peak} at its peak of {in_all}" + (f"; {self.note}" if self.note else "")

    @property
    def advice(self) -> str:
        """The settings to lower, that of the largest part first."""
        largest = sorted((p for p in self.parts if p.setting), key=lambda part: -part.size)
        return ", ".join(dict.fromkeys(part.advice for part in largest))

    def _of(self, phase: str) -> int:
        return sum(part.size for part in self.parts if not part.held and part.phase == phase)


def fitted_plan(trainer: MathGRPOTrainer, longest: Longest, evaluated: int) -> MemoryPlan:
    """The plan of the run, whose passes are halved while they do not fit.

    On a CPU they are also halved while one takes over LARGE_PASS and more than all the weights: beyond EFFICIENT_PASS
    tokens they are no faster there.
    """
    plan = memory_plan(trainer, longest, evaluated)
    if trainer.update is None:
        return plan
    size, large = trainer.update.tokens_per_pass, plan
    whole = size.value
    is_cpu = trainer.accelerator.device.type == "cpu"
    while size.value > longest.tokens:
        is_wasteful = is_cpu and size.value > max(EFFICIENT_PASS, longest.tokens) and _dominates(plan)
        if plan.fits and not is_wasteful:
            break
        size.value = max(longest.tokens, size.value // 2)
        plan = memory_plan(trainer, longest, evaluated)
    if size.value == whole:
        return plan
    taken = next(part.size for part in large.parts if part.setting == "update.tokens_per_pass")
    return replace(plan, note=f"update.tokens_per_pass is {size.value}, since {whole} would take {readable(taken)}")


def _dominates(plan: MemoryPlan) -> bool:
    """True if a pass takes more than all that the model is held in. Depends on the configuration alone."""
    sizes = {part.name: part.size for part in plan.parts}
    model = sum(sizes.get(name, 0) for name in (WEIGHTS, COPY, MERGED))
    return sizes[PASS] > max(LARGE_PASS, model)


def memory_plan(trainer: MathGRPOTrainer, longest: Longest, evaluated: int = 0) -> MemoryPlan:
    """The plan of a trainer whose weights are loaded; activations are counted as the passes keep them.

    `evaluated` is the number of completions of the largest evaluation.
    """
    model, rollouts = trainer.accelerator.unwrap_model(trainer.model), trainer.rollouts
    device = trainer.accelerator.device.type
    has_adapter = hasattr(model, "peft_config")
    smaller = "lora.r" if has_adapter else ""
    parts = [
        Part(WEIGHTS, sum(part.nbytes for p in model.parameters() for part in stored_tensors(p)), held=True),
        Part(f"{'adapter' if has_adapter else 'model'}'s gradient and optimizer", 4 * trained_bytes(trainer), smaller),
    ]
    if trainer.states_kept and device != "cuda":  # they are on the CPU
        size = trainer.states_kept * STATE * trained_bytes(trainer)
        parts.append(Part("states to go back to", size, smaller if has_adapter else "guards.rescues"))
    if isinstance(rollouts, EngineRollouts):
        parts.append(Part(COPY, rollouts.weights.nbytes, held=True))
        parts += _decoding_parts(rollouts, trainer, longest, evaluated)
    if trainer.update is not None and trainer.update.scorer.nbytes:
        scorer = trainer.update.scorer
        parts.append(Part(MERGED, scorer.nbytes, "update.own_passes", held=True))
        parts.append(Part("transposed weights", scorer.step_bytes, "update.own_passes", phase=UPDATE))
    parts.append(Part(PASS, pass_bytes(trainer, longest), "update.tokens_per_pass", phase=UPDATE))
    if device == "cpu":
        rest = resident() - sum(part.size for part in parts if part.held)
        parts.insert(0, Part("Python and its libraries", max(0, rest), held=True))
        parts.append(Part("more of them at work", KERNELS_AT_WORK if _is_all_kernels(trainer) else TORCH_AT_WORK))
    sharing = 1 if device == "cuda" else processes.on_this_machine()
    return MemoryPlan(parts, available(device) // sharing)


def _is_all_kernels(trainer: MathGRPOTrainer) -> bool:
    """True if the update computes with compiled kernels alone; in bfloat16 its products are oneDNN's."""
    update = trainer.update
    return update is not None and update.scorer is not update.torch_scorer and trainer.policy_dtype == torch.float32


def _decoding_parts(rollouts: EngineRollouts, trainer: MathGRPOTrainer, longest: Longest, evaluated: int) -> list[Part]:
    """Keys and values of the larger decoder, of training or of an evaluation, and what a step computes with.

    On a GPU both decoders stay, and the cache is there during the update.
    """
    sampling, greedy = trainer.sampling, Sampling(trainer.sampling.max_new_tokens, temperature=0)
    caches = [
        rollouts.cache_bytes(trainer.rows_per_generation, longest.prompt, sampling),
        rollouts.cache_bytes(evaluated, longest.prompt, greedy) if evaluated else 0,
    ]
    is_cpu = rollouts.weights.device.type == "cpu"
    phase = ROLLOUTS if is_cpu and max(caches) > SMALL_CACHE_BYTES else ""
    rows = min(max(trainer.rows_per_generation, evaluated), rollouts.batch_size.value)
    return [
        Part("keys and values", max(caches) if is_cpu else sum(caches), "rollouts.batch_size", phase=phase),
        Part("a decoding step", rollouts.step_bytes(rows, longest.prompt), "rollouts.batch_size", phase=ROLLOUTS),
    ]


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
        is_autocast=trainer.args.bf16 or trainer.args.fp16,
    )  # fmt: skip


def try_longest(trainer: MathGRPOTrainer, longest: Longest) -> tuple[DecodeSpeed | None, float]:
    """Do the largest parts once, with the longest rows there can be.

    Returns the speed of the decoder, which transformers' generate has none of, and the update's tokens per second.

    Where memory runs out the parts are halved, for the run as well; an out-of-memory error is raised where that does
    not help. No random state is touched, and no gradient is left.
    """
    rollouts, update, decode = trainer.rollouts, trainer.update, None
    if isinstance(rollouts, EngineRollouts):
        decode = rollouts.try_longest(trainer.rows_per_generation, longest.prompt, trainer.sampling)

    def shrink() -> bool:
        return update is not None and update.tokens_per_pass.halve(at_least=longest.tokens)

    with forked_rng(trainer.accelerator.device):
        speed = retry_on_oom(lambda: _try_pass(trainer, longest), shrink)
        is_short = update is not None and _trial_rows(trainer, longest) * longest.tokens < speed
        return decode, max(speed, _try_pass(trainer, longest)) if is_short else speed  # once more, warm


def _try_pass(trainer: MathGRPOTrainer, longest: Longest) -> float:
    rows = _trial_rows(trainer, longest)
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


def _trial_rows(trainer: MathGRPOTrainer, longest: Longest) -> int:
    """The rows of a trial: those of a pass, or a single one where a large pass would only take time.

    A CPU has no memory of its own that could run out: the plan tells if a pass fits, and one row how fast it is.
    """
    if trainer.update is None:
        return trainer.args.per_device_train_batch_size
    if trainer.accelerator.device.type == "cpu" and pass_bytes(trainer, longest) > LARGE_PASS:
        return 1
    return max(1, trainer.update.tokens_per_pass.value // longest.tokens)


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
