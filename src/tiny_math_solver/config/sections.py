"""The sections of a configuration: their fields with defaults and what each is for.

`grpo` and `lora` are not among them: they take the fields of TRL's `GRPOConfig` and PEFT's `LoraConfig`, for which only
our defaults are here.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MAX_UNREADABLE = 0.05  # of the rows of a source: more are no slips, but a layout that is not understood
ANSWER_KINDS = ("number", "math", "choice", "text", "countdown")
EMBEDDED = "embedded"  # names the model that is shipped, and the problems that are generated
GSM8K_SYSTEM_PROMPT = (
    "Solve the problem step by step. Then write the final answer on the last line as #### <number>, "
    "with nothing after the number."
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class ModelSection(Section):
    name: str = Field(
        "Qwen/Qwen2.5-0.5B-Instruct",
        description="'embedded', 'embedded-countdown', a Hub name, or a folder; an adapter stands for its base and "
        "itself",
    )
    revision: str | None = Field(None, description="commit of the Hub model; null: the pinned one, or main")
    dtype: str = Field(
        "auto",
        description="float32, bfloat16, float16, or auto: bfloat16 on a GPU that has it, and for weights stored so "
        "on a CPU that has it (AMX, AVX512-BF16)",
    )
    adapter: str | None = Field(None, description="LoRA adapter to start from: a folder or a Hub name")
    adapter_use: str = Field(
        "continue", description="continue: train that adapter; merge: train a new one on base and adapter merged"
    )
    quantization: str | None = Field(
        None, description="hold the base in 4 or 8 bits: nf4 (bitsandbytes), int8 (torchao); null: as it is"
    )


class ProblemsSection(Section):
    source: str = Field(
        "openai/gsm8k",
        description="'embedded', 'countdown', a Hub dataset (name, name:subset or name:subset:split, then @revision if "
        "need be), a folder like one, or a .jsonl, .json, .csv, .tsv or .parquet file",
    )
    subset: str | None = Field(None, description="subset of the Hub dataset; null: the only one, its default, or main")
    revision: str | None = Field(None, description="commit of the Hub dataset; null: the pinned one, or main")
    test_source: str | None = Field(
        None, description="where test problems come from, written as source; null: its test split, or carved from train"
    )
    question: str | None = Field(
        None, description="column of the questions, such as Body + Question or prompt[0].content; null: recognised"
    )
    answer: str | None = Field(
        None, description="column of the answers, such as reward_model.ground_truth; null: recognised"
    )
    test_question: str | None = Field(
        None, description="column in test_source; null: that of question if it is there, else recognised"
    )
    test_answer: str | None = Field(
        None, description="column in test_source; null: that of answer if it is there, else recognised"
    )
    answer_kind: str | None = Field(
        None,
        description="what the answers are: number, math (formulas, intervals, sets), choice (a letter), text, "
        "countdown, or a function of yours that says which are right, as file.py:function; null: countdown for that "
        "source, else number",
    )
    max_unreadable: float = Field(
        MAX_UNREADABLE,
        ge=0,
        le=1,
        description="share of a source's rows that may be dropped since no gold answer can be read",
    )
    train: int | None = Field(None, ge=1, description="train problems to use; null: all (generated: 2000)")
    dev: int = Field(200, ge=1, description="dev problems, carved from train by a hash of each question")
    test: int | None = Field(
        None,
        ge=1,
        description="test problems to use, or to carve from train if there are none; null: all (generated: 500)",
    )
    sampling: str = Field(
        "uniform",
        description="uniform: each problem once an epoch; adaptive: those that were all right or all wrong lately are "
        "asked less often",
    )
    seed: int = Field(0, description="seed of the generator, and of the choice if only some are used")


class RewardsSection(Section):
    use: list[str] = Field(
        ["correctness", "format"],
        description="what completions are paid for: correctness, format, boxed, tag, steps, length, or a function of "
        "yours as file.py:function or package.module:function; weights: grpo.reward_weights",
    )
    measure: str | None = Field(
        None,
        description="the one of them that says whether a completion is right; null: correctness, or the first if it "
        "is not among them",
    )
    right_from: float = Field(1.0, description="value of the measure from which on a completion is right")


class PromptSection(Section):
    system: str = Field(GSM8K_SYSTEM_PROMPT, description="system prompt; empty: the default of the chat template")
    template: str | None = Field(
        None,
        description="chat template for a model without one, or in place of its own: plain (Question: … Answer:), think "
        "(<think> and <answer> tags), or a .jinja file; null: the tokenizer's",
    )
    date: str | None = Field(
        None, description="for chat templates that put in today's, as 2026-01-31; null: the day on which the run starts"
    )
    max_tokens: int = Field(512, ge=1, description="longer train prompts are dropped and counted, never cut")


class EvaluationSection(Section):
    every: int = Field(50, ge=1, description="steps between greedy evaluations on dev")
    test_limit: int | None = Field(
        None, ge=1, description="test problems answered before and after, chosen by a hash of each question; null: all"
    )
    also: list[str] = Field(
        [], description="further test sets, each a file or a set as problems.source is written, with its own verdict"
    )
    forecast_seconds: float = Field(
        20,
        ge=0,
        description="time for sampling train problems before the run, at most 2 % of the run; 0: no forecast",
    )
    samples: int = Field(8, ge=0, description="sampled completions per problem for pass@k and maj@k; 0: none")
    sampled_problems: int = Field(64, ge=1, description="problems used to measure pass@k and maj@k")


class RolloutsSection(Section):
    batch_size: int = Field(128, ge=1, description="completions decoded at once, fewer if memory runs out")
    engine: bool = Field(True, description="decode with the engine; false: transformers' generate, many times slower")
    native: bool = Field(True, description="on a CPU: kernels compiled for this processor; false: torch, slower")
    replace_dead: int = Field(
        0, ge=0, description="rounds per batch in which groups of equal rewards give way to further problems; 0: none"
    )
    fall_back: bool = Field(False, description="if the engine fails its check: true goes on with generate, false stops")


class UpdateSection(Section):
    own_passes: bool = Field(
        True, description="passes by length, without zero-gradient rows; false: TRL's micro-batches"
    )
    share: float = Field(
        1.0, gt=0, le=1, description="share of each group's completions to learn from: its best and its worst"
    )
    tokens_per_pass: int | None = Field(
        None, ge=1, description="tokens of a forward and backward pass; null: 4096, on a GPU up to 65536 if they fit"
    )


class GuardsSection(Section):
    stop: bool = Field(True, description="stop a run that cannot succeed; false: warn and go on")
    zero_reward_steps: int = Field(10, ge=1, description="steps without a single reward after which a new run stops")
    rescue: bool | None = Field(
        None,
        description="undo a collapse: go back to the state before it and go on with more care; null: where the "
        "format is rewarded",
    )
    rescues: int = Field(3, ge=1, le=100, description="rescues of one run; if it collapses again it stops")


class RecordsSection(Section):
    rollouts_mb: int = Field(
        512, ge=0, description="size at which rollouts.jsonl stops growing, in megabytes; 0 records nothing"
    )


# Every field that is not named here keeps the library's own default.
GRPO_DEFAULTS: dict[str, Any] = {
    "output_dir": "./checkpoint/qwen-0.5b-gsm8k-grpo",
    "num_generations": 4,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "learning_rate": 5e-5,
    "temperature": 0.7,
    "max_completion_length": 512,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 50,
    "save_total_limit": 2,
    "seed": 42,
}
LORA_DEFAULTS: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}
