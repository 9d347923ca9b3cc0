"""Rollouts side by side: the same prompts, rows and completion lengths in the engine, transformers and vLLM."""

import gc
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

from tiny_math_solver.bench import families
from tiny_math_solver.bench.machine import seconds
from tiny_math_solver.config.sections import EMBEDDED
from tiny_math_solver.models.load import load_base, load_tokenizer
from tiny_math_solver.problems.embedded import embedded_problems
from tiny_math_solver.prompts import chat_messages, encode_prompt, group_prompts
from tiny_math_solver.rollouts import EngineRollouts, Sampling
from tiny_math_solver.support.device import default_device, empty_cache
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.files import write_text

VLLM_SIDE = Path(__file__).with_name("vllm_side.py")
NEVER = -1  # an end token that no model makes: every completion gets its full length


@dataclass(frozen=True)
class Case:
    """`rows` completions of `tokens` tokens, `samples` a prompt.

    `model` is the embedded one, one of Qwen2.5-0.5B's shape, or a small one of a family.
    """

    model: str
    rows: int
    samples: int
    tokens: int
    rounds: int = 5

    @property
    def name(self) -> str:
        return f"{self.model}, {self.rows} rows × {self.tokens} tokens"


QWEN = "0.5B-shaped"
CASES = {
    "rollouts": [Case(EMBEDDED, 16, 8, 64), Case(EMBEDDED, 128, 8, 64), Case(EMBEDDED, 512, 8, 64)],
    "rollouts-0.5b": [Case(QWEN, 16, 4, 64, rounds=3), Case(QWEN, 64, 4, 64, rounds=3)],
    "rollouts-families": [Case(family, 128, 8, 64, rounds=7) for family in families.MODELS],
}
GPU_CASES = {
    "rollouts-0.5b": [
        Case(QWEN, 16, 4, 128, rounds=3),
        Case(QWEN, 64, 4, 128, rounds=3),
        Case(QWEN, 256, 8, 128, rounds=3),
        Case(QWEN, 1024, 16, 256, rounds=3),
    ]
}


def measure(case: Case, vllm_python: str | None = None) -> dict[str, Any]:
    """Milliseconds a decode step of every side, prefill included, and the ratios to the engine."""
    model, tokenizer = load_case_model(case.model)
    model.generation_config.eos_token_id = None  # generate would take it where the settings name none
    prompts = _prompts(case, tokenizer)
    groups = group_prompts(prompts)
    device = model.device.type
    engine = EngineRollouts(model, tokenizer, case.rows)
    engine.eos_ids = [NEVER]
    sampling = Sampling(case.tokens)

    def ours() -> Any:
        model.requires_grad_(False)  # as under an adapter: the engine keeps its copy of what is frozen
        return engine.generate(groups, case.samples, sampling)

    def stock() -> Any:
        model.requires_grad_(True)  # as loaded: with frozen weights torch's bfloat16 products are several times slower
        return _generate(model, prompts, case, tokenizer.pad_token_id)

    sides: dict[str, Callable[[], Any]] = {"engine": ours, "generate": stock}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for name, work in sides.items():
        made = work()  # a run that does not count, and a check that the work is equal
        lengths = {len(r.completion_ids) for r in made} if name == "engine" else {made.shape[1]}
        assert lengths == {case.tokens}, f"{name} made completions of {lengths} tokens"
    for _ in range(case.rounds):
        for name, work in sides.items():
            taken[name].append(seconds(work, device, repeats=1))
    if vllm_python:
        del engine
        gc.collect()
        empty_cache()  # vLLM wants most of a GPU's memory for itself
        taken["vllm"] = _vllm(model, tokenizer, prompts, case, vllm_python)
    steps = {name: 1e3 * median(times) / case.tokens for name, times in taken.items()}
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "case": case.name,
        "rows": case.rows,
        "tokens": case.tokens,
        "ms_per_step": steps,
        "tokens_per_second": {name: 1e3 * case.rows / ms for name, ms in steps.items()},
        "times_faster_than": {name: ms / steps["engine"] for name, ms in steps.items() if name != "engine"},
        "weight_bytes": parameters * model.dtype.itemsize,
        "flops_per_step": 2 * parameters * case.rows,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def share_of_floor(result: dict[str, Any], ceilings: dict[str, float]) -> float:
    """The least time a step can take (weights read once, products at full speed) over the engine's."""
    floor = max(
        result["weight_bytes"] / ceilings["read_bytes"],
        result["flops_per_step"] / ceilings[f"{result['dtype']}_flops"],
    )
    return 1e3 * floor / result["ms_per_step"]["engine"]


@cache
def load_case_model(name: str) -> tuple[Any, Any]:
    """`(model, tokenizer)`: the shipped one, or a random one: of Qwen2.5-0.5B's shape in bfloat16, of a family."""
    tokenizer = load_tokenizer(EMBEDDED)
    if name == EMBEDDED:
        return load_base(EMBEDDED, dtype="float32").eval(), tokenizer
    if name in families.MODELS:
        return families.family_model(name), tokenizer
    return qwen_shaped().to(default_device()), tokenizer


def qwen_shaped(layers: int = 24) -> Any:
    """A random model of Qwen2.5-0.5B's shape, in bfloat16."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=layers, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=32768, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def _prompts(case: Case, tokenizer: Any) -> list[list[int]]:
    problems = embedded_problems("test", case.rows // case.samples)
    return [encode_prompt(tokenizer, chat_messages(p.question)) for p in problems]


def _generate(model: Any, prompts: list[list[int]], case: Case, pad: int) -> torch.Tensor:
    """transformers at its best: one batch, no end token to look for, plain sampling."""
    longest = max(map(len, prompts))
    rows = [ids for ids in prompts for _ in range(case.samples)]
    input_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows], device=model.device)
    settings = GenerationConfig(
        max_new_tokens=case.tokens, do_sample=True, temperature=1.0, top_k=0, pad_token_id=pad, use_cache=True
    )
    with torch.inference_mode():
        return model.generate(input_ids=input_ids, attention_mask=mask, generation_config=settings)[:, longest:]


def _vllm(model: Any, tokenizer: Any, prompts: list[list[int]], case: Case, python: str) -> list[float]:
    """Seconds of each round, by vLLM in its own environment and process."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        job = {
            "dtype": str(model.dtype).removeprefix("torch."), "prompts": prompts, "samples": case.samples,
            "tokens": case.tokens, "rounds": case.rounds, "rows": case.rows,
        }  # fmt: skip
        write_text(Path(folder, "job.json"), json.dumps(job))
        done = subprocess.run([python, str(VLLM_SIDE), folder], capture_output=True, text=True, timeout=1800)
        if done.returncode:
            raise UserError(f"vLLM did not run under {python}: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(Path(folder, "times.json").read_text(encoding="utf-8"))
