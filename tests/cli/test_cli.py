"""The command line as its users meet it: answers, mistakes, exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.paths import GSM8K, QUICKSTART, ROOT
from tiny_math_solver.cli import COMMANDS, main, parse
from tiny_math_solver.config.schema import Config

ROW = '{"question": "Ann has 3 pens and buys 2. How many?", "answer": "3+2=5\\n#### 5"}\n'


def test_help_answers_in_under_a_second():
    """Catches a heavy import at the top of a module: torch and trl together take seconds."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "tiny_math_solver.cli", "--help"], capture_output=True, text=True)
        times.append(time.perf_counter() - started)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("train", "eval", "merge", "solve", "fields", "fetch"))
    assert min(times) < 1


@pytest.mark.parametrize("module", ["tiny_math_solver", "tiny_math_solver.cli"])
def test_python_m_is_the_command(module: str):
    """Catches: `No module named tiny_math_solver.__main__`, and an exit code that is lost on the way out."""
    done = subprocess.run([sys.executable, "-m", module, "train"], capture_output=True, text=True)
    refusal = "tiny-math: the following arguments are required: config; see tiny-math train --help\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", refusal)


def test_help_loads_no_library_that_takes_seconds():
    code = (
        "import contextlib, sys\nfrom tiny_math_solver.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print({'torch', 'transformers', 'trl', 'peft', 'datasets', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["solve", "embedded", "--samples", "4", "2 + 2?"], {"model": "embedded", "samples": 4, "question": "2 + 2?"}),
        (["solve", "--samples", "4", "embedded", "2 + 2?"], {"model": "embedded", "samples": 4, "question": "2 + 2?"}),
        (["solve", "embedded", "2 + 2?", "--samples", "4"], {"model": "embedded", "samples": 4, "question": "2 + 2?"}),
        (["solve", "embedded", "--samples", "4"], {"model": "embedded", "samples": 4, "question": None}),
        (["solve", "embedded", "--", "-3 + 5?"], {"model": "embedded", "question": "-3 + 5?"}),
        (["merge", "a", "--dtype", "float32", "m"], {"adapter": Path("a"), "out": Path("m"), "dtype": "float32"}),
        (["report", "a", "--out", "r.html", "b"], {"runs": [Path("a"), Path("b")], "out": Path("r.html")}),
        (["watch", "--port", "1", "a"], {"run_folder": Path("a"), "port": 1}),
        (["bench", "steps", "--json", "race"], {"parts": ["steps", "race"], "json": True}),
        (["bench", "--json"], {"parts": [], "json": True}),
        (["eval", "--limit", "3", "embedded", "--json"], {"model": "embedded", "limit": 3, "json": True}),
        (
            ["seeds", "--grpo.max_steps", "9", "--seeds", "1,7,", "c.yaml"],
            {"config": Path("c.yaml"), "seeds": [1, 7], "overrides": ["--grpo.max_steps", "9"]},
        ),
        (["seeds", "c.yaml", "--seeds", "3", "--force"], {"config": Path("c.yaml"), "seeds": 3, "force": True}),
        (
            ["train", "--quiet", "c.yaml", "--grpo.max_steps", "-1", "--allow", "lora.r", "--resume"],
            {"config": Path("c.yaml"), "quiet": True, "allow": ["lora.r"], "resume": True,
             "overrides": ["--grpo.max_steps", "-1"]},
        ),
    ],
)  # fmt: skip
def test_options_may_stand_anywhere_among_the_arguments(typed: list[str], expected: dict[str, object]):
    """Catches argparse's own habit: a positional argument after an option is an unknown one."""
    args = vars(parse(typed))
    assert {name: args[name] for name in expected} == expected


def test_a_question_after_the_options_is_answered(capsys):
    assert main(["solve", "embedded", "--samples", "2", "Ava has 3 bags of 7 marbles. How many marbles?"]) == 0
    *_, answer, vote = capsys.readouterr().out.splitlines()
    assert answer.startswith("answer: ")
    assert vote.startswith("vote: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: tiny-math {name} ")
    assert COMMANDS[name].HELP.split()[0] in out


