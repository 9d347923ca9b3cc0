"""A prepared configuration made into a trainer with everything that accompanies it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PrinterCallback, ProgressCallback, set_seed

from tiny_math_solver.config.generation_kwargs import eos_token_ids, stop_strings
from tiny_math_solver.config.schema import Config
from tiny_math_solver.models.adapter import TRAINED, refuse_tied
from tiny_math_solver.models.ends import causal_lm, end_at, end_with_turn, load_ends
from tiny_math_solver.models.folder import load_errors
from tiny_math_solver.models.load import load_base
from tiny_math_solver.models.starting_adapter import MergedAdapter, StartingAdapter, continued, merged
from tiny_math_solver.policy.architecture import refuse_unsupported
from tiny_math_solver.policy.linear import UnsupportedModelError
from tiny_math_solver.policy.weights import PolicyWeights
from tiny_math_solver.problems.problem import Problem
from tiny_math_solver.prompts import Prompt, PromptFormat, template_call
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, make_rollouts
from tiny_math_solver.rollouts.padding import number_positions
from tiny_math_solver.runs.events import EventLog
from tiny_math_solver.runs.folder import RunFolder
from tiny_math_solver.support import processes
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.training.agreement import Agreement
from tiny_math_solver.training.batches import Batches
from tiny_math_solver.training.checkpointing import Checkpointing
from tiny_math_solver.training.dev_evaluation import DevEvaluation
from tiny_math_solver.training.engine_watch import EngineWatch
from tiny_math_solver.training.generation import DatasetRow, Generation, dataset_rows, sampling_of
from tiny_math_solver.training.metrics_log import MetricsLog
from tiny_math_solver.training.plan import Prepared
from tiny_math_solver.training.recorder import Recorder
from tiny_math_solver.training.rescue import Rescue
from tiny_math_solver.training.sample_tables import SampleTables
from tiny_math_solver.training.signals import StopOnSignal
from tiny_math_solver.training.step_metrics import StepMetrics
from tiny_math_solver.training.trainer import MathGRPOTrainer
from tiny_math_solver.training.watchdog import Watchdog
from tiny_math_solver.update.merged_scorer import MergedScorer
from tiny_math_solver.update.merged_scorer import unsupported as unsupported_by_operators
from tiny_math_solver.update.policy_update import PolicyUpdate
from tiny_math_solver.update.scorer import Scorer
from tiny_math_solver.update.share import kept_rows
from tiny_math_solver.update.torch_scorer import TorchScorer

REFERENCE = "ref"  # TRL's name for a copy of an adapter that was trained before, as reference of the KL term
TOKENS_PER_PASS, GPU_TOKENS_PER_PASS = 4096, 65536  # by default; the memory plan halves them until they fit


@dataclass(frozen=True)
class Training:
    """A trainer that is ready to go, and the callbacks that have a say at its end."""

    trainer: MathGRPOTrainer
    dev: DevEvaluation
    metrics: MetricsLog
    signals: StopOnSignal
    watchdog: Watchdog
    checkpointing: Checkpointing
    added_end: str  # the token that also ends completions because the chat template closes a turn with it; or empty


def build_training(prepared: Prepared, run: RunFolder, console: Console, events: EventLog) -> Training:
    """Load the model, add the adapter, then make the trainer and its callbacks; writes nothing."""
    config, splits = prepared.config, prepared.splits
    args = config.grpo_config
    set_seed(args.seed)  # before the adapter is made: TRL seeds only afterwards
    model, merged_adapter = processes.main_first(
        lambda: starting_model(config, prepared.plan.adapter, args.device.type)
    )
    with load_errors(f"model {config.model.name}"):
        added_end = end_with_turn(model, prepared.tokenizer)
    end_at(model, eos_token_ids(config.grpo.get("generation_kwargs")))
    with run.left_as_found():  # the Trainer makes its folder at once
        trainer = make_trainer(config, model, prepared.tokenizer, splits.train, prepared.prompts, run, console, events)
    trainer.merged = merged_adapter
    dev = DevEvaluation(trainer, run, splits.dev, config.evaluation.every, PromptFormat.of(config))
    metrics = MetricsLog(trainer, run, dev, console)
    signals, rescue = StopOnSignal(), Rescue(trainer, config, events)
    watchdog = Watchdog(trainer, run, config, events, rescue)
    checkpointing = Checkpointing(trainer, run, dev, metrics, watchdog, prepared.plan)
    trainer.saver = checkpointing
    engine = EngineWatch(trainer, run, config, prepared.prompts, events)  # first: the others use the engine
    for callback in (
        engine,
        dev,
        metrics,
        SampleTables(trainer),
        signals,
        rescue,
        watchdog,
        checkpointing,
        Agreement(trainer, events),
    ):
        trainer.add_callback(callback)
    return Training(trainer, dev, metrics, signals, watchdog, checkpointing, added_end)


def starting_model(config: Config, adapter: StartingAdapter | None, device: str) -> tuple[Any, MergedAdapter | None]:
    """The model that training starts from, and the adapter that was merged into it if there is one."""
    section = config.model
    if adapter is None:
        # an optimizer's steps are too small for bfloat16, in which an adapter's base may well stay
        dtype = "float32" if config.trains_all and section.dtype == "auto" else section.dtype
        return load_base(section.name, section.revision, dtype, device, section.quantization), None
    if adapter.is_merged:
        model, merged_adapter = merged(section, adapter, device)
    else:
        base, merged_adapter = load_base(section.name, section.revision, section.dtype, device), None
        assert config.lora_config  # loading refuses an adapter without one
        model = continued(base, adapter, section.revision, config.lora_config.lora_dropout)
    load_ends(model, adapter.folder)  # it was trained to end there
    return model, merged_adapter


def make_trainer(
    config: Config,
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    run: RunFolder,
    console: Console,
    events: EventLog,
) -> MathGRPOTrainer:
    """A trainer with its rollouts and its update, and no callbacks. Raises UserError for what PEFT and TRL refuse."""
    _refuse_adapter(config, model)
    generation = Generation(prompts, sampling_of(config.grpo_config), StepMetrics(), Grader.of(config))
    rows = dataset_rows(problems, prompts, config.prompt.system)
    try:
        trainer = MathGRPOTrainer(
            model=model,
            args=config.grpo_config,
            rows=rows,
            tokenizer=tokenizer,
            lora_config=None if isinstance(model, PeftModel) else config.lora_config,
            generation=generation,
            recorder=Recorder(run, config.records.rollouts_mb * 10**6, events),
        )
    except (ValueError, NotImplementedError) as error:  # target modules that are not there, options that clash
        raise UserError(" ".join(str(error).split())) from error
    if getattr(model, "is_quantized", False):  # TRL has rounded the adapter to bfloat16, in which small steps are lost
        adapted: Any = trainer.model
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trainer.chat_template, trainer.chat_template_kwargs = template_call(tokenizer, PromptFormat.of(config))
    _still_reference(trainer)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    settings = config.rollouts
    generation.rollouts = rollouts = make_rollouts(
        trainer.model,
        tokenizer,
        settings.batch_size,
        settings.engine,
        settings.native,
        generation.sampling,
        console,
        stop_strings(config.grpo.get("generation_kwargs")),
    )
    if generation.sampling.extra:
        _try_sampling(generation, prompts[0])
    rollouts.batch_size.on_shrink = lambda rows: events.add(
        _step_under_way(trainer),
        "out of memory",
        f"rollouts.batch_size is reduced to {rows} for the rest of the run; set it so to skip the retry",
    )
    choose_problems(config, trainer, rows)
    trainer.update = make_update(config, trainer, console, events)
    return trainer


def choose_problems(config: Config, trainer: MathGRPOTrainer, rows: list[DatasetRow]) -> None:
    """Set up which of the problems in `rows` are asked."""
    rounds = config.rollouts.replace_dead
    if rounds and trainer.rollout_func is None:
        raise UserError("rollouts.replace_dead: vLLM's completions cannot be replaced; set it to 0")
    trainer.batches = Batches(trainer, rows, adaptive=config.problems.sampling == "adaptive", rounds=rounds)


def _try_sampling(generation: Generation, prompt: Prompt) -> None:
    """Draw one completion. Raises UserError where transformers refuses a setting, which it does no earlier."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the short length
            generation.rollouts.generate([prompt], 1, replace(generation.sampling, max_new_tokens=2))
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise UserError(f"grpo.generation_kwargs: {' '.join(str(error).split())}") from error


