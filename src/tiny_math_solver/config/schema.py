"""One typed configuration: a YAML file plus dotted overrides from the command line.

`grpo` and `lora` hold the fields of TRL's `GRPOConfig` and PEFT's `LoraConfig` under their own names, checked
against those classes; the other sections are ours. Precedence: defaults here < file < command line.
"""

import re
import warnings
from dataclasses import fields as dataclass_fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tiny_math_solver.config.limits import checked, nearest, shown
from tiny_math_solver.config.yaml_file import read_tree, read_value
from tiny_math_solver.hub.snapshots import pinned
from tiny_math_solver.prompts import GSM8K_SYSTEM_PROMPT
from tiny_math_solver.support.environment import world_size
from tiny_math_solver.support.errors import UserError

EMBEDDED = "embedded"  # names the model that is shipped, and the problems that are generated
MOST_COMPLETIONS = 10**6  # of a generation batch: more is a slip of the finger


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class ModelSection(Section):
    name: str = Field("Qwen/Qwen2.5-0.5B-Instruct", description="'embedded', a Hub name, or a model folder")
    revision: str | None = Field(None, description="commit of the Hub model; null: the pinned one, or main")
    dtype: str = Field("auto", description="float32, bfloat16, float16, or auto: bfloat16 on a GPU that has it")


class ProblemsSection(Section):
    source: str = Field("openai/gsm8k", description="'embedded', a Hub dataset, or a .jsonl/.parquet file")
    subset: str = Field("main", description="config name of the Hub dataset")
    revision: str | None = Field(None, description="commit of the Hub dataset; null: the pinned one, or main")
    test_source: str | None = Field(None, description="file of test problems, where `source` is a file")
    train: int | None = Field(None, ge=1, description="train problems to use; all where null (embedded: 2000)")
    dev: int = Field(200, ge=1, description="dev problems, carved from train by a hash of each question")
    test: int | None = Field(None, ge=1, description="test problems to use; all where null (embedded: 500)")
    seed: int = Field(0, description="seed of the embedded generator, and of the choice where fewer are used")


class PromptSection(Section):
    system: str = Field(GSM8K_SYSTEM_PROMPT, description="system prompt; empty: what the chat template does without")
    max_tokens: int = Field(512, ge=1, description="longer train prompts are dropped and counted, never cut")


class EvaluationSection(Section):
    every: int = Field(50, ge=1, description="steps between greedy evaluations on dev")
    samples: int = Field(8, ge=0, description="sampled completions a problem for pass@k and maj@k; 0: none")
    sampled_problems: int = Field(64, ge=1, description="problems that pass@k and maj@k are measured on")


class RolloutsSection(Section):
    batch_size: int = Field(128, ge=1, description="completions decoded at once, fewer where memory is short")
    engine: bool = Field(True, description="decode with the engine; false: transformers' generate, many times slower")
    native: bool = Field(True, description="on a CPU: kernels compiled for this processor; false: torch alone, slower")
    fall_back: bool = Field(False, description="true: go on with generate where the engine fails its check, else stop")


class UpdateSection(Section):
    own_passes: bool = Field(True, description="rows by length, none without a gradient; false: TRL's micro-batches")
    tokens_per_pass: int = Field(4096, ge=1, description="tokens of one forward and backward pass, padding included")


class GuardsSection(Section):
    stop: bool = Field(True, description="stop a run that cannot succeed; false: say so and go on")
    zero_reward_steps: int = Field(10, ge=1, description="first steps without any reward after which a run stops")


class RecordsSection(Section):
    rollouts_mb: int = Field(512, ge=0, description="size at which rollouts.jsonl takes no more, in megabytes; 0: none")


# The table people know; TRL's own default stands for every field not named here.
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


