"""Runs of two processes on a CPU, as torchrun starts them: one verdict, one policy, one message where they fail."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, stdev

import psutil
import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import QUICKSTART
from helpers.runs import rows
from helpers.together import launch, launched_environment, patched

pytestmark = pytest.mark.slow

TINY = [
    "train", str(QUICKSTART), "--grpo.max_steps", "2", "--grpo.save_steps", "1", "--grpo.num_generations", "4",
    "--grpo.per_device_train_batch_size", "8", "--grpo.gradient_accumulation_steps", "1", "--problems.train", "24",
    "--problems.dev", "8", "--problems.test", "8", "--evaluation.samples", "0", "--evaluation.every", "2",
    "--rollouts.batch_size", "64", "--guards.stop", "false",
]  # fmt: skip
ADAPTER = "adapter_model.safetensors"
POLICY_OF_EACH = """
import hashlib, tiny_math_solver.train as run
loop = run._loop
def noted(training, console, *, fresh):
    loop(training, console, fresh=fresh)
    weights = [p.detach().numpy().tobytes() for p in training.trainer.model.parameters() if p.requires_grad]
    chooses = repr(training.trainer.batches.state_dict()).encode()
    os.write(1, f"policy {hashlib.sha256(b''.join([*weights, chooses])).hexdigest()}\\n".encode())  # whole: both write
run._loop = noted
"""


def problems(folder: Path) -> dict[int, Counter[str]]:
    """Completions by problem, by step."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row in rows(folder / "rollouts.jsonl"):
        found[row["step"]][row["id"]] += 1
    return dict(found)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- A run of two -----------------------------------------------------------------------------------------------


def test_two_processes_share_each_step_and_end_with_one_verdict_and_one_policy(tmp_path: Path):
    """Catches groups that are cut apart, the same problems in both, adapters that drift, a verdict read too early."""
    done = launch(2, *TINY, "--grpo.output_dir", str(tmp_path / "run"), script=patched(tmp_path, POLICY_OF_EACH))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("verdict: ") == 1
    assert done.stdout.count("step 2/2") == 1
    policies = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("policy ")]
    assert len(policies) == 2
    assert policies[0] == policies[1]
    assert {step: set(counts.values()) for step, counts in problems(tmp_path / "run").items()} == {1: {4}, 2: {4}}
    assert [len(counts) for counts in problems(tmp_path / "run").values()] == [4, 4]  # 2 × 8 completions
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["completions"] == 32


@pytest.mark.parametrize(("loss_type", "beta"), [("grpo", "0.05"), ("dapo", "0"), ("dr_grpo", "0"), ("cispo", "0.05")])
def test_own_passes_of_two_make_the_gradient_of_stock_micro_batches(tmp_path: Path, loss_type: str, beta: str):
    """Plain descent, so that a step of the weights is the gradient; Adam's first step has its signs alone.

    Not of bnpo, which depends on the micro-batches: TRL shuffles the rows within each process.
    """
    plain = ["--grpo.optim", "sgd", "--grpo.learning_rate", "0.3", "--grpo.lr_scheduler_type", "constant",
             "--grpo.max_steps", "1", "--grpo.gradient_accumulation_steps", "2", "--grpo.loss_type", loss_type,
             "--grpo.beta", beta]  # fmt: skip
    steps, lines = [], []
    for passes in ("true", "false"):
        folder = tmp_path / passes
        way = ["--update.own_passes", passes, "--update.tokens_per_pass", "300", "--grpo.output_dir", str(folder)]
        done = launch(2, *TINY, *plain, *way)
        assert done.returncode == 0, done.stderr
        lines.append((folder / "rollouts.jsonl").read_bytes())
        saved = load_file(folder / "checkpoint-1" / ADAPTER)
        steps.append(torch.cat([weight.flatten() for name, weight in sorted(saved.items()) if "lora_B" in name]))
    assert lines[0] == lines[1]
    assert steps[1].norm() > 0
    assert (steps[0] - steps[1]).norm() / steps[1].norm() < 1e-4
    own, stock = (rows(tmp_path / passes / "metrics.jsonl")[0] for passes in ("true", "false"))
    for name in ("reward", "frac_reward_zero_std", "loss", "grad_norm"):
        assert own[name] == pytest.approx(stock[name], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("changed", ["per_device_train_batch_size", "gradient_accumulation_steps"])
def test_the_run_is_the_same_on_one_two_and_four(tmp_path: Path, changed: str):
    """Bytes of the completions and of each evaluation; adapters to rounding. bnpo depends on how rows are grouped."""
    batch = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}
    loss = ["--grpo.loss_type", "bnpo"] if changed == "gradient_accumulation_steps" else []
    found = {}
    for count in (1, 2, 4):
        folder = found[count] = tmp_path / str(count)
        size = [f"--grpo.{name}={value // count if name == changed else value}" for name, value in batch.items()]
        options = [*size, *loss, "--grpo.max_steps", "4", "--evaluation.samples", "2", "--grpo.learning_rate", "1e-3"]
        done = launch(count, *TINY, *options, "--grpo.output_dir", str(folder))
        assert done.returncode == 0, done.stderr
    one = found[1]
    for folder in (found[2], found[4]):
        assert (folder / "rollouts.jsonl").read_bytes() == (one / "rollouts.jsonl").read_bytes()
        assert contents(folder / "eval") == contents(one / "eval")
        a, b = (load_file(each / "checkpoint-4" / ADAPTER) for each in (one, folder))
        difference = sum((a[name] - b[name]).pow(2).sum() for name in a) / sum(part.pow(2).sum() for part in a.values())
        assert 0 < difference**0.5 < 1e-3
    assert rows(found[4] / "metrics.jsonl")[-1]["processes/busy"] > 0.3
    assert json.loads((found[4] / "environment.json").read_text())["processes"] == 4