def _refuse_adapter(config: Config, model: Any) -> None:
    """Raise UserError for an adapter that would be trained wrongly."""
    if config.trains_all:
        return
    lora: Any = model.peft_config[TRAINED] if isinstance(model, PeftModel) else config.lora_config
    refuse_tied(causal_lm(model), lora)
    if lora.bias != "none" and config.grpo_config.beta > 0:
        raise UserError(
            f"lora.bias {lora.bias} trains biases of the model itself, which the reference of the KL term would have "
            "too; set grpo.beta 0 or lora.bias none"
        )


def make_update(config: Config, trainer: MathGRPOTrainer, console: Console, events: EventLog) -> PolicyUpdate | None:
    """The update by passes of our own; None, and the reason said, if only TRL's micro-batches are right."""
    reason = _needs_micro_batches(trainer) if config.update.own_passes else "update.own_passes is false"
    share = kept_rows(config.num_generations, config.update.share) / config.num_generations
    if reason and share < 1:
        raise UserError(f"update.share is below 1, which TRL's own micro-batches cannot take ({reason}); set it to 1")
    if reason:
        console.say(f"update in TRL's own micro-batches: {reason}")
        number_positions(trainer.model)
        return None
    torch_scorer = TorchScorer(
        trainer.policy,
        trainer.temperature,
        trainer.accelerator.autocast,
        trainer.policy_dtype,
        is_checkpointed=bool(trainer.args.gradient_checkpointing),
    )
    scorer: Scorer = torch_scorer
    weights = trainer.rollouts.weights if isinstance(trainer.rollouts, EngineRollouts) else None
    if weights is not None and weights.operators is not None:
        scorer = _merged_scorer(weights, trainer, console) or torch_scorer
    tokens_per_pass = BatchSize(
        config.update.tokens_per_pass or default_tokens(config, trainer.accelerator.device.type)
    )
    tokens_per_pass.on_shrink = lambda tokens: events.add(
        _step_under_way(trainer),
        "out of memory",
        f"update.tokens_per_pass is reduced to {tokens} for the rest of the run; set it so to skip the retry",
    )
    # without a KL term, rows of zero advantage have exactly no gradient
    return PolicyUpdate(
        trainer.model,
        scorer,
        torch_scorer,
        tokens_per_pass,
        trainer.loss_type,
        skip_zero_advantage=trainer.beta == 0,
        share=share,
    )


