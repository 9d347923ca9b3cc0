"""The preflight: findings of `check`, runs that `train` refuses to start, and forecasts against what happens."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.paths import GSM8K, QUICKSTART
from tiny_math_solver.cli import main
from tiny_math_solver.config.loading import load_config
from tiny_math_solver.evaluation.evaluate import EvaluationRecord
from tiny_math_solver.grading import Graded, How
from tiny_math_solver.preflight import grader, memory
from tiny_math_solver.preflight.check import check
from tiny_math_solver.preflight.forecast import Forecast
from tiny_math_solver.preflight.memory import Longest, made_up_rows, memory_plan, pass_bytes, try_longest
from tiny_math_solver.preflight.pace import Pace
from tiny_math_solver.preflight.start import check_engine
from tiny_math_solver.rollouts.speed import DecodeSpeed
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support.console import CollectingConsole, QuietConsole
from tiny_math_solver.support.errors import EXIT_LEARNED_NOTHING
from tiny_math_solver.support.memory import readable
from tiny_math_solver.training.build import build_training
from tiny_math_solver.training.plan import prepare
from tiny_math_solver.update.merged_scorer import LOGITS_TOKENS
from tiny_math_solver.update.ragged import ragged

SHORT = [
    "--problems.train", "64", "--problems.test", "8", "--problems.dev", "8",
    "--evaluation.samples", "0", "--grpo.max_steps", "2",
]  # fmt: skip


def verdicts(overrides: list[str], config: Path = QUICKSTART) -> dict[str, tuple[str, str]]:
    return {c.name: (c.verdict, c.text) for c in check(load_config(config, overrides))}


def test_the_quickstart_can_go_and_nothing_is_written(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(QUICKSTART), "--price", "3.6"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[1]: line for line in out.splitlines()[:-1]}
    assert out.splitlines()[-1] == "go"
    assert all(line.startswith("ok ") for line in lines.values()), out
    assert {"environment", "grader", "problems", "template", "disk", "memory", "engine", "base", "dead", "time"} <= set(
        lines
    )
    assert " at 3.6 an hour" in lines["time"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_in_the_cache_is_named_with_the_command_that_fetches_it(capsys):
    assert main(["check", str(GSM8K)]) == EXIT_LEARNED_NOTHING
    out = capsys.readouterr().out
    assert "fail  hub          model Qwen/Qwen2.5-0.5B-Instruct is not in the cache" in out
    assert "tiny-math fetch CONFIG downloads it" in out
    assert out.splitlines()[-1] == "do not start this run"


def test_a_model_that_cannot_learn_is_refused_and_can_be_forced(tiny_model_folder: Path, tmp_path: Path, capsys):
    random_model = [
        "--model.name",
        str(tiny_model_folder),
        "--grpo.output_dir",
        str(tmp_path / "below" / "run"),
        *SHORT,
    ]
    random_model += ["--grpo.max_completion_length", "4", "--prompt.max_tokens", "512"]
    assert main(["check", str(QUICKSTART), *random_model]) == EXIT_LEARNED_NOTHING
    assert "of the completions are cut off: raise grpo.max_completion_length" in capsys.readouterr().out
    assert main(["train", str(QUICKSTART), *random_model]) == EXIT_LEARNED_NOTHING
    err = capsys.readouterr().err
    assert err.startswith("tiny-math: not started, since nothing would be learned: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert main(["train", str(QUICKSTART), *random_model, "--force"]) in (0, EXIT_LEARNED_NOTHING)
    assert (tmp_path / "below" / "run" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "name", "verdict", "words"),
    [
        (["--grpo.max_completion_length", "8"], "truncation", "warn", "raise grpo.max_completion_length"),
        (["--grpo.max_completion_length", "2"], "hopeless", "fail", "are cut off"),
        (
            ["--grpo.num_generations", "2", "--grpo.temperature", "0.05"],
            "dead groups",
            "warn",
            "raise grpo.temperature",
        ),
        (["--rollouts.engine", "false", "--grpo.max_completion_length", "32"], "engine", "none", ""),
        (
            ["--update.own_passes", "false", "--grpo.per_device_train_batch_size", "8"],
            "speed",
            "warn",
            "update.own_passes is false",
        ),
        (["--records.rollouts_mb", "900000000", "--grpo.max_steps", "900000000"], "refused", "fail", "make room"),
        (["--prompt.max_tokens", "3"], "refused", "fail", "raise prompt.max_tokens"),
        (["--problems.train", "15"], "refused", "fail", "fewer than a generation batch asks, 16"),
    ],
)
def test_what_would_go_wrong_is_found(overrides: list[str], name: str, verdict: str, words: str):
    found = verdicts([*overrides, "--problems.test", "8"])
    assert found.get(name, ("none", ""))[0] == verdict
    assert words in found.get(name, ("", ""))[1]


def test_a_template_that_drops_the_question_or_a_turn_that_never_ends(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    from tiny_math_solver.models.load import load_tokenizer

    def with_template(template: str) -> None:
        def load(*args: Any) -> Any:
            tokenizer = load_tokenizer(*args)
            tokenizer.chat_template = template
            return tokenizer

        monkeypatch.setattr("tiny_math_solver.training.plan.load_tokenizer", load)

    with_template("{% if add_generation_prompt %}assistant: {% endif %}")
    assert verdicts([])["template"] == ("fail", "the chat template leaves out the question or the system prompt")
    with_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert "no place where the model's turn begins" in verdicts([])["template"][1]
    with_template("{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}> {% endif %}")
    assert verdicts([])["turn's end"][0] == "fail"


def test_a_grader_that_misreads_is_caught(monkeypatch: pytest.MonkeyPatch):
    assert grader.misread() == []
    monkeypatch.setattr(grader, "grade", lambda question, text, gold: Graded(gold, How.HASHES, True))
    assert len(grader.misread()) > 3


# -- Memory -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = load_config(
        QUICKSTART, ["--problems.test", "8", "--grpo.output_dir", str(tmp_path_factory.mktemp("m") / "r")]
    )
    run, console = RunFolder(config.output_dir), QuietConsole()
    return build_training(prepare(config), run, console, EventLog(run, console))


def test_the_plan_counts_what_is_there(training: Any):
    trainer = training.trainer
    parts = {part.name: part for part in memory_plan(trainer, Longest(50, 112)).parts}
    model = trainer.model
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert parts["weights"].size == sum(p.numel() for p in model.parameters()) * 4
    assert parts["adapter's gradient and optimizer"].size == adapter * 16
    assert parts["the rollouts' copy"].size == pytest.approx(trainer.rollouts.weights.nbytes)
    layers, kv, dim = 4, model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
    assert model.config.num_hidden_layers == layers
    decoder = trainer.rollouts._decoder(128, 50, trainer.sampling)
    held = sum(t.nbytes for t in (decoder.prompt_cache, decoder.completion_cache))
    assert parts["keys and values"].size == held >= 128 * 162 * layers * 2 * kv * dim * 4
    # what the layers of a pass keep
    token = 4 * 4 * model.config.hidden_size
    assert parts["a pass of the update"].size > 2048 * layers * token


def test_a_pass_keeps_about_what_the_plan_says(training: Any):
    """What the layers of a pass keep and the buffers they share, against the plan without its logits."""
    trainer, longest = training.trainer, Longest(50, 112)
    scorer, tokens_per_pass = trainer.update.scorer, trainer.update.tokens_per_pass.value
    rows = tokens_per_pass // longest.tokens
    batch = made_up_rows(rows, longest, "cpu")
    scorer.begin()
    scorer.logprobs(batch)  # makes its tables
    tokens = ragged(batch)
    logprobs, of_pass = scorer.forward(tokens)
    kept = sum(layer.log_sum.nbytes for layer in of_pass.layers)
    scorer.backward(tokens, of_pass, torch.ones_like(logprobs))
    (workspace,) = scorer._workspaces
    kept += workspace.nbytes - workspace.buffers["logits"].nbytes
    planned = pass_bytes(trainer, longest) - LOGITS_TOKENS * trainer.model.config.vocab_size * 4
    assert kept == pytest.approx(planned * rows * longest.tokens / tokens_per_pass, rel=0.1)


def test_the_trial_leaves_no_trace(training: Any):
    trainer = training.trainer
    state = torch.get_rng_state()
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    decode, update = try_longest(trainer, Longest(50, 112))
    assert update > 0
    assert decode is not None
    assert decode.seconds(128, 1) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in trainer.model.parameters())
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


def test_what_does_not_fit_is_refused_with_the_settings_to_lower(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 30_000_000)
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(QUICKSTART), *SHORT]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tiny-math: not enough memory: ")
    assert "30 MB free" in err
    assert "lower update.tokens_per_pass" in err
    assert list(tmp_path.iterdir()) == []
    assert main(["check", str(QUICKSTART)]) == EXIT_LEARNED_NOTHING


def test_a_first_trial_out_of_memory_lowers_the_settings_of_the_run(tmp_path: Path, monkeypatch, capsys):
    inner = memory._try_pass

    def starved(trainer: Any, longest: Longest) -> float:
        if trainer.update.tokens_per_pass.value > 600:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(trainer, longest)

    monkeypatch.setattr(memory, "_try_pass", starved)
    assert main(["train", str(QUICKSTART), *SHORT, "--grpo.output_dir", str(tmp_path / "run")]) == 0
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["text"].partition(";")[0] for event in events] == [
        "update.tokens_per_pass is reduced to 1024 for the rest of the run",
        "update.tokens_per_pass is reduced to 512 for the rest of the run",
    ]  # fmt: skip


def test_bytes_for_people():
    assert [readable(n) for n in (12, 3_720, 99_400, 1_250_000, 24e9)] == [
        "12 B",
        "3.7 kB",
        "99 kB",
        "1.2 MB",
        "24.0 GB",
    ]


# -- Forecast ---------------------------------------------------------------------------------------------------


def record(*, correct: bool = False, how: str = "hashes", finished: bool = True) -> EvaluationRecord:
    rewards: Any = {"correctness_reward": 1.0 * correct, "format_reward": 0.5 * (how == "hashes")}
    return EvaluationRecord("p", "q", "1", "c", "1", how, correct, correct, 10, finished, rewards=rewards)


def test_the_forecast_counts_groups_without_a_gradient():
    right, wrong, blank = record(correct=True), record(), record(how="none")
    found = Forecast([[right, wrong], [right, right], [wrong, wrong], [wrong, blank]], 1.0)
    assert found.pass_rate == 3 / 8
    assert found.dead == 0.5  # format alone makes a difference in the last group
    assert found.histogram == "problems by right samples of 2: 0 → 2, 1 → 1, 2 → 1"
    assert found.hopeless == ""
    assert "all rewards are the same (100% right)" in Forecast([[right, right]], 1.0, enough=1).hopeless
    assert "none of 2 completions earns a reward" in Forecast([[blank, blank]], 1.0, enough=1).hopeless


def test_the_forecast_is_what_the_first_steps_show(tmp_path: Path, capsys):
    """Share of right, of cut off and of dead groups, within what 32 and 96 problems can tell."""
    overrides = ["--problems.test", "8", "--evaluation.samples", "0", "--grpo.max_completion_length", "12"]
    found = {c.name: c.text for c in check(load_config(QUICKSTART, overrides))}
    assert main(["train", str(QUICKSTART), *overrides, "--grpo.learning_rate", "1e-9", "--grpo.max_steps", "6",
                 "--grpo.output_dir", str(tmp_path / "run")]) == 0  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    def mean(name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    def share(name: str) -> float:
        return int(found[name].partition("%")[0].split()[-1]) / 100

    assert share("base model") == pytest.approx(mean("rewards/correctness_reward/mean"), abs=0.1)
    assert share("truncation") == pytest.approx(mean("completions/clipped_ratio"), abs=0.12)
    assert share("dead groups") == pytest.approx(mean("frac_reward_zero_std"), abs=0.2)


def test_a_slow_machine_compares_the_engine_on_fewer_prompts(training: Any):
    trainer, config = training.trainer, load_config(QUICKSTART, ["--problems.test", "8"])
    prompts = prepare(config).prompts
    for update, count in ((1e6, 16), (100.0, 4)):  # tokens per second
        console = CollectingConsole()
        found = check_engine(trainer, prompts, Pace(DecodeSpeed(0.0, 1e-6, 128), update, 50, 112.0), console)
        assert found is not None
        assert found.passed
        assert found.tokens <= 32 * count
        assert console.lines[0].startswith(f"comparing the engine with transformers on {count} prompts, ")
