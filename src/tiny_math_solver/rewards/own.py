"""Reward functions of the user in TRL's signature: called for a batch of completions, and what they return checked."""

import asyncio
import math
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from time import perf_counter
from typing import Any

from tiny_math_solver.rewards.completion import Completion
from tiny_math_solver.support.own_code import OwnCodeError, OwnFunction, shortened

Results = tuple[list[float | None], float]  # a reward per completion, and the seconds that they took


class OwnReward(OwnFunction):
    """A reward that `place` names. Raises UserError if it cannot be loaded."""

    def __init__(self, place: str):
        super().__init__(place, "rewards.use")

    def run(self, completions: Sequence[Completion], extra: Mapping[str, Any]) -> Results:
        """The rewards of a batch. Raises OwnCodeError for an exception, and for anything that is no list of rewards."""
        started, given = perf_counter(), self.arguments(completions, extra)
        try:
            returned = self.function(**given)
            if self.is_async:
                returned = asyncio.run_coroutine_threadsafe(returned, _loop()).result()
        except Exception as error:
            raise self._raised(error, completions, given) from error
        return self.checked(returned, completions), perf_counter() - started

    async def run_async(self, completions: Sequence[Completion], extra: Mapping[str, Any]) -> Results:
        """The same for an async function, beside others."""
        started, given = perf_counter(), self.arguments(completions, extra)
        try:
            returned = await self.function(**given)
        except Exception as error:
            raise self._raised(error, completions, given) from error
        return self.checked(returned, completions), perf_counter() - started

    def arguments(self, completions: Sequence[Completion], extra: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that the function takes: TRL's, and a list per column of the problems."""
        columns = dict.fromkeys(name for completion in completions for name in completion.row)
        given = {name: [completion.row.get(name) for completion in completions] for name in columns}
        given |= {
            "prompts": [completion.prompt for completion in completions],
            "completions": [[{"role": "assistant", "content": c.graded.text}] for c in completions],
            "completion_ids": [list(completion.ids) for completion in completions],
        }
        return self.accepted(given | dict(extra))

    def checked(self, returned: Any, completions: Sequence[Completion]) -> list[float | None]:
        """What the function returned, as numbers. Raises OwnCodeError if that is not one for each completion."""
        values = returned.tolist() if hasattr(returned, "tolist") else returned
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            kind = type(values).__name__
            raise OwnCodeError(f"{self.place} returned {kind}; a list of {len(completions)} numbers is expected")
        if len(values) != len(completions):
            raise OwnCodeError(f"{self.place} returned {len(values)} rewards for {len(completions)} completions")
        return [self._number(value, completion) for value, completion in zip(values, completions, strict=True)]

    def _number(self, value: Any, completion: Completion) -> float | None:
        if value is None:
            return None
        on = f"for the completion {shortened(completion.graded.text)!r}"
        if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
            raise OwnCodeError(f"{self.place} returned {value!r} {on}; a number is expected, or None")
        number = float(value)
        if not math.isfinite(number):
            raise OwnCodeError(f"{self.place} returned {number} {on}; return None where it does not apply")
        return number

    def _raised(self, error: Exception, completions: Sequence[Completion], given: Mapping[str, Any]) -> OwnCodeError:
        """The exception as a message, with the completion that the function had at hand; else with the first one."""
        passed = given.get("completions", [None] * len(completions))
        for variables, _ in reversed(self.frames(error)):
            for completion, messages in zip(completions, passed, strict=True):
                text = completion.graded.text
                if any(value is messages or (isinstance(value, str) and value == text) for value in variables.values()):
                    return self.error(error, text)
        return self.error(error, completions[0].graded.text)


def run_together(
    functions: Mapping[str, OwnReward], completions: Sequence[Completion], extra: Mapping[str, Any]
) -> dict[str, Results]:
    """The results of all functions by name: one after the other, but the async ones at the same time, as in TRL."""
    waiting = {name: function for name, function in functions.items() if function.is_async}

    async def all_of() -> list[Results]:
        return await asyncio.gather(*(function.run_async(completions, extra) for function in waiting.values()))

    future = asyncio.run_coroutine_threadsafe(all_of(), _loop()) if waiting else None
    found = {name: function.run(completions, extra) for name, function in functions.items() if name not in waiting}
    if future is not None:
        found |= dict(zip(waiting, future.result(), strict=True))
    return found


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of the async functions, in a thread of its own: what they opened on it stays usable."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
