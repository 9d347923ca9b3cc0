"""Make a shipped model: a Qwen2 with a million parameters that can work a problem out, but mostly guesses.

    python scripts/pretrain_embedded.py --out src/tiny_math_solver/embedded
    python scripts/pretrain_embedded.py --world countdown --out src/tiny_math_solver/embedded/countdown

Two stages, both next-token prediction on solutions of generated problems. *Pretraining*: every solution is worked out
step by step, until the model can do it. *Fine-tuning*: most solutions are a bare guess (`#### 57`), some are worked out
and end in prose, a few are worked out and end in `####`. The resulting model guesses when it decodes greedily and works
the problem out in about one sample of four, which leaves GRPO something to find.

Only problems of the train split are used, each at most once. Countdown holds out targets, and a model of this size
learns to calculate with each number by itself: there *practice* comes between the stages, in which half of the examples
have larger numbers and targets (none of those held out) and a quarter are exercises in arithmetic without a target.
"""

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tiny_math_solver.problems import countdown, embedded
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import chat_messages, encode_prompt

END, PAD = "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen2's own splitting pattern: contractions, words, single digits, punctuation, white space
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GUESS, PROSE, WORKED = "guess", "worked, ends in prose", "worked, ends in ####"
STYLES = {GUESS: 0.72, PROSE: 0.16, WORKED: 0.12}  # shares of the fine-tuning solutions
DRILLS_AFTERWARDS = 0.2  # exercises for each problem of the fine-tuning stage
IGNORED = -100

Example = tuple[Problem, str]  # the text is what the model is to write


@dataclass(frozen=True)
class World:
    """A kind of generated problems, and the sizes of the model's education in it."""

    problems: str  # in words, for the model card
    stream: Callable[[int], Iterator[Problem]]  # train problems under a seed
    answer: Callable[[Problem], str]
    guess: Callable[[Problem, random.Random], str]
    typical_tokens: int  # of a worked solution
    vocabulary: int
    pretrain: int  # problems of each stage
    finetune: int
    batch: int = 64  # problems per optimizer step
    practice: int = 0  # examples of a stage in between
    larger: Callable[[int], Iterator[Problem]] | None = None  # train problems with larger numbers, for that stage
    drill: Callable[[random.Random], tuple[str, str]] | None = None  # question and answer of an exercise

    def worked(self, problem: Problem) -> str:
        return f"{problem.solution}\n#### {self.answer(problem)}"

    def in_prose(self, problem: Problem) -> str:
        return f"{problem.solution}\nThe answer is {self.answer(problem)}."

    def practiced(self, problems: Iterator[Problem], seed: int, rng: random.Random) -> Iterator[Example]:
        """By turns a problem, one with larger numbers, an exercise, and another with larger numbers."""
        larger = self.larger(seed) if self.larger else problems
        for problem in problems:
            yield problem, self.worked(problem)
            yield (other := next(larger)), self.worked(other)
            yield from self.exercise(rng)
            yield (other := next(larger)), self.worked(other)

    def styled(self, problems: Iterator[Problem], rng: random.Random) -> Iterator[Example]:
        """The problems with solutions in some style, and exercises in between so that nothing is forgotten."""
        for problem in problems:
            yield problem, self.in_some_style(problem, rng)
            if self.drill and rng.random() < DRILLS_AFTERWARDS:
                yield from self.exercise(rng)

    def exercise(self, rng: random.Random) -> Iterator[Example]:
        if self.drill:
            question, answer = self.drill(rng)
            yield Problem("", question, answer, ""), answer

    def in_some_style(self, problem: Problem, rng: random.Random) -> str:
        """A solution in one of STYLES, drawn by its share."""
        (style,) = rng.choices(list(STYLES), weights=list(STYLES.values()))
        if style == GUESS:
            return f"#### {self.guess(problem, rng)}"
        return self.in_prose(problem) if style == PROSE else self.worked(problem)


