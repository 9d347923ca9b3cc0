"""The shell entry points, offline: real bash and a real Python, with stubs for what would install or train.

The stubs log one line per call, so that a test can say what was run, where, and with which arguments.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from helpers.paths import ROOT

SCRIPTS = ("setup_lightning.sh", "src/train_math.sh")
CONFIG = "configs/gsm8k-qwen2.5-0.5b.yaml"

# A Python that sees only the packages in $FAKE_SITE: `-m venv` copies the stub, `-m pip` writes down its
# constraints and makes the command, everything else is the real interpreter.
PYTHON_STUB = """#!/usr/bin/env bash
case "$1 $2" in
"-m venv")
    echo "venv ${*:3}" >>"$LOG"
    [[ -z ${NO_VENV:-} ]] || exit 1
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python ;;
"-m pip")
    echo "pip ${*: -2}" >>"$LOG"
    while [[ $1 != --constraint ]]; do shift; done
    cp "$2" "$SEEN_CONSTRAINTS"
    printf '%s\\n' '#!/usr/bin/env bash' 'echo "tiny-math $*" >>"$LOG"' 'exit ${TINY_MATH_EXIT:-0}' \
        >.venv/bin/tiny-math
    chmod +x .venv/bin/tiny-math ;;
*)
    PYTHONPATH=$FAKE_SITE exec "$REAL_PYTHON" -S "$@" ;;
esac
"""
# For train_math.sh: an interpreter in which the package is installed, unless $BROKEN names its folder.
TRAINER_STUB = """#!/usr/bin/env bash
[[ ${BROKEN:-} != "$(cd "$(dirname "$0")" && pwd)" ]] || exit 1
[[ $1 == -c ]] && { [[ $2 == *device_count* ]] && echo "${GPUS_THERE:-0}"; exit 0; }
echo "$0 in $PWD with WANDB_TOKEN=${WANDB_TOKEN:-}" >>"$LOG"
printf '<%s>' "$@" >>"$LOG"
exit ${TRAINER_EXIT:-0}
"""


class Box:
    """A temporary copy of the scripts, with a PATH that holds nothing but the stubs and the basic tools."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.bin, self.site = folder / "the repo", folder / "bin", folder / "site"
        self.log, self.constraints = folder / "log", folder / "seen-constraints.txt"
        for path in (self.repo / "src", self.bin, self.site):
            path.mkdir(parents=True)
        for script in (*SCRIPTS, "Makefile"):
            shutil.copy(ROOT / script, self.repo / script)
        for tool in ("bash", "cat", "chmod", "cp", "dirname", "mkdir", "mktemp", "readlink", "rm", "touch"):
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)
        (self.repo / "pyproject.toml").touch()
        (self.repo / "constraints.txt").write_text(
            "# tested\ntorch==2.13.0\nsympy==1.14.0\nTyping_Extensions==4.16.0\nnvidia-nccl-cu12==2.29\ntrl==1.16.0\n"
        )
        self.env = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "LOG": str(self.log),
            "SEEN_CONSTRAINTS": str(self.constraints),
            "FAKE_SITE": str(self.site),
            "REAL_PYTHON": sys.executable,
        }

    def stub(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def install_torch(self, version: str) -> None:
        """A torch that can be imported, with metadata that asks for other packages as the real one does."""
        (self.site / "torch").mkdir()
        (self.site / "torch" / "__init__.py").write_text(
            f"__version__ = {version!r}\nclass cuda:\n    is_available = staticmethod(lambda: True)\n"
        )
        info = self.site / f"torch-{version}.dist-info"
        info.mkdir()
        requires = (
            "sympy (==1.13.1)",
            "typing-extensions>=4.10.0",
            'nvidia-nccl-cu12==2.21; sys_platform == "linux"',
        )
        lines = ["Metadata-Version: 2.1", "Name: torch", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join(lines + [f"Requires-Dist: {name}" for name in requires]) + "\n")

    def run(
        self, script: Path | str, *args: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.repo / script), *args],
            cwd=cwd or self.repo,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def studio(box: Box) -> Box:
    """A box with a `python3`, in which the set-up can run."""
    box.stub(box.bin / "python3", PYTHON_STUB)
    return box


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_accepts_the_script(script: str) -> None:
    """Catches a syntax error in a branch that no test takes."""
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