@pytest.mark.parametrize("size", ["2", "6"], ids=["one group", "three groups"])
def test_a_group_may_be_shared_and_is_compared_as_one(tmp_path: Path, size: str):
    """Of 4 samples each process has 2, and their draws are those of one process."""
    found = []
    for count, each in ((2, size), (1, str(2 * int(size)))):
        folder = tmp_path / str(count)
        batch = ["--grpo.per_device_train_batch_size", each, "--grpo.max_steps", "2", "--grpo.output_dir", str(folder)]
        assert launch(count, *TINY, *batch).returncode == 0
        found.append((folder / "rollouts.jsonl").read_bytes())
    assert found[0] == found[1]


def test_a_group_over_two_processes_is_compared_as_one(tmp_path: Path):
    """Of 4 samples each process has 2, drawn independently; the advantage is over all 4."""
    folder = tmp_path / "run"
    one_group = ["--grpo.per_device_train_batch_size", "2", "--grpo.max_steps", "4", "--grpo.output_dir", str(folder)]
    done = launch(2, *TINY, *one_group)
    assert done.returncode == 0, done.stderr
    groups = defaultdict(list)
    for row in rows(folder / "rollouts.jsonl"):
        groups[row["step"], row["id"]].append(row)
    assert [len(group) for group in groups.values()] == [4] * 4
    assert any(len({row["completion"] for row in group}) > 2 for group in groups.values())
    for group in groups.values():
        paid = [sum(row["rewards"].values()) for row in group]
        expected = [(reward - mean(paid)) / (stdev(paid) + 1e-4) for reward in paid]
        assert [row["advantage"] for row in group] == pytest.approx(expected, abs=1e-4)


def test_two_processes_choose_the_same_problems_and_replace_the_same_groups(tmp_path: Path):
    """A step has one and a half groups in each process. Catches processes whose histories or batches part ways.

    What is used comes in whole groups, what was set aside too, and no problem is twice in a step.
    """
    folder = tmp_path / "run"
    chosen = ["--problems.sampling", "adaptive", "--rollouts.replace_dead", "2", "--problems.train", "12"]
    steps = ["--grpo.per_device_train_batch_size", "6", "--grpo.max_steps", "6", "--grpo.output_dir", str(folder)]
    done = launch(2, *TINY, *chosen, *steps, script=patched(tmp_path, POLICY_OF_EACH))
    assert done.returncode == 0, done.stderr
    assert len({line.split()[1] for line in done.stdout.splitlines() if line.startswith("policy ")}) == 1
    groups = defaultdict(list)
    for row in rows(folder / "rollouts.jsonl"):
        groups[row["step"], row["id"]].append(row)
    assert {len(group) for group in groups.values()} == {4}
    assert all(len({row.get("used", True) for row in group}) == 1 for group in groups.values())
    used = Counter(step for (step, _), group in groups.items() if group[0].get("used", True))
    assert used == dict.fromkeys(range(1, 7), 3)
    aside = [group for group in groups.values() if "used" in group[0]]
    assert aside  # the model blurts: most groups are dead at first
    assert all(len({sum(row["rewards"].values()) for row in group}) == 1 for group in aside)
    metrics = rows(folder / "metrics.jsonl")
    assert sum(row["sampler/replaced"] for row in metrics) == len(aside)
    assert sum(row["sampler/skipped"] for row in metrics) > 0