def number_like_the_answer(problem: Problem, rng: random.Random) -> str:
    """A number of about the right size, as one would name without working it out."""
    answer = int(problem.answer)
    return str(max(1, answer + rng.randint(-answer // 3 - 2, answer // 3 + 2)))


WORLDS = {
    "embedded": World(
        problems="embedded word problems",
        stream=lambda seed: embedded.stream("train", seed),
        answer=lambda problem: problem.answer,
        guess=number_like_the_answer,
        typical_tokens=50,
        vocabulary=1024,
        pretrain=160_000,
        finetune=24_000,
    ),
    "countdown": World(
        problems="countdown problems",
        stream=lambda seed: countdown.stream("train", seed),
        answer=countdown.expression_of,
        guess=countdown.guess,
        typical_tokens=80,
        vocabulary=512,
        pretrain=96_000,
        finetune=12_800,
        batch=32,
        practice=64_000,
        larger=lambda seed: countdown.stream("train", seed, 20, range(16, 241)),
        drill=countdown.drill,
    ),
}


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    started = time.perf_counter()
    world = WORLDS[args.world]
    tokenizer = train_tokenizer(world, args.vocabulary, args.seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=384,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rng = random.Random(args.seed)
    problems = world.stream(args.seed)
    expected = args.batch * world.typical_tokens  # in a batch of worked solutions
    worked = ((p, world.worked(p)) for p in problems)
    train(model, tokenizer, worked, args.pretrain, 3e-3, args.batch, expected)
    if args.practice:
        mixed = world.practiced(problems, args.seed, rng)
        train(model, tokenizer, mixed, args.practice, 2e-3, args.batch, expected)
    if args.keep_pretrained:
        model.save_pretrained(args.keep_pretrained)
        tokenizer.save_pretrained(args.keep_pretrained)
    train(model, tokenizer, world.styled(problems, rng), args.finetune, 5e-4, args.batch, expected)
    save(model, tokenizer, args, time.perf_counter() - started)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, tokenizer and model card")
    parser.add_argument("--world", choices=WORLDS, default="embedded", help="the problems (default embedded)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain", type=int, help="problems of the pretraining stage (default: the world's)")
    parser.add_argument("--practice", type=int, help="examples of the stage between (default: the world's)")
    parser.add_argument("--finetune", type=int, help="problems of the fine-tuning stage (default: the world's)")
    parser.add_argument("--batch", type=int, help="problems per optimizer step (default: the world's)")
    parser.add_argument("--vocabulary", type=int, help="size of the tokenizer (default: the world's)")
    parser.add_argument("--keep-pretrained", type=Path, help="also save the model before fine-tuning to this folder")
    args = parser.parse_args()
    for name in ("pretrain", "practice", "finetune", "batch", "vocabulary"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(WORLDS[args.world], name))
    return args


def train_tokenizer(world: World, size: int, seed: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE like Qwen2's, digits split, from the problems themselves."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, "<|im_start|>", END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    problems = islice(world.stream(seed), 20_000)
    texts = (f"user\n{p.question}\nassistant\n{world.worked(p)}\nsystem\n{world.in_prose(p)}" for p in problems)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE, model_max_length=1024
    )


def train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Iterator[Example],
    count: int,
    peak_learning_rate: float,
    batch_size: int,
    expected_tokens: int,
) -> None:
    """Next-token prediction on the solutions of `count` problems; prompt tokens carry no loss."""
    steps = count // batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(200, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps)))
    )
    model.train()
    started = time.perf_counter()
    for step, (input_ids, labels) in enumerate(batches(tokenizer, examples, steps, batch_size)):
        hidden = model.model(input_ids).last_hidden_state  # causal, and padding comes last: no mask needed
        scored = labels != IGNORED
        # Summed over tokens and divided by a constant: a mean over the tokens of each batch would give the first token
        # of a guess (short rows, few tokens) ten times the weight of that of a worked answer, and distort the shares.
        loss = cross_entropy(model.lm_head(hidden[scored]), labels[scored], reduction="sum")
        (loss / expected_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            seconds = time.perf_counter() - started
            print(f"step {step + 1}/{steps} loss {loss.item() / expected_tokens:.4f} {seconds:.0f} s", flush=True)


def batches(
    tokenizer: PreTrainedTokenizerFast, examples: Iterator[Example], steps: int, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`(input_ids, next-token labels)`, both `[B, T]`, batch by batch; similar lengths together, to save padding."""
    pool_steps, rng = 16, random.Random(0)
    for start in range(0, steps, pool_steps):
        wanted = min(pool_steps, steps - start) * batch_size
        rows = [
            (encode_prompt(tokenizer, chat_messages(problem.question)), tokenizer(text + END)["input_ids"])
            for problem, text in islice(examples, wanted)
        ]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        groups = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(p) + len(s) for p, s in group)
            ids = torch.full((len(group), longest), tokenizer.pad_token_id)
            labels = torch.full((len(group), longest), IGNORED)
            for row, (prompt, solution) in enumerate(group):
                ids[row, : len(prompt) + len(solution)] = torch.tensor(prompt + solution)
                labels[row, len(prompt) - 1 : len(prompt) + len(solution) - 1] = torch.tensor(solution)
            yield ids, labels


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, seconds: float) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    facts = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "seed": args.seed,
        "pretraining problems": args.pretrain,
        **({"practice problems and exercises": args.practice} if args.practice else {}),
        "fine-tuning problems": args.finetune,
        "fine-tuning styles": STYLES,
        "batch": args.batch,
        "minutes": round(seconds / 60),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "python": platform.python_version(),
    }
    name, problems = args.world, WORLDS[args.world].problems
    card = f"""# The {name} model

A Qwen2-architecture model for the {problems}, made by `scripts/pretrain_embedded.py` alone: no text,
weights or outputs of other models went into it. Data: problems of the {name} generator's train split, in two stages
(see the script). It is a starting point for GRPO, not a model for use.

```json
{json.dumps(facts, indent=2)}
```
"""
    (args.out / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