class Config(Section):
    model: ModelSection = Field(default_factory=ModelSection)
    problems: ProblemsSection = Field(default_factory=ProblemsSection)
    prompt: PromptSection = Field(default_factory=PromptSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    rollouts: RolloutsSection = Field(default_factory=RolloutsSection)
    update: UpdateSection = Field(default_factory=UpdateSection)
    guards: GuardsSection = Field(default_factory=GuardsSection)
    records: RecordsSection = Field(default_factory=RecordsSection)
    lora: dict[str, Any] = Field(default_factory=dict, description="fields of peft.LoraConfig")
    grpo: dict[str, Any] = Field(default_factory=dict, description="fields of trl.GRPOConfig")

    @property
    def output_dir(self) -> Path:
        return Path(self.grpo["output_dir"]).expanduser()

    @property
    def completions_per_step(self) -> int:
        """Completions an optimizer step learns from, over all processes."""
        return self._per_micro_batch * self.grpo["gradient_accumulation_steps"]

    @property
    def generation_batch(self) -> int:
        """Completions sampled at once, over all processes; TRL may spread several optimizer steps over them."""
        micro_batches = self.grpo.get("steps_per_generation") or self.grpo["gradient_accumulation_steps"]
        return self.grpo.get("generation_batch_size") or self._per_micro_batch * micro_batches

    @property
    def _per_micro_batch(self) -> int:
        return self.grpo["per_device_train_batch_size"] * world_size()

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `--section.key value` overrides, check every key and type.

    Raises UserError naming file and line (or the option), the key, and the nearest key where it is unknown.
    """
    path = Path(path)
    tree, lines = read_tree(path)
    sources = {key: f"{path}:{line}" for key, line in lines.items()}
    for key, value in parse_overrides(overrides or []):
        section, _, name = key.partition(".")
        if tree.get(section) is None:
            tree[section] = {}
        if not isinstance(tree[section], dict):
            raise UserError(f"{sources.get(section, path)}: {section} must be a section of keys")
        tree[section][name] = value
        sources[key] = f"--{key}"
    return build_config(tree, sources, str(path))


def build_config(tree: dict[str, Any], sources: dict[str, str] | None = None, origin: str = "config") -> Config:
    """Check a nested dict; `sources` maps dotted keys to where each was written."""
    sources = sources or {}
    values: dict[str, dict[str, Any]] = {"lora": {}, "grpo": {}}
    for section, given in tree.items():
        if section not in Config.model_fields:
            close = nearest(section, list(Config.model_fields))
            hint = f"did you mean {close}?" if close else "known keys: tiny-math fields"
            raise UserError(f"{sources.get(section, origin)}: unknown key {section}; {hint}")
        if not isinstance(given, dict | None):
            raise UserError(f"{sources.get(section, origin)}: {section} must be a section of keys")
        values[section] = {
            key: _check_field(section, key, value, sources, origin) for key, value in (given or {}).items()
        }
    values["grpo"], values["lora"] = {**GRPO_DEFAULTS, **values["grpo"]}, {**LORA_DEFAULTS, **values["lora"]}
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_first_problem(error, sources, origin)) from None
    _check_batch(config, sources, origin)
    _check_lora(config, sources, origin)
    config.model.revision = pinned(config.model.name, config.model.revision)
    config.problems.revision = pinned(config.problems.source, config.problems.revision)
    return config


def parse_overrides(arguments: list[str]) -> list[tuple[str, Any]]:
    """`["--grpo.learning_rate", "2e-3"]` → `[("grpo.learning_rate", 0.002)]`; `--key=value` works too."""
    pairs = []
    rest = list(arguments)
    while rest:
        key, equals, text = rest.pop(0).partition("=")  # what follows = may be a secret and is in no message
        if not key.startswith("--") or "." not in key:
            raise UserError(f"unknown argument {key!r}; overrides look like --grpo.learning_rate 2e-3")
        if not equals:
            if not rest or re.match(r"--\w+\.", rest[0]):
                raise UserError(f"{key} has no value; write {key} VALUE")
            text = rest.pop(0)
        section, _, name = key[2:].partition(".")
        try:
            pairs.append((f"{section}.{name.replace('-', '_')}", read_value(text)))
        except ValueError:
            raise UserError(f"{key}: cannot read the value{shown(key, text).removeprefix(' =')} as YAML") from None
    return pairs


@cache  # of the libraries' classes it takes a moment
def known_fields(section: str) -> dict[str, tuple[Any, Any, str]]:
    """`{name: (type, default, one line of help)}` of a section, `grpo` and `lora` from their own classes."""
    if section in ("grpo", "lora"):
        cls, defaults = _library_class(section)
        hints = get_type_hints(cls)
        helps = _docstring_helps(cls)
        return {
            f.name: (
                hints[f.name],
                defaults.get(f.name, f.default if not callable(f.default_factory) else f.default_factory()),
                " ".join(str(f.metadata.get("help") or helps.get(f.name, "")).split()),
            )
            for f in dataclass_fields(cls)
            if f.init
        }
    annotation: Any = Config.model_fields[section].annotation
    return {name: (f.annotation, f.default, f.description or "") for name, f in annotation.model_fields.items()}


def _library_class(section: str) -> tuple[Any, dict[str, Any]]:
    if section == "grpo":
        from trl import GRPOConfig

        return GRPOConfig, GRPO_DEFAULTS
    from peft import LoraConfig

    return LoraConfig, LORA_DEFAULTS


def _docstring_helps(cls: Any) -> dict[str, str]:
    """First lines of the `name (`type`): text` entries that TRL keeps in its class docstrings."""
    entries = re.findall(r"^ +(\w+) \(`.*?\):\n +(.+)$", cls.__doc__ or "", re.MULTILINE)
    return dict(entries)


def _check_field(section: str, key: Any, value: Any, sources: dict[str, str], origin: str) -> Any:
    name, known = f"{section}.{key}", known_fields(section)
    where = sources.get(name, origin)
    if key not in known:
        close = nearest(str(key), list(known))
        hint = f"did you mean {section}.{close}?" if close else f"known keys: tiny-math fields {section}"
        raise UserError(f"{where}: unknown key {name}; {hint}")
    try:
        return checked(name, known[key][0], value)
    except ValueError as error:
        raise UserError(f"{where}: {name}{shown(name, value)}: {error}") from None


def _first_problem(error: ValidationError, sources: dict[str, str], origin: str) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"][:2])
    return f"{sources.get(key, origin)}: {key}{shown(key, problem['input'])}: {problem['msg']}"


def _check_lora(config: Config, sources: dict[str, str], origin: str) -> None:
    """What PEFT refuses about fields that do not go together."""
    from peft import LoraConfig

    try:
        with warnings.catch_warnings(action="ignore"):  # said once more where the adapter is made
            LoraConfig(**config.lora)
    except Exception as error:  # PEFT raises whatever comes up for values it does not check
        raise UserError(f"{sources.get('lora', origin)}: lora: {' '.join(str(error).split())}") from None


def _check_batch(config: Config, sources: dict[str, str], origin: str) -> None:
    """What TRL would refuse later and in other words: groups must be whole and have something to compare."""
    for key in ("output_dir", "max_completion_length"):
        if config.grpo[key] is None:
            raise UserError(f"{sources.get(f'grpo.{key}', origin)}: grpo.{key} must be set")
    if config.grpo["temperature"] <= 0:
        raise UserError(
            f"{sources.get('grpo.temperature', origin)}: grpo.temperature must be above 0 to get samples that differ"
        )
    samples, total = config.grpo["num_generations"], config.generation_batch
    where = sources.get("grpo.num_generations", origin)
    if samples is None or samples < 2:
        raise UserError(f"{where}: grpo.num_generations = {samples}: GRPO compares samples of a problem; set 2 or more")
    if total < 1 or total % samples:
        fits = max(samples, round(total / samples) * samples)
        raise UserError(f"{where}: {_written_out(config)}, not a multiple of num_generations {samples}; make it {fits}")
    if total > MOST_COMPLETIONS:
        raise UserError(f"{where}: {_written_out(config)}; over {MOST_COMPLETIONS:,} at once is not supported")


def _written_out(config: Config) -> str:
    """How the completions of a generation batch come about, in the names of the fields."""
    if config.grpo.get("generation_batch_size"):
        return f"generation_batch_size = {config.generation_batch} completions"
    repeats = "steps_per_generation" if config.grpo.get("steps_per_generation") else "gradient_accumulation_steps"
    factors = [f"{config.grpo[key]} {key}" for key in ("per_device_train_batch_size", repeats)]
    factors += [f"{world_size()} processes"] * (world_size() > 1)
    return f"{' × '.join(factors)} = {config.generation_batch} completions"
