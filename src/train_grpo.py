"""Train with GRPO: `tiny-math train`, with the GSM8K configuration unless another one is named.

python src/train_grpo.py [CONFIG.yaml] [--section.key value ...]
accelerate launch --config_file configs/accelerate/single_gpu.yaml src/train_grpo.py
"""

from __future__ import annotations

import sys
from pathlib import Path

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "gsm8k-qwen2.5-0.5b.yaml"


def arguments(argv: list[str]) -> list[str]:
    """The command line of `tiny-math`: a YAML file in `argv` is the config, unless it is the value of an override."""
    for i, argument in enumerate(argv):
        before = argv[i - 1] if i else ""
        is_value = before.startswith("--") and "." in before and "=" not in before  # of --section.key
        if argument.endswith((".yaml", ".yml")) and not argument.startswith("-") and not is_value:
            return ["train", argument, *argv[:i], *argv[i + 1 :]]
    return ["train", str(DEFAULT_CONFIG), *argv]


def main() -> int:
    try:
        import pydantic  # noqa: F401  our own package is importable from here even where nothing is installed

        from tiny_math_solver.cli import main as tiny_math
    except ModuleNotFoundError as missing:
        root = DEFAULT_CONFIG.parents[1]
        print(f"train_grpo.py: {missing}; run this first: bash {root / 'setup_lightning.sh'}", file=sys.stderr)
        return 2
    return tiny_math(arguments(sys.argv[1:])) or 0


if __name__ == "__main__":
    sys.exit(main())