FIXED_COMPLETIONS = """
from tiny_math_solver.rollouts import Rollout
from tiny_math_solver.training.generation import Generation
def make(self, rows, numbers, seed):
    rollouts, graded = [], []
    for row, number in zip(rows, numbers):
        text = f" #### {row['answer']}" if number == 0 else "so it is " * number + f"#### {number}"
        ids = [*self.rollouts.tokenizer(text)["input_ids"], self.rollouts.eos_ids[0]]
        rollouts.append(Rollout(self.prompts[row["group"]].ids, ids, True))
        graded.append(self._graded(row, rollouts[-1], self.rollouts.endings))
    return self._paid(rows, rollouts, graded)
Generation.make = make
"""


@pytest.mark.parametrize("each", [4, 2], ids=["a group each", "a group over both"])
def test_two_processes_take_the_step_that_one_takes(tmp_path: Path, each: int):
    """Catches gradients that are added where they should be averaged, and lengths normalised within a process."""
    sgd = ["--grpo.optim", "sgd", "--grpo.learning_rate", "1", "--grpo.max_grad_norm", "1e9", "--grpo.max_steps", "1",
           "--update.own_passes", "false"]  # fmt: skip
    script = patched(tmp_path, FIXED_COMPLETIONS)
    for count, size in ((1, 2 * each), (2, each)):
        place = ["--grpo.per_device_train_batch_size", str(size), "--grpo.output_dir", str(tmp_path / str(count))]
        done = launch(count, *TINY, *sgd, *place, script=script)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / str(count) / "checkpoint-1" / ADAPTER) for count in (1, 2))
    moved = {name: weight for name, weight in one.items() if "lora_B" in name}  # which starts from 0
    assert max(weight.abs().max().item() for weight in moved.values()) > 1e-3
    for name, weight in moved.items():
        assert (two[name] - weight).norm() <= 1e-4 * weight.norm(), name


@pytest.mark.parametrize("start", range(2))
def test_starts_of_two_processes_do_not_race(tmp_path: Path, start: int):
    """In 7 of 10 runs the second process read summary.json before the first had written it."""
    done = launch(2, *TINY, "--grpo.output_dir", str(tmp_path / "run"), "--quiet")
    assert (done.returncode, done.stdout.count("verdict: ")) == (0, 1), done.stderr


def test_one_process_under_torchrun_trains_as_without(tmp_path: Path):
    """The move of the model from cpu to cpu:0 left a decoder with the addresses of freed memory."""
    assert launch(1, *TINY, "--grpo.output_dir", str(tmp_path / "torchrun")).returncode == 0
    plain = [sys.executable, "-m", "tiny_math_solver.cli", *TINY, "--grpo.output_dir", str(tmp_path / "plain")]
    subprocess.run(plain, check=True, env=launched_environment(), stdout=subprocess.DEVNULL)
    one, other = tmp_path / "torchrun", tmp_path / "plain"
    assert (one / "rollouts.jsonl").read_text() == (other / "rollouts.jsonl").read_text()
    assert (one / ADAPTER).read_bytes() == (other / ADAPTER).read_bytes()


# -- Another number of processes --------------------------------------------------------------------------------


def test_another_number_of_processes_goes_on_with_the_same_batch(tmp_path: Path):
    """Two, then one, then two: the problems of each step are those of two processes all along."""
    to_six = ["--grpo.max_steps", "6"]
    longer = ["--resume", "--allow", "grpo.max_steps"]
    assert launch(2, *TINY, *to_six, "--grpo.output_dir", str(tmp_path / "straight")).returncode == 0
    changing = [*TINY, "--grpo.output_dir", str(tmp_path / "run")]
    assert launch(2, *changing).returncode == 0
    resumed = launch(1, *changing, "--grpo.max_steps", "4", *longer)
    assert resumed.returncode == 0, resumed.stderr
    assert "grpo.gradient_accumulation_steps 2 keeps the completions of a step" in resumed.stdout
    assert launch(2, *changing, *to_six, *longer).returncode == 0
    assert problems(tmp_path / "run") == problems(tmp_path / "straight")

    before = contents(tmp_path / "run")
    refused = launch(3, *changing, "--grpo.max_steps", "8", *longer)
    assert refused.returncode != 0
    assert refused.stderr.count("tiny-math: ") == 1
    assert (
        "a step has 16 completions, which 3 processes cannot share equally; resume with as many as before"
        in refused.stderr
    )
    assert contents(tmp_path / "run") == before


def test_a_batch_that_makes_no_whole_groups_is_refused_once_and_before_anything_is_written(tmp_path: Path):
    folder = tmp_path / "run"
    for wrong, reason in (
        (
            ["--grpo.per_device_train_batch_size", "3"],
            "× 2 processes = 6 completions, not a multiple of num_generations",
        ),
        (["--grpo.generation_batch_size", "20"], "generation_batch_size (20) must be divisible by the global batch"),
    ):
        done = launch(2, *TINY, *wrong, "--grpo.output_dir", str(folder))
        assert done.returncode != 0
        assert done.stderr.count("tiny-math: ") == 1
        assert reason in done.stderr
        assert not folder.exists()


@pytest.mark.parametrize("count", [2, 1], ids=["as many", "fewer"])
def test_a_run_goes_on_amid_a_generation_batch_with_any_number_of_processes(tmp_path: Path, count: int):
    """Steps 1 and 2 learn from the first batch, 3 and 4 from the second: rows belong to whoever goes on with them."""
    batch = ["--grpo.per_device_train_batch_size", "4", "--grpo.steps_per_generation", "2"]
    straight, folder = tmp_path / "straight", tmp_path / "run"
    four = [*TINY, *batch, "--grpo.max_steps", "4"]
    assert launch(2, *four, "--grpo.output_dir", str(straight)).returncode == 0
    stop = patched(tmp_path, STOP_AFTER.format(step=3))
    assert launch(2, *four, "--grpo.output_dir", str(folder), script=stop).returncode != 0
    assert max(folder.glob("checkpoint-*")).name == "checkpoint-3"
    done = launch(count, *four, "--grpo.output_dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert (folder / "rollouts.jsonl").read_bytes() == (straight / "rollouts.jsonl").read_bytes()
    weights = [load_file(each / "checkpoint-4" / ADAPTER) for each in (folder, straight)]
    if count == 2:
        assert (folder / ADAPTER).read_bytes() == (straight / ADAPTER).read_bytes()
    assert all(torch.allclose(part, weights[1][name], atol=1e-5) for name, part in weights[0].items())


# -- Failures and signals ---------------------------------------------------------------------------------------

STOP_AFTER = """
from tiny_math_solver.support.errors import UserError
from trl import GRPOTrainer
training_step = GRPOTrainer.training_step
def fail(self, *args, **kwargs):
    if self.state.global_step == {step}:
        raise UserError("stopped here")
    return training_step(self, *args, **kwargs)
GRPOTrainer.training_step = fail
"""
FAILURE = """
from trl import GRPOTrainer
from tiny_math_solver.support.errors import UserError
training_step = GRPOTrainer.training_step
def fail(self, *args, **kwargs):
    if rank == {rank} and self.state.global_step == 1:
        {failure}
    return training_step(self, *args, **kwargs)
GRPOTrainer.training_step = fail
"""


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("raise UserError('no disk')", "tiny-math: no disk"),
        ("raise ZeroDivisionError('a bug')", "ZeroDivisionError: a bug"),
        ("os.kill(os.getpid(), 9)", "tiny-math: process {rank} of 2 (at the update of step 1) ended without"),
    ],
    ids=["bad input", "bug", "killed"],
)
def test_a_failure_of_one_process_is_printed_once_and_ends_both(tmp_path: Path, failure: str, message: str, rank: int):
    """Catches a process that waits for half an hour, and the second one's stack of gloo below the message."""
    script = patched(tmp_path, FAILURE.format(rank=rank, failure=failure))
    message = message.format(rank=rank)
    started = time.monotonic()
    done = launch(2, *TINY, "--grpo.output_dir", str(tmp_path / "run"), script=script)
    assert done.returncode != 0
    assert time.monotonic() - started < 100
    assert done.stderr.count(message) == 1, done.stderr
    assert done.stderr.count("tiny-math: ") == message.count("tiny-math: ")
    assert "peer" not in done.stderr
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("to_all", [True, False], ids=["Ctrl-C in a terminal", "kill of the launcher"])
def test_a_signal_ends_both_after_a_step_that_is_saved(tmp_path: Path, to_all: bool):
    """A terminal signals all processes and torchrun passes it on: the second is no request to stop at once."""
    folder, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tiny_math_solver.cli", *TINY, "--grpo.max_steps", "300", "--grpo.output_dir", str(folder)]
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            command, stdout=output, stderr=output, env=launched_environment(), start_new_session=True
        )
    try:
        while not (folder / "checkpoint-2").exists():
            assert launcher.poll() is None, log.read_text()
            time.sleep(0.05)
        send = os.killpg if to_all else os.kill
        send(launcher.pid, signal.SIGINT if to_all else signal.SIGTERM)
        assert launcher.wait(60) != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    text = log.read_text()
    assert text.count("stopped after step") == 1
    assert text.count("finishing and saving this step") == 1
    step = int(text.partition("stopped after step ")[2].split()[0])
    assert (folder / f"checkpoint-{step}" / "SHA256SUMS").is_file()
    assert len(rows(folder / "metrics.jsonl")) == step