def test_a_command_whose_reader_ends_exits_with_141():
    command = [sys.executable, "-m", "tiny_math_solver.cli", "fields", "model"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_fields_offers_every_section_of_the_config():
    assert [parse(["fields", section]).section for section in Config.model_fields] == list(Config.model_fields)


def test_dry_run_prints_config_and_plan_and_writes_nothing(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(QUICKSTART), "--dry-run", "--grpo.learning_rate", "2e-3"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate: 0.002" in out
    assert "each step: 16 problems × 8 samples = 128 completions; 125 steps an epoch" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_off_line_plans_without_counts(capsys):
    assert main(["train", str(GSM8K), "--dry-run", "--model.name", "someone/model"]) == 0
    out = capsys.readouterr().out
    assert "each step: 4 problems × 4 samples = 16 completions\n" in out
    assert "not counted: cannot reach " in out
    assert main(["fetch", str(GSM8K), "--model.name", "someone/model"]) == 2
    err = capsys.readouterr().err
    assert "cannot reach " in err
    assert "tiny-math fetch" not in err


def test_fields_lists_every_field_with_a_line_of_help(capsys):
    assert main(["fields"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.partition("): ")[2] for line in lines), [line for line in lines if not line.partition("): ")[2]]
    names = {line.split()[0] for line in lines}
    assert {"model.name", "problems.dev", "prompt.system", "evaluation.every", "lora.*", "grpo.*"} <= names
    assert len(lines) < 60
    assert main(["fields", "grpo"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 100


def test_fields_shows_a_single_field(capsys):
    assert main(["fields", "lora.r"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("lora.r (int, default 16): ")


def test_wandb_without_its_package_is_said_before_a_model_loads(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_TOKEN", "secret-token")
    monkeypatch.setattr("tiny_math_solver.training.trackers.find_spec", lambda name: None)
    assert main(["train", str(GSM8K)]) == 2
    err = capsys.readouterr().err
    assert err == f"tiny-math: wandb is not installed; run: {sys.executable} -m pip install wandb\n"


def test_bench_refuses_what_it_does_not_know_before_it_measures(capsys):
    assert main(["bench", "rollout"]) == 2
    refusal = (
        "no part 'rollout' to measure; choose from machine, rollouts, rollouts-0.5b, rollouts-families, steps, "
        "steps-0.5b, table-0.5b, memory, race, trace"
    )
    assert refusal in capsys.readouterr().err
    assert main(["bench", "--vllm-python", "/no/such/python"]) == 2
    assert "no such Python: /no/such/python" in capsys.readouterr().err
    assert main(["bench", "machine", "--out", str(ROOT)]) == 2
    assert "is a folder; --out takes the name of a file" in capsys.readouterr().err


def test_tokens_choose_the_tracker_unless_the_config_did(monkeypatch):
    from tiny_math_solver.config.loading import load_config
    from tiny_math_solver.support.console import CollectingConsole
    from tiny_math_solver.training.trackers import choose_trackers

    monkeypatch.setattr("tiny_math_solver.training.trackers.find_spec", lambda name: object())

    def chosen(config: Path, **environment: str) -> tuple[list[str] | str, str | None]:
        with monkeypatch.context() as patch:
            patch.delenv("WANDB_API_KEY", raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            loaded = load_config(config)
            choose_trackers(loaded, CollectingConsole())
            return loaded.grpo["report_to"], os.environ.get("WANDB_API_KEY")

    assert chosen(GSM8K) == ([], None)
    assert chosen(GSM8K, WANDB_TOKEN="t") == (["wandb"], "t")
    assert chosen(GSM8K, WANDB_API_KEY="k") == (["wandb"], "k")
    assert chosen(GSM8K, WANDB_MODE="offline") == (["wandb"], None)
    assert chosen(GSM8K, WANDB_TOKEN="t", WANDB_MODE="disabled") == ([], "t")
    assert chosen(QUICKSTART, WANDB_TOKEN="t") == ("none", "t")


def test_eval_prints_both_scores_and_writes_records(tmp_path: Path, capsys):
    import json

    (tmp_path / "p.jsonl").write_text(ROW)
    records = tmp_path / "records.jsonl"
    command = ["eval", "embedded", "--problems", str(tmp_path / "p.jsonl"), "--samples", "4", "--out", str(records)]
    assert main([*command, "--against", "embedded"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"problems: 1 of the 1 in {tmp_path / 'p.jsonl'}; answers of at most 112 tokens"
    assert "  compared with embedded: fixed 0, broken 0, McNemar p = 1" in lines
    assert main([*command, "--against", "embedded", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["model"], summary["adapter"], summary["against"]["model"]) == ("embedded", None, "embedded")
    assert summary["problems"] == {"source": str(tmp_path / "p.jsonl"), "n": 1, "of": 1}
    assert summary["n"] == 1
    assert set(summary["pass_at_k"]) == {"1", "2", "4"}
    assert summary["paired"] == {"fixed": 0, "broken": 0, "p_value": 1.0}
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert [row["sample"] for row in rows] == [None, 0, 1, 2, 3]
    assert all(row["gold"] == "5" for row in rows)


def test_eval_reads_named_columns_and_says_what_it_dropped(tmp_path: Path, capsys):
    """Catches: notes among the JSON on stdout, and a dropped row that the summary does not tell of."""
    path = tmp_path / "own.csv"
    path.write_text("ask;gold\nAva has 3 bags of 7 marbles. How many marbles?;21\nAnd who?;Tom\n", encoding="utf-8-sig")
    command = ["eval", "embedded", "--problems", str(path), "--max-new-tokens", "4", "--json"]
    assert main([*command, "--question", "ask", "--answer", "gold"]) == 2
    assert "1 of 2 rows cannot be used; correct them, or raise --max-unreadable (0.05)" in capsys.readouterr().err
    assert main([*command, "--question", "ask", "--answer", "gold", "--max-unreadable", "0.5"]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    dropped = f"{path}: 1 of 2 rows dropped as unreadable: {path}:3: cannot read a gold number from the answer 'Tom'"
    assert summary["n"] == 1
    assert summary["notes"] == [f"{path}: question from ask, answer from gold", dropped]
    assert f"tiny-math: {dropped}\n" in err


def test_solve_prints_reasoning_and_answer(capsys):
    assert main(["solve", "embedded", "Ava has 3 bags of 7 marbles and loses 4. How many marbles are left?"]) == 0
    assert "answer: " in capsys.readouterr().out.splitlines()[-1]
