"""A run folder with made-up records, for pages that show a run."""

import json
from pathlib import Path
from typing import Any

from tiny_math_solver.evaluation.statistics import mcnemar

HOSTILE = (
    '</script><script>document.title="taken"</script><img src=x onerror=\'document.title="taken"\'> #### 4\u2028<!--'
)


def write_run(folder: Path, rollouts: int = 40, finished: bool = True, after_right: int = 3) -> Path:
    """A made-up run: four test problems, of which the first was right before."""

    def jsonl(name: str, rows: list[dict[str, Any]]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answers(right: int, how: str) -> list[dict[str, Any]]:
        return [
            {
                "id": f"p{i}", "question": f"What is {i} + 2?", "gold": str(i + 2),
                "completion": f"{i}+2={i + 2}\n#### {i + 2}" if i < right else f"{i}+2={i + 3}\n#### {i + 3}",
                "answer": str(i + 2 if i < right else i + 3), "how": how, "correct": i < right, "strict": i < right,
                "tokens": 9, "finished": True, "sample": None,
            }
            for i in range(4)
        ]  # fmt: skip

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("model:\n  name: embedded\n")
    jsonl("metrics.jsonl", [{"step": s, "reward": s / 10, "time/update": 0.5} for s in range(1, 6)])
    jsonl(
        "rollouts.jsonl",
        [
            {
                "step": 1 + i * 5 // rollouts, "id": f"t{i % 7}", "question": f"Question {i % 7}", "gold": "4",
                "completion": HOSTILE if i == 3 else f"2+{i}={2 + i}\n#### {2 + i}", "answer": str(2 + i),
                "how": "hashes", "rewards": {"correctness_reward": float(i % 2), "format_reward": 0.5},
                "advantage": i / 100, "tokens": 5 + i, "finished": i % 10 > 0,
            }
            for i in range(rollouts)
        ],
    )  # fmt: skip
    jsonl("events.jsonl", [{"step": 3, "name": "truncation", "text": f"40% are cut off {HOSTILE}"}])
    jsonl("eval/dev-000000.jsonl", answers(1, "hashes"))
    jsonl("eval/dev-000004.jsonl", answers(after_right, "hashes"))
    jsonl("eval/before.jsonl", answers(1, "phrase"))
    if finished:
        jsonl("eval/after.jsonl", answers(after_right, "hashes"))
        blocks = [
            {
                "n": 4,
                "correct": n,
                "accuracy": n / 4,
                "ci95": [0.1, 0.9],
                "strict_accuracy": n / 4,
                "pass_at_k": {"1": n / 4, "8": (n + 1) / 5},
                "maj_at_k": {"1": n / 4, "8": n / 4},
                "sampled_problems": 4,
            }
            for n in (1, after_right)
        ]
        paired = mcnemar([i < 1 for i in range(4)], [i < after_right for i in range(4)]).to_dict()
        summary = {
            "before": blocks[0], "after": blocks[1], "paired": paired, "train_seconds": 6.0, "steps": 5,
            "causes": [f"up to 12% of the completions were cut off {HOSTILE}"],
            "completions": rollouts, "completion_tokens": 900, "best_step": 4,
            "unseen": {"before": {"n": 200, "accuracy": 0.0}, "after": {"n": 200, "accuracy": 0.02}},
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