# ---- src/train_math.sh ----


@pytest.mark.parametrize("through_symlink", [False, True])
def test_train_math_runs_in_the_repository_from_anywhere(box: Box, tmp_path: Path, through_symlink: bool) -> None:
    """Catches a checkpoint in the caller's folder, arguments split at spaces, and a lost W&B token."""
    box.stub(box.repo / ".venv/bin/python", TRAINER_STUB)
    script = box.repo / "src/train_math.sh"
    if through_symlink:
        script = tmp_path / "train"
        script.symlink_to(box.repo / "src/train_math.sh")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    done = box.run(script, "--run.name", "a b", "--flag", "", cwd=elsewhere, WANDB_TOKEN="t0ken", TRAINER_EXIT="7")

    assert done.returncode == 7, done.stderr
    assert box.calls() == [
        f"{box.repo}/.venv/bin/python in {box.repo} with WANDB_TOKEN=t0ken",
        "<src/train_grpo.py><--run.name><a b><--flag><>",
    ]


@pytest.mark.parametrize(("asked", "started"), [("all", 4), ("3", 3)])
def test_train_math_starts_a_process_for_each_gpu_it_is_asked_for(box: Box, asked: str, started: int) -> None:
    box.stub(box.repo / ".venv/bin/python", TRAINER_STUB)
    done = box.run("src/train_math.sh", "--flag", "", GPUS=asked, GPUS_THERE="4")
    assert done.returncode == 0, done.stderr
    launcher = f"<-m><torch.distributed.run><--standalone><--nproc_per_node><{started}>"
    assert box.calls()[1] == f"{launcher}<src/train_grpo.py><--flag><>"


@pytest.mark.parametrize("asked", ["5", "0", "all of them", "-1"])
def test_train_math_refuses_gpus_that_are_not_there(box: Box, asked: str) -> None:
    box.stub(box.repo / ".venv/bin/python", TRAINER_STUB)
    done = box.run("src/train_math.sh", GPUS=asked, GPUS_THERE="4")
    assert (done.returncode, box.calls()) == (2, [])
    assert done.stderr == f"train_math.sh: GPUS={asked}, but this machine has 4 GPUs\n"


def test_train_math_with_one_gpu_starts_no_launcher(box: Box) -> None:
    box.stub(box.repo / ".venv/bin/python", TRAINER_STUB)
    assert box.run("src/train_math.sh", GPUS="1").returncode == 0
    assert box.calls()[1] == "<src/train_grpo.py>"


def test_train_math_falls_back_to_the_active_python(box: Box) -> None:
    """Catches a half-installed .venv that hides an environment in which the package works."""
    box.stub(box.repo / ".venv/bin/python", TRAINER_STUB)
    box.stub(box.bin / "python", TRAINER_STUB)
    done = box.run("src/train_math.sh", BROKEN=str(box.repo / ".venv/bin"))
    assert done.returncode == 0, done.stderr
    assert box.calls()[0].startswith(f"{box.bin}/python in")


def test_train_math_without_an_environment_says_what_to_run(box: Box) -> None:
    """Catches a traceback or a "command not found" as the first thing a newcomer sees."""
    done = box.run("src/train_math.sh")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"train_math.sh: tiny_math_solver is not installed; run this first: bash {box.repo}/setup_lightning.sh\n"
    )


# ---- setup_lightning.sh ----


