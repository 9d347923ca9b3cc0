"""A made-up run of any length, with word problems that a model might have solved: varied words, names and numbers.

Its completions compress about as well as those of real models: several samples of one problem share names, numbers and
phrases, different problems share little.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwyz" for vowel in "aeiou"]
ENDINGS = ("", "", "n", "r", "s", "t", "l", "m", "nd", "st", "ing", "ed", "er")
COMMON = (
    "the of and to in is that we so each then has with for at by from are it this total number first now how many "
    "left per she he they more than after day week buys sells gives cost price times away therefore next need find"
)


class Words:
    """A vocabulary of about 20,000 words, drawn as words of a language are: few often, most of them seldom."""

    def __init__(self, rng: random.Random, size: int = 20_000):
        self.rng = rng
        self.common = COMMON.split()
        self.words = [
            "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3))) + rng.choice(ENDINGS) for _ in range(size)
        ]

    def draw(self) -> str:
        if self.rng.random() < 0.45:
            return self.rng.choice(self.common)
        return self.words[int(len(self.words) * self.rng.random() ** 3)]

    def sentence(self, names: list[str], numbers: list[int]) -> str:
        words = [self.draw() for _ in range(self.rng.randint(6, 14))]
        words[0] = self.rng.choice(names)
        words[self.rng.randrange(1, len(words))] = str(self.rng.choice(numbers))
        return " ".join(words) + "."


def solution(words: Words, names: list[str], numbers: list[int], length: int) -> str:
    """Steps of working with their equations, about `length` characters long."""
    rng, parts, size = words.rng, [], 0
    while size < length:
        a, b = rng.choice(numbers), rng.randint(2, 99)
        part = f"{words.sentence(names, numbers)} {a} * {b} = {a * b}\n"
        parts.append(part)
        size += len(part)
    return "".join(parts)


def rows(
    completions: int, tokens: int, samples: int = 8, per_step: int = 512, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows of rollouts.jsonl; right answers and `####` become more frequent as the run goes on."""
    rng = random.Random(seed)
    words = Words(rng)
    problems: dict[int, dict[str, Any]] = {}
    for start in range(0, completions, samples):
        step = 1 + start // per_step
        progress = start / completions
        number = rng.randrange(max(1, completions // samples // 2))  # each problem about twice
        if number not in problems:
            names, numbers = [words.draw().title() for _ in range(3)], [rng.randint(2, 500) for _ in range(6)]
            text = " ".join(words.sentence(names, numbers) for _ in range(3))
            problems[number] = {"names": names, "numbers": numbers, "question": text, "ease": rng.random()}
        problem = problems[number]
        size = min(samples, completions - start)
        right = [rng.random() < (0.2 + 0.5 * progress) * 2 * problem["ease"] for _ in range(size)]
        marked = [rng.random() < progress for _ in range(size)]
        rewards = [r + 0.1 * m for r, m in zip(right, marked, strict=True)]
        mean = sum(rewards) / size
        for i in range(size):
            length = max(1, round(tokens * rng.uniform(0.5, 1.5)))
            finished = rng.random() > 0.05
            text = solution(words, problem["names"], problem["numbers"], 4 * length)
            gold = problem["numbers"][0]
            answer = str(gold + (0 if right[i] else rng.randint(1, 9)))
            ending = f"#### {answer}" if marked[i] else f"The answer is {answer}."
            yield {
                "step": step, "id": f"problem-{number}", "question": problem["question"], "gold": str(gold),
                "completion": text + ending if finished else text, "answer": answer if finished else None,
                "how": "none" if not finished else "hashes" if marked[i] else "phrase",
                "rewards": {
                    "correctness_reward": float(right[i] and finished), "format_reward": 0.1 * (marked[i] and finished),
                },
                "advantage": rewards[i] - mean, "tokens": length, "finished": finished,
                "correct": right[i] and finished, "strict": right[i] and marked[i] and finished,
            }  # fmt: skip


def write_rollouts(folder: Path, completions: int, tokens: int, **options: Any) -> Path:
    """Put the rollouts of a made-up run in the place of those in `folder`."""
    with (folder / "rollouts.jsonl").open("w", encoding="utf-8") as file:
        for row in rows(completions, tokens, **options):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder
