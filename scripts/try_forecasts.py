"""Train twelve configurations one after another, then compare their forecasts with what they took.

    python scripts/try_forecasts.py FOLDER [MODEL …]

The shipped models take about ten minutes on 2 CPU cores; MODELs are folders of pretrained models, each of which takes
the place of one further configuration. Each run learns from those before it. A machine at rest is assumed.
"""

import subprocess
import sys
from pathlib import Path

PROGRAM = [sys.executable, "-m", "tiny_math_solver.cli"]
QUICKSTART, COUNTDOWN = "configs/quickstart.yaml", "configs/countdown.yaml"
RUNS = {
    "quickstart": [QUICKSTART],
    "quickstart-seed": [QUICKSTART, "--grpo.seed", "7"],
    "quickstart-slower": [QUICKSTART, "--grpo.learning_rate", "5e-4"],
    "quickstart-short": [QUICKSTART, "--grpo.max_steps", "10"],
    "quickstart-wide": [QUICKSTART, "--grpo.gradient_accumulation_steps", "4", "--grpo.max_steps", "16"],
    "quickstart-16-samples": [QUICKSTART, "--grpo.num_generations", "16"],
    "quickstart-replace-dead": [QUICKSTART, "--rollouts.replace_dead", "2"],
    "quickstart-half": [QUICKSTART, "--update.share", "0.5"],
    "quickstart-all-weights": [QUICKSTART, "--lora", "null", "--grpo.learning_rate", "1e-4"],
    "quickstart-generate": [QUICKSTART, "--rollouts.engine", "false", "--grpo.max_steps", "8"],
    "countdown": [COUNTDOWN],
    "countdown-seed": [COUNTDOWN, "--grpo.seed", "7"],
}
PRETRAINED = [
    QUICKSTART, "--grpo.max_completion_length", "160", "--grpo.max_steps", "4", "--grpo.learning_rate", "1e-5",
    "--grpo.num_generations", "4", "--grpo.per_device_train_batch_size", "32", "--grpo.gradient_accumulation_steps",
    "1", "--problems.test", "64", "--problems.dev", "32", "--evaluation.samples", "0",
]  # fmt: skip


def main() -> int:
    folder, *models = sys.argv[1:]
    runs = list(RUNS.items())[: len(RUNS) - len(models)]
    runs += [(Path(model).name, [*PRETRAINED, "--model.name", model]) for model in models]
    for name, (config, *overrides) in runs:
        command = [*PROGRAM, "train", config, *overrides, "--grpo.output_dir", f"{folder}/{name}", "--quiet"]
        print(f"{name}: {' '.join(command[3:])}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return subprocess.run([*PROGRAM, "forecasts", folder], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