NEVER_COMES = """
import time
import torch.distributed as dist
make = dist.{call}
def die(*args, **kwargs):
    if rank == {rank}:
        time.sleep(2)
        os.kill(os.getpid(), 9)
    return make(*args, **kwargs)
dist.{call} = die
"""


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("call", ["init_process_group", "new_group"])
def test_a_process_that_waits_for_a_dead_one_to_come_ends_at_once(tmp_path: Path, call: str, rank: int):
    """It waits outside of Python, whose signal handlers wait with it: until the launcher killed it after 30 s."""
    script, started = patched(tmp_path, NEVER_COMES.format(call=call, rank=rank)), time.monotonic()
    done = launch(2, *TINY, "--grpo.output_dir", str(tmp_path / "run"), script=script)
    assert done.returncode != 0
    assert time.monotonic() - started < 28
    assert "forcefully exiting" not in done.stderr


STOPS_ANSWERING = """
import signal
from tiny_math_solver.training.batches import Batches
begin = Batches.begin
def stop(self, *args, **kwargs):
    if rank == 1 and self._trainer.state.global_step == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return begin(self, *args, **kwargs)
Batches.begin = stop
"""


def test_a_process_that_hangs_is_named_with_the_place(tmp_path: Path):
    """As a GPU does that no longer answers. The launcher waits 30 s for it to end, then kills it."""
    patient = ["--grpo.ddp_timeout", "5", "--grpo.output_dir", str(tmp_path / "run")]
    done = launch(2, *TINY, *patient, script=patched(tmp_path, STOPS_ANSWERING))
    assert done.returncode != 0
    said = "process 0 has waited for 5 s (grpo.ddp_timeout) at the rollouts of step 2; process 1 was last seen at the "
    assert done.stderr.count(f"tiny-math: {said}rollouts of step 2; the same command resumes") == 1, done.stderr


OTHER_WEIGHTS = """
from tiny_math_solver.training.agreement import Agreement
compare = Agreement._compare
def changed(self, step):
    if rank == 1:
        next(p for p in self.trainer.model.parameters() if p.requires_grad).data.view(-1)[7].add_(1e-6)
    return compare(self, step)
Agreement._compare = changed
"""


def test_processes_whose_weights_differ_do_not_go_on(tmp_path: Path):
    """By one number, in the last bits. Such a run would look well and end with an adapter nobody has trained."""
    done = launch(2, *TINY, "--grpo.output_dir", str(tmp_path / "run"), script=patched(tmp_path, OTHER_WEIGHTS))
    assert done.returncode != 0
    assert done.stderr.count("stopped: step 2: the weights of process 1 are not those of 0") == 1, done.stderr


