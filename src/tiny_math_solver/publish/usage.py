"""The Python with which a card says how its model is asked: plain PEFT and transformers, as training asked it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tiny_math_solver.config.generation_kwargs import stop_strings
from tiny_math_solver.config.shipped import SHIPPED_MODELS
from tiny_math_solver.publish.metadata import Published
from tiny_math_solver.publish.origins import Origin

QUESTION = "Max has $35 and gets $9 every week. After 7 weeks he buys a game for $12. How much money is left?"


@dataclass(frozen=True)
class Usage:
    """The code for one repository; `config` is the run's, `end_ids` end a completion beside those of the base."""

    published: Published
    base: Origin
    config: dict[str, Any]
    end_ids: Sequence[int] = ()

    @property
    def code(self) -> str:
        return "\n".join([*self._loading(), "", *self._asking()])

    @property
    def merging(self) -> str:
        """The code that merges the adapter and loads the result; empty where there is none."""
        if not self.published.is_adapter:
            return ""
        return "\n".join(
            [
                "# in float32, as above: bfloat16 rounds most of a small update away",
                'model.merge_and_unload().save_pretrained("merged")',
                'tokenizer.save_pretrained("merged")',
                'model = AutoModelForCausalLM.from_pretrained("merged")',
            ]
        )

    @property
    def note(self) -> str:
        """What has to be said about a base that is not on the Hub."""
        if not self.published.is_adapter or self.base.is_on_hub:
            return ""
        if self.base.is_shipped:
            return f"The base, `{self.base.name}`, comes with the package tiny-math-solver."
        return f"The base was a local folder called `{self.base.name}`; say where yours is."

    def _loading(self) -> list[str]:
        if not self.published.is_adapter:
            return [
                "import torch",
                "from transformers import AutoModelForCausalLM, AutoTokenizer",
                "",
                f'name = "{self.published.repository}"',
                "model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)",
                "tokenizer = AutoTokenizer.from_pretrained(name)",
            ]
        shipped = self.base.is_shipped
        where = '"FOLDER_OF_THE_BASE"'
        if shipped:
            where = f'files("tiny_math_solver").joinpath("{SHIPPED_MODELS[self.base.name].folder}")'
        elif self.base.is_on_hub:
            where = f'"{self.base.name}"' + (f', revision="{self.base.revision}"' if self.base.revision else "")
        return [
            *(["from importlib.resources import files", ""] if shipped else []),
            "import torch",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'name = "{self.published.repository}"',
            f"base = AutoModelForCausalLM.from_pretrained({where}, dtype=torch.float32)",
            "model = PeftModel.from_pretrained(base, name)",
            "tokenizer = AutoTokenizer.from_pretrained(name)",
        ]

    def _asking(self) -> list[str]:
        grpo, prompt = self.config.get("grpo") or {}, self.config.get("prompt") or {}
        system = [f'    {{"role": "system", "content": {prompt["system"]!r}}},'] if prompt.get("system") else []
        variables = grpo.get("chat_template_kwargs") or {}
        extra = "".join(f", {name}={value!r}" for name, value in variables.items() if name.isidentifier())
        longest = grpo.get("max_completion_length", 512)
        stops = stop_strings(grpo.get("generation_kwargs"))
        ends = f", eos_token_id={list(self.end_ids)}" if self.end_ids and self.published.is_adapter else ""
        ends += f", stop_strings={list(stops)!r}, tokenizer=tokenizer" if stops else ""
        return [
            "messages = [",
            *system,
            f'    {{"role": "user", "content": "{QUESTION}"}},',
            "]",
            "prompt = tokenizer.apply_chat_template(",
            f'    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"{extra}',
            ")",
            "# greedy, as measured: sampling settings that the base brings along are overridden",
            "answer = model.generate(",
            f"    **prompt, do_sample=False, repetition_penalty=1.0, max_new_tokens={longest}{ends}",
            ")",
            'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
