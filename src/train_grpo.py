"""Train with GRPO: `tiny-math train` with the GSM8K configuration, under the name that people know.

python src/train_grpo.py [CONFIG.yaml] [--section.key value ...]
accelerate launch --config_file configs/accelerate/single_gpu.yaml src/train_grpo.py
"""

from __future__ import annotations

import sys
from pathlib import Path

FLAGS = ("--dry-run", "--quiet", "--resume", "--no-resume", "--force")  # options without a value
DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "gsm8k-qwen2.5-0.5b.yaml"


def arguments(argv: list[str]) -> list[str]:
    """The command line of `tiny-math`: a YAML file among `argv` that is no option's value is the config."""
    for i, argument in enumerate(argv):
        before = argv[i - 1] if i else ""
        follows_option = before.startswith("-") and "=" not in before and before not in FLAGS
        if argument.endswith((".yaml", ".yml")) and not argument.startswith("-") and not follows_option:
            return ["train", argument, *argv[:i], *argv[i + 1 :]]
    return ["train", str(DEFAULT_CONFIG), *argv]


def main() -> int:
    try:
        import pydantic  # noqa: F401  the package lies beside this file: only a dependency tells if it is installed

        from tiny_math_solver.cli import main as tiny_math
    except ModuleNotFoundError as missing:
        root = DEFAULT_CONFIG.parents[1]
        print(f"train_grpo.py: {missing}; run this first: bash {root / 'setup_lightning.sh'}", file=sys.stderr)
        return 2
    return tiny_math(arguments(sys.argv[1:])) or 0


if __name__ == "__main__":
    sys.exit(main())