def test_an_evaluation_is_shared_and_the_same(tmp_path: Path):
    """With a question that is asked twice, whose samples go on where the first ones ended."""
    questions = [json.dumps({"question": f"What is {n} + 3?", "answer": str(n + 3)}) for n in (1, 2, 3, 2, 5, 6, 7)]
    (tmp_path / "problems.jsonl").write_text("\n".join(questions) + "\n")
    ask = ["eval", "embedded", "--problems", str(tmp_path / "problems.jsonl"), "--samples", "3"]
    found = []
    for count in (1, 2, 3):
        done = launch(count, *ask, "--out", str(tmp_path / f"{count}.jsonl"))
        assert done.returncode == 0, done.stderr
        found.append(((tmp_path / f"{count}.jsonl").read_bytes(), done.stdout))
    assert found[0] == found[1] == found[2]
    records = rows(tmp_path / "2.jsonl")
    assert len(records) == 7 * 4
    twins = [[row["completion"] for row in records if row["id"] == name and row["sample"] is not None]
             for name in (records[1]["id"], records[3]["id"])]  # fmt: skip
    assert twins[0] != twins[1]


def test_check_tries_as_many_processes_as_it_is_asked_for(tmp_path: Path):
    command = [sys.executable, "-m", "tiny_math_solver.cli", "check", str(QUICKSTART), "--processes", "2"]
    done = subprocess.run(command, env=launched_environment(), capture_output=True, text=True, timeout=150, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "go"), done.stderr
    assert done.stdout.count("each of 2 processes: ") == 1
    assert "shared by 2 processes" in done.stdout
    refused = [*command, "--grpo.max_completion_length", "2", "--evaluation.forecast_seconds", "20"]
    done = subprocess.run(refused, env=launched_environment(), capture_output=True, text=True, timeout=150, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (3, "do not start this run")
    assert "Traceback" not in done.stderr


KILLS = int(os.environ.get("TINY_MATH_KILLS", "2"))  # of the test below, half of them resumed by one process


@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_killed_at_any_moment_goes_on(tmp_path: Path, number: int, straight: tuple[Path, float]):
    """Resumed by as many processes it ends in the same bytes; by one with the same completions, to rounding."""
    (whole, seconds), folder, log = straight, tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tiny_math_solver.cli", *KILLED, "--grpo.output_dir", str(folder)]
    drawn = random.Random(number)
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            command, stdout=output, stderr=output, env=launched_environment(), start_new_session=True
        )
    time.sleep(drawn.uniform(0.2, 1) * seconds)
    workers = [child.pid for child in psutil.Process(launcher.pid).children()] if launcher.poll() is None else []
    if workers:
        os.kill(drawn.choice(workers), signal.SIGKILL)
    killed = time.monotonic()
    ended = launcher.wait(60)
    assert not workers or time.monotonic() - killed < 30
    if workers and ended:
        assert log.read_text().count("ended without a message") <= 1
    is_under_way = (folder / "environment.json").exists() and not (folder / "summary.json").exists()
    count = 1 if number % 2 == 0 and is_under_way else 2
    done = launch(count, *KILLED, "--grpo.output_dir", str(folder))
    assert done.returncode == 0, done.stderr
    for name in ("rollouts.jsonl", "eval/after.jsonl", "eval/before.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    a, b = (load_file(each / ADAPTER) for each in (folder, whole))
    if count == 2:
        assert (folder / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
    assert all(torch.allclose(part, b[name], atol=1e-4) for name, part in a.items())
    verdicts = [json.loads((each / "summary.json").read_text())["paired"] for each in (folder, whole)]
    assert verdicts[0] == verdicts[1]


KILLED = [*TINY, "--grpo.max_steps", "8", "--grpo.save_steps", "2"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The run that nobody kills, and the seconds it takes."""
    folder, started = tmp_path_factory.mktemp("straight") / "run", time.monotonic()
    assert launch(2, *KILLED, "--grpo.output_dir", str(folder)).returncode == 0
    return folder, time.monotonic() - started
