"""Configuration: what is read, what is refused, and how the refusal reads."""

import re
import warnings
from pathlib import Path

import pytest

from helpers.paths import GSM8K, QUICKSTART
from tiny_math_solver.config.loading import load_config, parse_overrides
from tiny_math_solver.config.shares import same_batch
from tiny_math_solver.config.values import checked
from tiny_math_solver.evaluation.prompt_settings import prompt_settings
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.problems.splits import Splits
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.plan import Plan


def test_the_table_people_know():
    config = load_config(GSM8K)
    grpo, lora = config.grpo, config.lora
    assert lora
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"], lora["target_modules"]) == (16, 32, 0, "all-linear")
    assert (grpo["num_generations"], grpo["per_device_train_batch_size"], grpo["gradient_accumulation_steps"]) == (
        4,
        1,
        16,
    )
    assert (grpo["learning_rate"], grpo["temperature"]) == (5e-5, 0.7)
    assert grpo["output_dir"] == "./checkpoint/qwen-0.5b-gsm8k-grpo"
    assert config.model.name == "Qwen/Qwen2.5-0.5B-Instruct"
    assert config.model.revision == "7ae557604adf67be50417f59c2c2f167def9a775"
    assert config.problems.source == "openai/gsm8k"
    assert config.problems.revision == "740312add88f781978c0658806c59bc2815b9866"
    assert "####" in config.prompt.system


def test_overrides_win_and_keep_their_types():
    config = load_config(
        QUICKSTART,
        ["--grpo.learning_rate", "2e-3", "--lora.r=8", "--grpo.beta", "0.04", "--prompt.system", "Show your work.",
         "--grpo.loss_type", "dr_grpo", "--lora.target_modules", "[q_proj, v_proj]", "--grpo.max-steps", "-1"],
    )  # fmt: skip
    assert config.grpo["learning_rate"] == 2e-3
    assert isinstance(config.grpo["learning_rate"], float)
    assert config.lora
    assert config.lora["r"] == 8
    assert (config.grpo["beta"], config.grpo["loss_type"]) == (0.04, "dr_grpo")
    assert config.prompt.system == "Show your work."
    assert config.lora["target_modules"] == ["q_proj", "v_proj"]
    assert config.grpo["max_steps"] == -1


def test_a_revision_of_digits_and_one_e_is_not_a_number():
    (pair,) = parse_overrides(["--model.revision", "7ae557604adf67be50417f59c2c2f167def9a775"])
    assert pair[1] == "7ae557604adf67be50417f59c2c2f167def9a775"
    assert parse_overrides(["--a.b", "2e-3", "--a.c", "no", "--a.d", "true"]) == [
        ("a.b", 0.002), ("a.c", "no"), ("a.d", True),
    ]  # fmt: skip


def test_the_resolved_config_reads_back_as_itself(tmp_path: Path):
    config = load_config(GSM8K, ["--grpo.max_steps", "7"])
    copy = tmp_path / "config.yaml"
    copy.write_text(config.to_yaml())
    assert load_config(copy) == config


REFUSED = [
    (["--grpo.learning_rat", "1"], "unknown key grpo.learning_rat; did you mean grpo.learning_rate?"),
    (["--lora.rr", "1"], "did you mean lora.r?"),
    (["--problems.tain", "1"], "did you mean problems.train?"),
    (["--evaluate.every", "1"], "did you mean evaluation?"),
    (["--grpo.learning_rate", "fast"], "--grpo.learning_rate: grpo.learning_rate = 'fast'"),
    (["--evaluation.every", "0"], "--evaluation.every: evaluation.every = 0: Input should be greater"),
    (["--lora.r", "1.5"], "lora.r = 1.5: Input should be a valid integer"),
    (["--grpo.num_generations", "1"], "GRPO compares samples of a problem; set 2 or more"),
    (["--grpo.per_device_train_batch_size", "3"], "not a multiple of num_generations 8; choose a batch of 8"),
    (["--grpo.learning_rate"], "has no value"),
    (["--verbose"], "unknown argument '--verbose'"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), REFUSED)