def default_tokens(config: Config, device: str) -> int:
    """The tokens of a pass where none are configured: no more than a step can have."""
    longest = config.prompt.max_tokens + config.max_completion_length
    most = GPU_TOKENS_PER_PASS if device == "cuda" else TOKENS_PER_PASS
    return min(most, config.completions_per_step * longest)


def _still_reference(trainer: MathGRPOTrainer) -> None:
    """Take dropout out of the copy of the adapter that TRL made as reference of the KL term."""
    for module in trainer.policy.modules():
        dropouts = getattr(module, "lora_dropout", {})
        if REFERENCE in dropouts:
            dropouts[REFERENCE] = nn.Identity()


def _step_under_way(trainer: MathGRPOTrainer) -> int:
    """The number of the step under way; 0 before training, which sets `max_steps`."""
    return trainer.state.global_step + 1 if trainer.state.max_steps else 0


def _needs_micro_batches(trainer: MathGRPOTrainer) -> str:
    """The reason why a step's rows must pass through the model in TRL's micro-batches; empty if there is none."""
    args: Any = trainer.args
    has_entropy_bonus = trainer.entropy_coef != 0 or trainer.use_adaptive_entropy
    if trainer.top_entropy_quantile < 1 or has_entropy_bonus or trainer.aux_loss_enabled:
        return "entropy and auxiliary terms are means over TRL's micro-batches"
    if args.cast_lm_head_to_fp32 or args.use_liger_kernel:
        return "cast_lm_head_to_fp32 and use_liger_kernel change the forward pass"
    try:
        refuse_unsupported(trainer.policy.config)
    except UnsupportedModelError as error:
        return str(error)
    return ""


def _merged_scorer(weights: PolicyWeights, trainer: MathGRPOTrainer, console: Console) -> MergedScorer | None:
    if reason := unsupported_by_operators(weights, trainer.model):
        console.say(f"update in torch, not by kernels: {reason}")
        return None
    return MergedScorer(weights, trainer.temperature)
