"""Bad run folders: not ours, half-written, damaged, in use, or of another configuration."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from helpers.bad_input_cases import TINY, Case, Content
from helpers.paths import QUICKSTART

SHORT = "--grpo.max_steps 1 --problems.train 64 --problems.test 4 --problems.dev 4 --evaluation.samples 0"
TRAIN = f"train {QUICKSTART} --grpo.output_dir r {SHORT}"
RESUME = f"{TRAIN} --resume"
HELD: list[int] = []  # descriptors of locked folders


def a_run(*without: str, **damaged: bytes) -> Callable[[Path], object]:
    """A finished short run, some of its files left out or overwritten (`__` stands for a dot)."""

    def build(path: Path) -> None:
        shutil.copytree(TINY["run"], path)
        for name in without:
            (path / name).unlink()
        for name, content in damaged.items():
            (path / name.replace("__", ".")).write_bytes(content)

    return build


def locked(path: Path) -> None:
    a_run("summary.json")(path)
    HELD.append(os.open(path, os.O_RDONLY))
    fcntl.flock(HELD[-1], fcntl.LOCK_EX)


def case(why: str, arguments: str, message: str, content: Content) -> Case:
    return Case(why, arguments, message, {"r": content})


FOREIGN: dict[str, Content] = {"r/cat.jpg": "meow", "r/notes.txt": "mine"}
UNFINISHED = a_run("summary.json")
RUNS = (
    Case("a folder of something else", TRAIN, "r: exists and is not a run folder", FOREIGN),
    Case("resume a folder of something else", RESUME, "r: exists and is not a run folder", FOREIGN),
    Case("resume nothing", RESUME, "r: no run there to resume"),
    case("a run at work", TRAIN, "r: another run is at work in this folder", locked),
    case("another learning rate", f"{RESUME} --grpo.learning_rate 0.5", "with these changes, add --allow", UNFINISHED),
    case("another model", f"{RESUME} --model.name {QUICKSTART.parent}", "not a model folder", UNFINISHED),
    case("another rank", f"{RESUME} --lora.r 4 --allow lora.r", "which cannot change within a run", UNFINISHED),
    case("allow what is no field", f"{RESUME} --allow grpo.learnin_rate", "no such field", UNFINISHED),
    case("allow what is no section", f"{RESUME} --allow everything", "no such field or section", UNFINISHED),
    case("config that is no YAML", RESUME, "r/config.yaml: cannot be read", a_run(config__yaml=b"{a: [")),
    case("config of bytes", RESUME, "r/config.yaml: cannot be read", a_run(config__yaml=b"\xff\xfe\x00")),
    case("config that is a list", RESUME, "r/config.yaml: holds no", a_run(config__yaml=b"- 1\n")),
    Case("report of nothing", "report nowhere", "no such run: nowhere"),
    Case("report of something else", "report r", "r: no config.yaml, so it is not a run folder", FOREIGN),
    case("report of damaged metrics", "report r", "r/metrics.jsonl:1: damaged", a_run(metrics__jsonl=b"{oops\n")),
    case("report of other metrics", "report r", "r/metrics.jsonl:2: d", a_run(metrics__jsonl=b"{}\n[]\n")),
    case("report of other rollouts", "report r", "r: its records are damaged", a_run(rollouts__jsonl=b'{"a": 1}\n')),
    case("report of a cut summary", "report r", "r/summary.json: damaged", a_run(summary__json=b'{"before": {')),
    case("report of a cut environment", "report r", "environment.json: damaged", a_run(environment__json=b"")),
    Case("watch nothing", "watch nowhere", "no such run: nowhere"),
    case("watch damaged rollouts", "watch r", "r/rollouts.jsonl:1: damaged", a_run(rollouts__jsonl=b"\x00\x01\n")),
    case("merge a run without adapter", "merge r m", "r: no adapter_config.json", a_run("adapter_config.json")),
    case("merge a cut adapter", "merge r m", "adapter", a_run(adapter_model__safetensors=b"\x10\x00\x00")),
    case("evaluate without weights", "eval r", "adapter_model.safetensors", a_run("adapter_model.safetensors")),
    case("solve with a damaged config", "solve r 1+1?", "r/config.yaml", a_run(config__yaml=b"grpo: 7\n")),
)  # fmt: skip
