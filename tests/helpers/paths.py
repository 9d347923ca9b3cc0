"""The folders and files of this repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
GSM8K = ROOT / "configs" / "gsm8k-qwen2.5-0.5b.yaml"
GSM8K_DATA = ROOT.parent / "shared" / "gsm8k"  # train.jsonl and test.jsonl; not part of the repository
RECORDED_RUNS = ROOT.parent / "shared" / "gpu-h200"  # metrics of real runs; not part of the repository
