"""Pretrained models through the commands, as a user types them: check, two GRPO steps, merge, solve. Marker `real`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.paths import GSM8K
from helpers.real_models import QWEN, SMOLLM, real_model, tiny_math
from helpers.runs import rows
from tiny_math_solver.problems.embedded import embedded_problems

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]
QUESTION = "Tom has 3 boxes with 4 pens each. He loses 2 pens. How many pens are left?"
STEPS, PROBLEMS, SAMPLES = 2, 4, 4
SHORT = [
    "--model.dtype", "bfloat16", "--problems.dev", "4", "--evaluation.samples", "0", "--evaluation.every", "2",
    "--rollouts.batch_size", "64", "--update.tokens_per_pass", "1024", "--grpo.max_steps", str(STEPS),
    "--grpo.learning_rate", "1e-4", "--grpo.lr_scheduler_type", "constant", "--grpo.warmup_steps", "0",
    "--grpo.max_completion_length", "256", "--grpo.report_to", "none",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run of the GSM8K configuration on a pretrained model and a few generated problems."""

    model: Path
    folder: Path
    arguments: list[str]
    said: str

    @property
    def last(self) -> Path:
        """The adapter after the last step; the folder itself holds the best on dev, which may be that of step 0."""
        return self.folder / f"checkpoint-{STEPS}"


@pytest.fixture(scope="module", params=[QWEN, SMOLLM])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    model, folder = real_model(request.param), tmp_path_factory.mktemp(request.param)
    for split, problems in (("train", embedded_problems("train", 80)), ("test", embedded_problems("test", 4))):
        lines = [{"question": p.question, "answer": p.worked_answer} for p in problems]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [
        str(GSM8K), "--model.name", str(model), "--problems.source", str(folder / "train.jsonl"),
        "--problems.test_source", str(folder / "test.jsonl"), *SHORT, "--grpo.output_dir", str(folder / "run"),
    ]  # fmt: skip
    return Run(model, folder / "run", arguments, tiny_math("train", *arguments))


def ends_of(model: Path) -> set[int]:
    """The ids that end a completion by a model folder's generation settings."""
    ends = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    return {ends} if isinstance(ends, int) else set(ends)


def test_check_says_go(trained: Run):
    """Catches a template, an end of turn, an engine or a memory plan that a real model does not pass."""
    said = tiny_math("check", *trained.arguments)
    verdicts = dict(re.findall(r"^(?:ok|warn|fail) +([a-z' ]+?) {2,}(.*)$", said, re.MULTILINE))
    assert not re.search("^fail", said, re.MULTILINE)
    assert re.search(r"^ok +engine .* no other choices$", said, re.MULTILINE)
    assert "'<|im_end|>'" in verdicts["turn's end"]
    assert verdicts["template"].endswith(r"<|im_start|>assistant\n'")
    assert said.splitlines()[-1].startswith("go")


def test_two_steps_train_the_adapter_on_what_was_sampled(trained: Run):
    """Catches rollouts by another policy than the one that is trained, and steps without a gradient."""
    assert f"each step: {PROBLEMS} problems × {SAMPLES} samples = {PROBLEMS * SAMPLES} completions" in trained.said
    steps = rows(trained.folder / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["grad_norm"] > 0 for step in steps)
    assert all(step["sampling/sampling_logp_difference/mean"] < 0.03 for step in steps)  # nats, of bfloat16
    adapter = load_file(trained.last / "adapter_model.safetensors")
    raised = [weight.abs().max().item() for name, weight in adapter.items() if "lora_B" in name]
    # Adam's first steps are about the learning rate, whatever the gradient
    assert 0.5e-4 < max(raised) < 4 * STEPS * 1e-4


def test_completions_are_text_that_ends_with_the_turn(trained: Run):
    """Catches turns that run on into a made-up next question, special tokens in the text, and missing records."""
    completions = rows(trained.folder / "rollouts.jsonl")
    assert len(completions) >= STEPS * PROBLEMS * SAMPLES
    assert all("<|im_" not in row["completion"] for row in completions)
    assert sum(row["finished"] for row in completions) >= len(completions) / 4
    assert len({row["completion"] for row in completions}) > PROBLEMS * STEPS  # samples differ


def test_summary_has_both_measurements_and_the_engines_check(trained: Run):
    summary = json.loads((trained.folder / "summary.json").read_text())
    assert (summary["before"]["n"], summary["after"]["n"], summary["steps"]) == (4, 4, STEPS)
    assert summary["engine_check"]["other_tokens"] == 0
    assert summary["completions"] == len(rows(trained.folder / "rollouts.jsonl")) >= STEPS * PROBLEMS * SAMPLES
    assert (trained.folder / "report.html").is_file()


def test_merged_it_answers_as_a_plain_model_folder(trained: Run, tmp_path: Path):
    """Catches a merge that loses tokenizer, template or ends, or that answers otherwise than base and adapter."""
    merged = tmp_path / "merged"
    proof = tiny_math(
        "merge", trained.last, merged, "--dtype", "float32", "--problems", trained.folder.parent / "test.jsonl"
    )
    assert "same greedy answer on 4 of 4 problems" in proof
    assert ends_of(merged) == ends_of(trained.model)
    assert AutoTokenizer.from_pretrained(merged).chat_template
    assert type(AutoModelForCausalLM.from_pretrained(merged)).__name__ in ("Qwen2ForCausalLM", "LlamaForCausalLM")

    said, of_both = (
        tiny_math("solve", model, QUESTION, "--dtype", "float32", "--max-new-tokens", "160")
        for model in (merged, trained.last)
    )
    assert said == of_both
    assert "<|im_" not in said
    assert re.fullmatch(r"answer: (-?\d.*|none found)", said.splitlines()[-1])


def test_as_a_gguf_file_it_is_asked_and_answers_as_in_training(trained: Run, tmp_path: Path):
    """Catches a vocabulary, a template or an end of turn that llama.cpp reads otherwise; without it, lost weights."""
    problems = trained.folder.parent / "test.jsonl"
    said = tiny_math("export", trained.last, tmp_path / "out", "--gguf", "f16", "--problems", problems, seconds=1000)
    same = re.search(r"proof by .*: same greedy answer on (\d) of 4 problems", said)
    assert same
    assert int(same[1]) >= 3
    (file,) = (tmp_path / "out").glob("*-f16.gguf")
    assert file.stat().st_size < 1.02 * sum(path.stat().st_size for path in trained.model.glob("*.safetensors"))
