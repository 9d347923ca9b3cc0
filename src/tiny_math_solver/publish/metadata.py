"""The YAML at the top of a model card: what the Hub sorts and filters models by, with the measured results."""

from dataclasses import dataclass
from typing import Any

from tiny_math_solver.evaluation.verdict import AFTER_HASHES
from tiny_math_solver.publish.origins import Origin


@dataclass(frozen=True)
class Published:
    """What a card is the card of: the repository, and whether it holds a merged model, and the page of the run."""

    repository: str
    is_merged: bool = False
    is_whole: bool = False  # all weights were trained: there is no adapter
    has_page: bool = True

    @property
    def is_adapter(self) -> bool:
        return not (self.is_merged or self.is_whole)


def card_metadata(
    published: Published, summary: dict[str, Any], base: Origin, train_set: Origin, test_set: Origin
) -> str:
    """The metadata as YAML; `summary` is that of summary.json."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base.name if base.is_on_hub else None,
        base_model_relation=("adapter" if published.is_adapter else "finetune") if base.is_on_hub else None,
        datasets=sorted({one.name for one in (train_set, test_set) if one.is_on_hub}) or None,
        library_name="peft" if published.is_adapter else "transformers",
        license=base.licence or "unknown",
        pipeline_tag="text-generation",
        tags=["grpo", "trl", *([] if published.is_whole else ["lora"]), "math", "tiny-math-solver"],
        metrics=["accuracy"],
        model_name=published.repository.rpartition("/")[2],
        eval_results=eval_results(summary, test_set),
    )
    return data.to_yaml()


def eval_results(summary: dict[str, Any], test_set: Origin) -> list[Any]:
    """The results after training as huggingface_hub's EvalResult, in fractions of 1."""
    from huggingface_hub import EvalResult

    after, place = summary["after"], summary.get("place", AFTER_HASHES)
    on_test: dict[str, Any] = {
        "dataset_type": test_set.name,
        "dataset_name": test_set.words,
        "dataset_config": test_set.subset,
        "dataset_split": "test",
        "dataset_revision": test_set.revision,
    }
    found = [
        ("accuracy", f"greedy accuracy on {after['n']} problems", after["accuracy"], on_test),
        ("accuracy", f"strict greedy accuracy ({place})", after["strict_accuracy"], on_test),
        *((f"pass@{k}", f"pass@{k}, sampled", share, on_test) for k, share in after["pass_at_k"].items()),
        *((f"maj@{k}", f"maj@{k}, sampled", share, on_test) for k, share in after["maj_at_k"].items()),
    ]
    for name, result in summary.get("also", {}).items():
        where: dict[str, Any] = {"dataset_type": name, "dataset_name": name, "dataset_split": "test"}
        shown = f"greedy accuracy on {result['after']['n']} problems"
        found.append(("accuracy", shown, result["after"]["accuracy"], where))
    return [
        EvalResult(task_type="text-generation", metric_type=kind, metric_name=name, metric_value=round(value, 6), **on)
        for kind, name, value, on in found
    ]