def test_a_refusal_names_the_place_and_the_way_out(overrides: list[str], message: str):
    with pytest.raises(UserError) as refusal:
        load_config(QUICKSTART, overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


FILES = [
    ("grpo:\n  max_steps: 4\n  learning_rat: 1\n", "c.yaml:3: unknown key grpo.learning_rat"),
    ("modl:\n  name: x\n", "c.yaml:1: unknown key modl; did you mean model?"),
    ("problems:\n  dev: many\n", "c.yaml:2: problems.dev = 'many'"),
    ("grpo: 7\n", "c.yaml:1: grpo must be a section"),
    ("grpo: [1\n", "c.yaml:2: not valid YAML"),
    ("- a\n- b\n", "expected sections"),
    ("just words\n", "expected sections"),
    ("a: !!python/object:os.system x\n", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refusal:
        load_config(path)
    assert message in str(refusal.value)


def test_missing_and_undecodable_files_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_config(tmp_path / "b.yaml")


def _splits(count: int) -> Splits:
    return Splits([Problem(str(i), "q", "s", "1") for i in range(count)], [], [])


def test_the_plan_speaks_of_problems_and_samples():
    config = load_config(GSM8K)
    plan = Plan(config, _splits(7473), dropped=2)
    assert plan.steps_per_epoch == 1868
    assert "each step: 4 problems × 4 samples = 16 completions; 1,868 steps an epoch" in plan.lines
    assert "2 train problems dropped: their prompt has over 512 tokens" in plan.lines


def test_steps_follow_processes_epochs_and_max_steps(monkeypatch: pytest.MonkeyPatch):
    epochs, steps = (
        Plan(load_config(GSM8K, [f"--grpo.{option}", value]), _splits(160))
        for option, value in (("num_train_epochs", "2"), ("max_steps", "5"))
    )
    assert (epochs.steps, steps.steps) == (80, 5)
    monkeypatch.setenv("WORLD_SIZE", "2")  # after the GRPOConfigs are built: they would look for the other process
    assert (epochs.steps, steps.steps) == (40, 5)


def test_whole_groups_are_counted_over_processes_and_generation_batches(monkeypatch: pytest.MonkeyPatch):
    """TRL fills a generation batch from all processes: 1 × 3 makes no groups of 4, but on 4 processes it does."""
    three = ["--grpo.gradient_accumulation_steps", "3"]
    with pytest.raises(UserError, match=r"1 per_device_train_batch_size × 3 gradient_accumulation_steps = 3 compl"):
        load_config(GSM8K, three)
    assert load_config(GSM8K, [*three, "--grpo.steps_per_generation", "4"]).generation_batch == 4
    with pytest.raises(UserError, match="generation_batch_size = 6 completions, not a multiple of num_generations 4"):
        load_config(GSM8K, ["--grpo.generation_batch_size", "6"])
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert load_config(GSM8K, three).completions_per_step == 12


@pytest.mark.parametrize(
    ("processes", "overrides", "completions", "expected"),
    [
        ("1", [], 32, {"gradient_accumulation_steps": 32}),  # from two to one
        ("4", [], 32, {"gradient_accumulation_steps": 8}),
        ("2", ["--grpo.gradient_accumulation_steps", "4"], 4,
         {"gradient_accumulation_steps": 2}),  # from one to two
        ("2", ["--grpo.per_device_train_batch_size", "6", "--grpo.gradient_accumulation_steps", "2"], 12,
         {"gradient_accumulation_steps": 1}),
        ("2", ["--grpo.per_device_train_batch_size", "12", "--grpo.gradient_accumulation_steps", "1"], 12,
         {"per_device_train_batch_size": 6}),  # nothing left to accumulate: smaller micro-batches
        ("1", ["--grpo.steps_per_generation", "32"], 32,
         {"gradient_accumulation_steps": 32, "steps_per_generation": 64}),
        ("1", ["--grpo.generation_batch_size", "64"], 32, {"gradient_accumulation_steps": 32}),
        ("2", [], 32, {}),
        ("3", [], 32, None),
        ("4", ["--grpo.generation_batch_size", "36", "--grpo.per_device_train_batch_size", "1"], 32, {
            "gradient_accumulation_steps": 8}),
    ],
)  # fmt: skip
def test_another_number_of_processes_shares_the_same_batch(
    monkeypatch: pytest.MonkeyPatch, processes: str, overrides: list[str], completions: int, expected: dict | None
):
    """Catches a step of half the completions, or one whose generation batch has grown."""
    config = load_config(GSM8K, overrides)
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert same_batch(config, completions) == expected
    if expected is not None:
        assert config.with_grpo(**expected).completions_per_step == completions


# -- The libraries' own configs ---------------------------------------------------------------------------------


def test_the_libraries_configs_are_built_once_from_what_was_configured():
    config = load_config(QUICKSTART, ["--grpo.beta", "0.04", "--model.revision", "abc"])
    grpo, lora = config.grpo_config, config.lora_config
    assert lora
    assert (config.grpo_config, config.lora_config) == (grpo, lora)
    assert config.grpo_config is grpo
    assert config.lora_config is lora
    assert (grpo.beta, grpo.learning_rate, grpo.num_generations) == (0.04, 1e-3, 8)
    assert (lora.r, lora.lora_alpha, lora.revision) == (16, 32, "abc")


def test_a_built_config_neither_changes_the_record_nor_a_copy(tmp_path: Path):
    """Catches a cached GRPOConfig that is dumped, compared, or carried over with another folder."""
    config, untouched = load_config(QUICKSTART), load_config(QUICKSTART)
    assert config.grpo_config.output_dir == "./checkpoint/quickstart"
    assert config == untouched
    assert config.to_yaml() == untouched.to_yaml()
    copy = config.with_grpo(output_dir=str(tmp_path), report_to="none")
    assert copy.grpo_config.output_dir == str(tmp_path)
    assert copy.grpo == {**config.grpo, "output_dir": str(tmp_path), "report_to": "none"}
    assert config.grpo_config.output_dir == "./checkpoint/quickstart"


def test_on_a_cpu_what_a_cpu_lacks_is_off_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    grpo = load_config(QUICKSTART).grpo_config
    assert (grpo.use_cpu, grpo.bf16, grpo.dataloader_pin_memory, grpo.disable_tqdm) == (True, False, False, True)
    assert load_config(QUICKSTART, ["--grpo.disable_tqdm", "false"]).grpo_config.disable_tqdm is False


def test_what_trl_refuses_is_bad_input():
    config = load_config(QUICKSTART, ["--grpo.auto_find_batch_size", "true"])
    with pytest.raises(UserError, match=r"^grpo: auto_find_batch_size is not supported by GRPO"):
        _ = config.grpo_config


# -- One place for defaults -------------------------------------------------------------------------------------


def test_the_embedded_model_is_asked_as_the_quickstart_asks_it():
    config = load_config(QUICKSTART)
    settings = prompt_settings("embedded")
    assert (settings.prompt.system, settings.max_new_tokens) == (config.prompt.system, config.max_completion_length)
    assert settings.problems.source == config.problems.source


def test_other_models_are_asked_as_the_shipped_config_asks_them():
    config = load_config(GSM8K)
    settings = prompt_settings("someone/model")
    assert (settings.prompt.system, settings.max_new_tokens) == (config.prompt.system, config.max_completion_length)


def test_of_several_gpus_a_single_process_uses_one(monkeypatch: pytest.MonkeyPatch):
    """The Trainer would take DataParallel, and twice the completions that the plan speaks of."""
    from trl import GRPOConfig

    monkeypatch.setattr(GRPOConfig, "n_gpu", property(lambda self: self.__dict__.get("_n_gpu") or 2))
    args = load_config(QUICKSTART).grpo_config
    assert (args.n_gpu, args.train_batch_size) == (1, args.per_device_train_batch_size)


def test_processes_that_cannot_meet_are_refused(monkeypatch: pytest.MonkeyPatch):
    """On a GPU a WORLD_SIZE without LOCAL_RANK starts no group: each would train alone on a part of the batch."""
    from trl import GRPOConfig

    config = load_config(QUICKSTART)
    monkeypatch.setattr(GRPOConfig, "world_size", property(lambda self: 1))
    _ = config.grpo_config
    other = load_config(QUICKSTART)
    monkeypatch.setattr(GRPOConfig, "world_size", property(lambda self: 2))
    with pytest.raises(UserError, match="WORLD_SIZE=1, but 2 of these processes can train here"):
        _ = other.grpo_config


@pytest.mark.parametrize(
    ("folder", "refused"),
    [("run:1", ":"), ("a/b?", "?"), ('q"', '"'), ("C:/runs/one", ""), (r"C:\runs\one", ""), ("./run", "")],
)
def test_names_that_windows_refuses_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, folder: str, refused: str
):
    """A colon names a hidden stream there: the run would fail after its model is loaded."""
    assert checked("grpo.output_dir", str, folder) == folder
    monkeypatch.setattr("tiny_math_solver.config.limits.IS_WINDOWS", True)
    if refused:
        with pytest.raises(ValueError, match=f"Windows allows no {re.escape(refused)} in the name"):
            checked("grpo.output_dir", str, folder)
    else:
        assert checked("grpo.output_dir", str, folder) == folder


IGNORED = "`loftq_config` specified but will be ignored when `init_lora_weights` is not 'loftq'."


def test_what_peft_warns_of_is_one_note_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches: the warning of a library with its file and line, once for each copy of the config."""
    path = tmp_path / "c.yaml"
    path.write_text("grpo: {}\nlora:\n  loftq_config: {loftq_bits: 4}\n  use_rslora: true\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load_config(path, console=Console())
        assert capsys.readouterr().err == f"tiny-math: {path}:2: lora: {IGNORED}\n"
        assert config.with_grpo(beta=0.1).lora_config.use_rslora  # type: ignore[union-attr]
        path.write_text("lora: {init_lora_weights: pissa, use_rslora: true, rank_pattern: {q_proj: 4}}\n")
        load_config(path, console=Console())
    assert capsys.readouterr().err == ""  # it would be about an option of save_pretrained