def test_setup_keeps_a_torch_that_is_new_enough(studio: Box) -> None:
    """Catches the studio's CUDA torch being replaced: gigabytes, and often a build the driver cannot run.
    torch 2.6 pins sympy 1.13.1, so constraining sympy to our tested version could not be resolved."""
    studio.install_torch("2.6.0+cu124")
    done = studio.run("setup_lightning.sh")
    assert done.returncode == 0, done.stderr
    assert "keeping its torch 2.6.0+cu124" in done.stdout
    assert studio.calls() == [
        "venv --system-site-packages .venv",
        "pip --editable .",
        f"tiny-math fetch {CONFIG}",
        f"tiny-math train {CONFIG} --dry-run",
    ]
    assert studio.constraints.read_text().split("\n") == ["torch==2.6.0+cu124", "# tested", "trl==1.16.0", ""]
    make = subprocess.run(["make", "-n", "test"], cwd=studio.repo, capture_output=True, text=True, check=True)
    assert "--constraint .venv/constraints.txt" in make.stdout  # `make test` would bring its own torch otherwise


@pytest.mark.parametrize("version", [None, "2.5.1+cu121", "1.13.1"])
def test_setup_brings_its_own_torch_otherwise(studio: Box, version: str | None) -> None:
    """Catches an old torch being kept, also through a string comparison ("1.13" or "2.10" against "2.6")."""
    if version:
        studio.install_torch(version)
    done = studio.run("setup_lightning.sh")
    assert done.returncode == 0, done.stderr
    assert studio.calls()[0] == "venv .venv"
    assert studio.constraints.read_text() == (studio.repo / "constraints.txt").read_text()


def test_setup_keeps_torch_two_ten(studio: Box) -> None:
    """Catches versions compared as strings or decimals, where 2.10 comes before 2.6."""
    studio.install_torch("2.10.0")
    assert studio.run("setup_lightning.sh").returncode == 0
    assert studio.calls()[0] == "venv --system-site-packages .venv"


def test_second_setup_installs_nothing(studio: Box) -> None:
    """Catches a set-up that starts over each time, and one that never notices changed pins or extras."""
    studio.run("setup_lightning.sh")
    first = len(studio.calls())
    done = studio.run("setup_lightning.sh")
    assert done.returncode == 0, done.stderr
    assert "installed already" in done.stdout
    assert studio.calls()[first:] == [f"tiny-math fetch {CONFIG}", f"tiny-math train {CONFIG} --dry-run"]

    assert "installed already" not in studio.run("setup_lightning.sh", EXTRAS="wandb").stdout
    assert "installed already" in studio.run("setup_lightning.sh", EXTRAS="wandb").stdout
    later = time.time() + 60
    os.utime(studio.repo / "constraints.txt", (later, later))
    assert "installed already" not in studio.run("setup_lightning.sh", EXTRAS="wandb").stdout


@pytest.mark.parametrize(
    ("env", "target"),
    [
        ({"WANDB_TOKEN": "t"}, ".[wandb]"),
        ({"EXTRAS": "dev,wandb"}, ".[dev,wandb]"),
        ({"EXTRAS": "", "WANDB_TOKEN": "t"}, "."),
    ],
)
def test_setup_installs_the_extras_asked_for(studio: Box, env: dict[str, str], target: str) -> None:
    """Catches a W&B token without wandb: the training would stop at its first log line."""
    studio.env |= env
    assert studio.run("setup_lightning.sh").returncode == 0
    assert f"pip --editable {target}" in studio.calls()


def test_setup_can_skip_the_download_and_names_the_next_command(studio: Box) -> None:
    """Catches a download despite SKIP_DOWNLOAD, and a next step that takes days without a GPU."""
    done = studio.run("setup_lightning.sh", SKIP_DOWNLOAD="1")
    assert done.returncode == 0, done.stderr
    # the check reads the problems, so without the download there is nothing to check
    assert not any("tiny-math" in call for call in studio.calls())
    assert "download and check: skipped" in done.stdout
    assert done.stdout.splitlines()[-2].startswith("no GPU found: ")
    assert done.stdout.splitlines()[-1] == "ready; next: bash src/train_math.sh configs/gsm8k-cpu.yaml"


def test_setup_stops_when_the_download_fails_and_goes_on_later(studio: Box) -> None:
    """Catches "ready" after a failed download, and a second run that installs everything again."""
    done = studio.run("setup_lightning.sh", TINY_MATH_EXIT="2")
    assert done.returncode == 2
    assert "ready" not in done.stdout
    assert done.stderr.endswith("run this again to finish the download\n")
    assert "installed already" in studio.run("setup_lightning.sh").stdout


