"""The model card of a run for the Hugging Face Hub, made from its records: what they do not hold is not claimed."""

from functools import cached_property
from importlib import resources
from typing import Any

from tiny_math_solver.config.generation_kwargs import stop_strings
from tiny_math_solver.config.rewards import RewardNames, names_of
from tiny_math_solver.config.sections import ProblemsSection
from tiny_math_solver.config.shipped import kind_of
from tiny_math_solver.evaluation.statistics import Paired
from tiny_math_solver.evaluation.verdict import AFTER_HASHES, JUDGEMENTS
from tiny_math_solver.models.ends import saved_ends
from tiny_math_solver.publish.markdown import code, fenced, plain
from tiny_math_solver.publish.metadata import Published, card_metadata
from tiny_math_solver.publish.origins import Origin, base_of, test_set_of, train_set_of
from tiny_math_solver.publish.shared import Shareable
from tiny_math_solver.publish.usage import Usage
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.runs.records import ENVIRONMENT, read_config, read_json
from tiny_math_solver.support.progress import in_words

Block = dict[str, Any]  # `before` or `after` of summary.json
NOT_RECORDED = "not recorded"
LIMITED = "What limited the gain, according to the run's records"


class ModelCard:
    """The card of a run that `check_publishable` lets through. Raises UserError for damaged records."""

    def __init__(self, records: RunRecords, shareable: Shareable, published: Published):
        self.published, self.shareable = published, shareable
        self.summary: dict[str, Any] = shareable.tree(records.summary or {})
        self.config = shareable.config
        environment = records.folder / ENVIRONMENT
        self.environment = shareable.tree(read_json(environment)) if environment.is_file() else {}
        self.records = records
        self.paired = Paired(**self.summary["paired"])

    # -- The verdict ----------------------------------------------------------------------------------------------

    @property
    def message(self) -> str:
        """The verdict on one line."""
        before, after, paired = self.summary["before"], self.summary["after"], self.paired
        return (
            f"GRPO: greedy accuracy {before['accuracy']:.1%} → {after['accuracy']:.1%} on {after['n']:,} test problems "
            f"({paired.fixed:,} fixed, {paired.broken:,} broken, p = {paired.p_value:.2g}): {self.judgement}"
        )

    @property
    def judgement(self) -> str:
        return JUDGEMENTS[self.paired.outcome]

    @property
    def verdict(self) -> str:
        before, after = self.summary["before"]["accuracy"], self.summary["after"]["accuracy"]
        said = {
            "gained": "A significant gain",
            "lost": "It became significantly worse",
            "unchanged": "No significant gain: the change may be chance",
        }[self.paired.outcome]
        if self.is_untrained:
            said = (
                "Nothing was gained: no step was better on dev than the start, so these are the weights it started from"
            )
        return f"{said}. Greedy accuracy {before:.1%} → {after:.1%}."

    @property
    def is_untrained(self) -> bool:
        return self.summary.get("best_step") == 0

    # -- The parts ------------------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> Origin:
        return base_of(self.records.folder, self._recorded)

    @cached_property
    def train_set(self) -> Origin:
        return train_set_of(self._sources)

    @cached_property
    def test_set(self) -> Origin:
        return test_set_of(self._sources)

    @property
    def text(self) -> str:
        """The card: metadata and Markdown."""
        from jinja2 import Environment

        environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        environment.filters |= {"plain": plain, "fenced": fenced}
        with self.records.damage_named():
            parts = self._parts()
        template = (resources.files(__package__) / "model_card.md.jinja").read_text(encoding="utf-8")
        body = environment.from_string(template).render(**parts)
        metadata = card_metadata(self.published, self.summary, self.base, self.train_set, self.test_set)
        return self.shareable.words(f"---\n{metadata}\n---\n\n{body}")

    def _parts(self) -> dict[str, Any]:
        summary = self.summary
        before, after = summary["before"], summary["after"]
        known = summary.get("problems", {}).get("test", after["n"])
        few = f" of its {known:,}, chosen by a hash of the question" if known != after["n"] else ""
        usage = Usage(self.published, self.base, self.config, saved_ends(self.records.folder))
        grpo = self.config.get("grpo") or {}
        texts = stop_strings(grpo.get("generation_kwargs"))
        stops = f", and at {', '.join(map(code, texts))}" if texts else ""
        return {
            "title": self.published.repository.rpartition("/")[2],
            "what": self._what(),
            "problems": self.train_set,
            "rewarded": self._rewarded,
            "verdict": self.verdict,
            "tested": f"{after['n']:,} test problems{few} ({self.test_set.link})",
            "results": list(self._results(before, after)),
            "paired": self._paired_line(),
            "also": [self._also_row(name, result) for name, result in self._further],
            "chosen": self._chosen_line(),
            "has_page": self.published.has_page,
            "causes": summary.get("causes", []),
            "causes_header": LIMITED if self.paired.has_gained else "What the records show",
            "code": usage.code,
            "merging": usage.merging,
            "use_note": usage.note,
            "system": self._prompt.get("system") or "",
            "template": self._template_line(),
            "max_tokens": grpo.get("max_completion_length", NOT_RECORDED),
            "ends": f"a completion ends where the model ends its turn{stops}",
            "sampled": self._sampled_line(),
            "answers": self._answers_line(),
            "training": list(self._training()),
            "licences": list(self._licences()),
            "limits": list(self._limits()),
        }

    def _what(self) -> str:
        quantized = (self.config.get("model") or {}).get("quantization")
        held = f" (held in {quantized} while it was trained)" if quantized else ""
        if self.published.is_whole:
            return f"{self.base.link}{held}, of which all weights were trained."
        if self.published.is_merged:
            return f"{self.base.link} with a LoRA adapter that was trained on it{held} and merged into it in float32."
        return f"A LoRA adapter for {self.base.link}{held}."

    def _results(self, before: Block, after: Block) -> Any:
        def accuracy(block: Block) -> str:
            low, high = block["ci95"]
            return (
                f"**{block['accuracy']:.1%}**, {block['correct']:,} of {block['n']:,} "
                f"(95 % interval {low:.1%}–{high:.1%})"
            )

        yield "accuracy", accuracy(before), accuracy(after)
        yield f"strict: the answer stands {self._place}", *(f"{b['strict_accuracy']:.1%}" for b in (before, after))
        where = ""
        if after.get("sampled_problems", 0) < after["n"]:
            where = f", sampled, {after.get('sampled_problems', 0):,} problems"
        for name, shares in (("pass", "pass_at_k"), ("maj", "maj_at_k")):
            for k in after[shares]:
                pair = (before[shares].get(k), after[shares][k])
                yield f"{name}@{k}{where}", *("–" if share is None else f"{share:.1%}" for share in pair)
        if "mean_tokens" in after:
            yield "tokens per answer", f"{before['mean_tokens']:.0f}", f"{after['mean_tokens']:.0f}"
        if unseen := self.summary.get("unseen"):
            shown = (f"{unseen[when]['accuracy']:.1%}" for when in ("before", "after"))
            yield f"{unseen['after']['n']:,} problems of kinds not trained on", *shown

    def _paired_line(self) -> str:
        paired = self.paired
        return (
            f"Problem by problem: {paired.fixed:,} fixed, {paired.broken:,} broken; McNemar's exact test gives "
            f"p = {paired.p_value:.2g}: {self.judgement}."
        )

    def _also_row(self, name: str, result: dict[str, Any]) -> list[str]:
        before, after, paired = result["before"], result["after"], result["paired"]
        figures = (f"{after['n']:,}", f"{before['accuracy']:.1%}", f"{after['accuracy']:.1%}")
        return [plain(name), *figures, f"{paired['fixed']:,}", f"{paired['broken']:,}", f"{paired['p_value']:.2g}"]

    def _chosen_line(self) -> str:
        if self.is_untrained:
            return "No step was better on dev than the start, so the weights are those that the run started from."
        return f"The weights are those of step {self.summary.get('best_step', NOT_RECORDED)}, the best on dev problems."

    def _template_line(self) -> str:
        template = self._prompt.get("template")
        line = "the tokenizer's own" if template is None else f"{code(template)}, in place of the model's own"
        if date := self._prompt.get("date"):
            line += f"; where it puts in today's date, {date} was put in"
        variables = (self.config.get("grpo") or {}).get("chat_template_kwargs")
        return f"{line}, with {code(str(variables))}" if variables else line

    def _sampled_line(self) -> str:
        after, temperature = self.summary["after"], (self.config.get("grpo") or {}).get("temperature")
        if not after["pass_at_k"] or temperature is None:
            return ""
        return f"; for pass@k and maj@k {max(map(int, after['pass_at_k']))} samples at temperature {temperature:g}"

    def _answers_line(self) -> str:
        names, place = self._rewards, self._place
        if names.has_own_measure:
            used = names.used[names.measure]
            least = (self.config.get("rewards") or {}).get("right_from", 1.0)
            return f"right is what {code(used)} pays {least:g} or more; *strict* also asks for the answer {place}."
        return (
            f"of the kind {code(kind_of(self._problems))}, compared exactly. *Accuracy* counts the answer wherever it "
            f"stands, *strict* only {place}. A hedge, such as 18 or 20, is no answer."
        )

    def _training(self) -> Any:
        summary, environment, grpo = self.summary, self.environment, self.config.get("grpo") or {}
        counts = summary.get("problems", {})
        yield "base model", f"{self.base.link}, {self.base.revision_words}"
        if adapter := (self.config.get("model") or {}).get("adapter"):
            use = (self.config.get("model") or {}).get("adapter_use", "continue")
            yield "started from the adapter", f"{code(adapter)} ({use})"
        yield "problems", f"{self.train_set.link}, {self.train_set.revision_words}"
        if counts:
            yield "split", f"{counts['train']:,} train, {counts['dev']:,} dev, {counts['test']:,} test"
        if completions := environment.get("completions_per_step"):
            samples = grpo.get("num_generations", 1)
            yield "a step", f"{completions / samples:g} problems × {samples} samples = {completions:,} completions"
        tokens = f", {summary['completion_tokens']:,} tokens" if "completion_tokens" in summary else ""
        yield "length", f"{summary['steps']:,} steps, {summary['completions']:,} completions{tokens}"
        yield "time", in_words(summary["train_seconds"])
        if environment:
            cores = f"{environment.get('cpu_count')} CPU cores"
            machines = environment.get("processes", 1)
            shared = f", {machines} processes" if machines > 1 else ""
            yield "hardware", f"{environment['gpu']}, {cores}{shared}" if environment.get("gpu") else cores + shared
        yield "seed", f"{summary.get('seed', environment.get('seed', NOT_RECORDED))}"
        lora = self.config.get("lora") or {}
        shown = {f"lora.{name}": value for name, value in lora.items() if name in LORA_SETTINGS}
        shown |= {f"grpo.{name}": value for name, value in grpo.items() if name in SETTINGS}
        yield "settings", ", ".join(f"{name} {plain(str(value))}" for name, value in shown.items())
        names = self._rewards
        paid = (f"{weight:g} × {code(used)}" for used, weight in zip(names.used, names.weights, strict=True))
        yield "rewards", ", ".join(paid)
        if versions := environment.get("versions"):
            packages = {"Python": environment.get("python", NOT_RECORDED), **versions}
            yield "versions", ", ".join(f"{name} {version}" for name, version in packages.items())

    def _licences(self) -> Any:
        for what, origin in (("base model", self.base), ("train problems", self.train_set)):
            yield f"{what}, {origin.link}", origin.licence_words
        if self.test_set != self.train_set:
            yield f"test problems, {self.test_set.link}", self.test_set.licence_words
        if self.base.licence is None:
            yield "this repository", "not stated: it is bound by the base model's licence, which was not at hand"

    def _limits(self) -> Any:
        after = self.summary["after"]
        yield (
            f"Measured once, with one seed, on {after['n']:,} problems"
            + (" and the further sets above" if self._further else "")
            + "; what it does on other kinds, or in other languages, was not measured."
        )
        yield self._checked
        if unseen := self.summary.get("unseen"):
            yield (
                "The generated problems are a small world: on kinds it was not trained on it answers "
                f"{unseen['after']['accuracy']:.1%}."
            )
        if rescues := len(self.summary.get("rescues") or []):
            yield f"Training collapsed and was rolled back {rescues} time{'s' * (rescues > 1)}."
        if self.base.is_shipped:
            yield "The base is a model of a million parameters for learning about GRPO, not for use."
        if not self.paired.has_gained:
            yield "It is no better than its base, as far as this run can tell."

    @property
    def _rewards_answers_alone(self) -> bool:
        return self._rewards.are_known and not self._rewards.has_own_measure

    @property
    def _rewarded(self) -> str:
        if self._rewards_answers_alone:
            return "rewards that only check the answer, no reward model"
        return "the rewards listed below"

    @property
    def _checked(self) -> str:
        """What a right answer is no proof of."""
        names = self._rewards
        if self._rewards_answers_alone:
            return "Only the answer was rewarded and checked: the steps before a right answer may be wrong."
        if names.has_own_measure:
            return f"Accuracy is what {code(names.used[names.measure])} counts as right; nothing else was checked."
        return "Accuracy checks only the answer: the steps before a right answer may be wrong."

    @property
    def _place(self) -> str:
        """Where the prompt asks for the answer, the mark as code: after `####`."""
        word, _, mark = self.summary.get("place", AFTER_HASHES).partition(" ")
        return f"{plain(word)} {code(mark)}"

    @property
    def _further(self) -> list[tuple[str, dict[str, Any]]]:
        return list(self.summary.get("also", {}).items())

    @property
    def _prompt(self) -> dict[str, Any]:
        return self.config.get("prompt") or {}

    @property
    def _recorded(self) -> dict[str, Any]:
        """The configuration with its paths, which tell what is local."""
        return read_config(self.records.folder) or {}

    @cached_property
    def _sources(self) -> ProblemsSection:
        return ProblemsSection(**self._recorded.get("problems") or {})

    @cached_property
    def _problems(self) -> ProblemsSection:
        return ProblemsSection(**self.config.get("problems") or {})

    @cached_property
    def _rewards(self) -> RewardNames:
        return names_of(self.config.get("rewards") or {}, (self.config.get("grpo") or {}).get("reward_weights"))


LORA_SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")
SETTINGS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "temperature", "top_p", "top_k", "max_completion_length",
    "num_generations", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
    "beta", "epsilon", "loss_type", "num_iterations", "scale_rewards", "bf16",
)  # fmt: skip
