"""One typed configuration: a YAML file plus dotted overrides from the command line.

`grpo` and `lora` hold the fields of TRL's `GRPOConfig` and PEFT's `LoraConfig` under their own names, checked
against those classes; the other sections are ours. Precedence: defaults here < file < command line.
"""

import difflib
import re
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tiny_math_solver.errors import UserError
from tiny_math_solver.hub import pinned
from tiny_math_solver.processes import world_size
from tiny_math_solver.prompts import GSM8K_SYSTEM_PROMPT

EMBEDDED = "embedded"  # names the model that is shipped, and the problems that are generated


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
        return Path(self.grpo["output_dir"])

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
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `--section.key value` overrides, check every key and type.

    Raises UserError naming file and line (or the option), the key, and the nearest key where it is unknown.
    """
    path = Path(path)
    tree, lines = _read_yaml(path)
    sources = {key: f"{path}:{line}" for key, line in lines.items()}
    for key, value in parse_overrides(overrides or []):
        section, _, name = key.partition(".")
        if not isinstance(tree.setdefault(section, {}), dict):
            raise UserError(f"{path}: {section} must be a section of keys")
        tree[section][name] = value
        sources[key] = f"--{key}"
    return build_config(tree, sources, str(path))


def build_config(tree: dict[str, Any], sources: dict[str, str] | None = None, origin: str = "config") -> Config:
    """Check a nested dict; `sources` maps dotted keys to where each was written."""
    sources = sources or {}
    for section, defaults in (("grpo", GRPO_DEFAULTS), ("lora", LORA_DEFAULTS)):
        given = tree.get(section) or {}
        if not isinstance(given, dict):
            raise UserError(f"{sources.get(section, origin)}: {section} must be a section of keys")
        checked = {key: _check_field(section, key, value, sources, origin) for key, value in given.items()}
        tree[section] = {**defaults, **checked}
    try:
        config = Config.model_validate({k: {} if v is None else v for k, v in tree.items()})
    except ValidationError as error:
        raise UserError(_first_problem(error, sources, origin)) from None
    _check_batch(config, sources, origin)
    config.model.revision = pinned(config.model.name, config.model.revision)
    config.problems.revision = pinned(config.problems.source, config.problems.revision)
    return config


def parse_overrides(arguments: list[str]) -> list[tuple[str, Any]]:
    """`["--grpo.learning_rate", "2e-3"]` → `[("grpo.learning_rate", 0.002)]`; `--key=value` works too."""
    pairs = []
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or "." not in option:
            raise UserError(f"unknown argument {option!r}; overrides look like --grpo.learning_rate 2e-3")
        key, equals, text = option[2:].partition("=")
        if not equals:
            if not rest or re.match(r"--\w+\.", rest[0]):
                raise UserError(f"--{key} has no value; write --{key} VALUE")
            text = rest.pop(0)
        section, _, name = key.partition(".")
        try:
            pairs.append((f"{section}.{name.replace('-', '_')}", yaml.load(text, _Loader)))
        except yaml.YAMLError:
            raise UserError(f"--{key}: cannot read the value {text!r} as YAML") from None
    return pairs


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


def _check_field(section: str, key: str, value: Any, sources: dict[str, str], origin: str) -> Any:
    known = known_fields(section)
    where = sources.get(f"{section}.{key}", origin)
    if key not in known:
        raise UserError(f"{where}: unknown key {section}.{key}{_nearest(section, key, list(known))}")
    try:
        return TypeAdapter(known[key][0]).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {section}.{key} = {value!r}: {error.errors()[0]['msg']}") from None


def _nearest(section: str, key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    prefix = f"{section}." if section else ""
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known keys: tiny-math fields {section}".rstrip()


def _first_problem(error: ValidationError, sources: dict[str, str], origin: str) -> str:
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path[:2])
    where = sources.get(key, origin)
    if problem["type"] == "extra_forbidden":
        section = path[0] if len(path) > 1 else ""
        known = list(known_fields(section)) if section else list(Config.model_fields)
        return f"{where}: unknown key {key}{_nearest(section, path[-1], known)}"
    return f"{where}: {key} = {problem['input']!r}: {problem['msg']}"


def _check_batch(config: Config, sources: dict[str, str], origin: str) -> None:
    """What TRL would refuse later and in other words: groups must be whole and have something to compare."""
    for key in ("output_dir", "max_completion_length"):
        if not config.grpo[key]:
            raise UserError(f"{sources.get(f'grpo.{key}', origin)}: grpo.{key} must be set")
    if config.grpo["temperature"] <= 0:
        raise UserError(
            f"{sources.get('grpo.temperature', origin)}: grpo.temperature must be above 0 to get samples that differ"
        )
    if config.grpo.get("resume_from_checkpoint"):
        raise UserError(f"{sources.get('grpo.resume_from_checkpoint', origin)}: resuming a run is not supported")
    samples, total = config.grpo["num_generations"], config.generation_batch
    where = sources.get("grpo.num_generations", origin)
    if samples is None or samples < 2:
        raise UserError(f"{where}: grpo.num_generations = {samples}: GRPO compares samples of a problem; set 2 or more")
    if total < 1 or total % samples:
        fits = max(samples, round(total / samples) * samples)
        raise UserError(f"{where}: {_written_out(config)}, not a multiple of num_generations {samples}; make it {fits}")


def _written_out(config: Config) -> str:
    """How the completions of a generation batch come about, in the names of the fields."""
    if config.grpo.get("generation_batch_size"):
        return f"generation_batch_size = {config.generation_batch} completions"
    repeats = "steps_per_generation" if config.grpo.get("steps_per_generation") else "gradient_accumulation_steps"
    factors = [f"{config.grpo[key]} {key}" for key in ("per_device_train_batch_size", repeats)]
    factors += [f"{world_size()} processes"] * (world_size() > 1)
    return f"{' × '.join(factors)} = {config.generation_batch} completions"


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 2e-3 as a number, as YAML 1.2 does, and keeps on/off/yes/no as words."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)$|\.nan$"),
    list("-+.0123456789"),
)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's tree, and the line of every section and key."""
    if not path.is_file():
        raise UserError(f"no such config file: {path}")
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, _Loader)
        tree = yaml.load(text, _Loader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict) or not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: expected sections (model, problems, …) at the top level")
    lines: dict[str, int] = {}
    for section, body in root.value:
        lines[str(section.value)] = section.start_mark.line + 1
        for key, _ in body.value if isinstance(body, yaml.MappingNode) else []:
            lines[f"{section.value}.{key.value}"] = key.start_mark.line + 1
    return {str(k): v for k, v in tree.items()}, lines