def test_setup_reports_the_gpu(studio: Box) -> None:
    """Catches a GPU that torch cannot use and that nobody mentions until training crawls on the CPU."""
    studio.stub(studio.bin / "nvidia-smi", '#!/usr/bin/env bash\necho "NVIDIA L4, 23034 MiB"\n')
    assert "GPU: NVIDIA L4, 23034 MiB, but torch" in studio.run("setup_lightning.sh").stdout
    studio.install_torch("2.9.1+cu128")
    assert "GPU: NVIDIA L4, 23034 MiB\n" in studio.run("setup_lightning.sh").stdout


def test_setup_without_ensurepip(studio: Box) -> None:
    """Catches Debian's python3 without python3-venv: half a .venv, and an error about ensurepip."""
    done = studio.run("setup_lightning.sh", NO_VENV="1")
    assert done.returncode == 2
    assert "python3-venv (apt), virtualenv (pip), uv" in done.stderr
    assert not (studio.repo / ".venv").exists()

    studio.stub(
        studio.bin / "uv",
        '#!/usr/bin/env bash\necho "uv $*" >>"$LOG"\nmkdir -p .venv/bin\ncp "$(command -v python3)" .venv/bin/python\n',
    )
    assert studio.run("setup_lightning.sh", NO_VENV="1").returncode == 0
    assert "uv venv --quiet --seed --python python3 .venv" in studio.calls()


def test_setup_refuses_an_old_python(studio: Box) -> None:
    """Catches pip's page-long complaint about `requires-python` where one line would do."""
    studio.stub(studio.bin / "python3", '#!/usr/bin/env bash\n[[ $1 == --version ]] && echo "Python 3.8.10"\nexit 1\n')
    done = studio.run("setup_lightning.sh")
    assert done.returncode == 2
    assert done.stderr.startswith("setup_lightning.sh: python3 is Python 3.8.10, but 3.11 or newer is needed")
    assert "no python9 found" in studio.run("setup_lightning.sh", PYTHON="python9").stderr


# ---- src/train_grpo.py ----


@pytest.fixture(scope="module")
def train_grpo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_grpo", ROOT / "src/train_grpo.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ["train", str(ROOT / CONFIG)]),
        (["--help"], ["train", str(ROOT / CONFIG), "--help"]),
        (["my.yml", "--a", "b"], ["train", "my.yml", "--a", "b"]),
        (["--a=b", "my.yaml"], ["train", "my.yaml", "--a=b"]),
        (["--problems.path", "x.yaml"], ["train", str(ROOT / CONFIG), "--problems.path", "x.yaml"]),
        (["--quiet", "my.yaml", "--resume"], ["train", "my.yaml", "--quiet", "--resume"]),
    ],
)
def test_train_grpo_fills_in_the_config(train_grpo: ModuleType, argv: list[str], expected: list[str]) -> None:
    """Catches an option's value taken for the config, and a config given twice."""
    assert train_grpo.arguments(argv) == expected


def test_train_grpo_without_the_package_says_what_to_run(box: Box) -> None:
    """Catches a traceback where the environment is not there; it must name what is missing."""
    script = shutil.copy(ROOT / "src/train_grpo.py", box.repo / "src")
    done = subprocess.run([sys.executable, "-I", "-S", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"train_grpo.py: No module named 'pydantic'; run this first: bash {box.repo}/setup_lightning.sh\n"
    )


@pytest.mark.parametrize("name", ["single_gpu", "cpu"])
def test_accelerate_reads_its_config(name: str) -> None:
    """Catches a key that accelerate does not know: it refuses the whole file."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / f"configs/accelerate/{name}.yaml"))
    assert (config.num_processes, config.use_cpu) == (1, name == "cpu")
    # bool("NO") is true: an unquoted NO is YAML for false, which accelerate also takes for "no distribution".
    assert str(getattr(config.distributed_type, "value", config.distributed_type)) == "NO"
