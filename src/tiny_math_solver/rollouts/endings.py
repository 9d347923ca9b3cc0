"""The end of a completion: at a token or a text, and what of it is read."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

CLOSING_TAG = re.compile(r"</\w{2,}>")  # `</s>` closes none: it is the end of a turn
CONTEXT = 4  # tokens in front of those looked at: some tokenizers drop a space at the start of what they decode


class Endings:
    """The ids and the texts (stop strings) at which a completion ends."""

    def __init__(self, tokenizer: Any, ids: Sequence[int], texts: Sequence[str] = ()):
        self.tokenizer, self.ids, self.texts = tokenizer, frozenset(ids), tuple(texts)
        self._longest = CONTEXT + max((len(text.encode()) for text in texts), default=0)  # a token has a byte or more

    def at_text(self, ids: list[int], checked: int = 0) -> int | None:
        """The number of tokens up to the one that completes the first stop string; None if there is none.

        The first `checked` tokens are known to hold none.
        """
        if not self.texts or not self._holds_text(ids[max(0, checked - self._longest) :]) or not self._holds_text(ids):
            return None
        return bisect_left(range(len(ids)), True, key=lambda count: self._holds_text(ids[:count]))

    def finished(self, ids: list[int]) -> bool:
        """True if a completion ended here by itself, not at the limit of its length."""
        return bool(ids) and (ids[-1] in self.ids or self.at_text(ids) == len(ids))

    def text(self, ids: list[int]) -> str:
        """The completion as it is read and graded: without special tokens, and without what ended it.

        A stop string that closes a tag, such as `</answer>`, belongs to the completion.
        """
        own = ids[:-1] if ids and ids[-1] in self.ids else ids
        text = self.tokenizer.decode(own, skip_special_tokens=True)
        ends = [(place, part) for part in self.texts if (place := text.find(part)) >= 0]
        place, part = min(ends, default=(len(text), ""))
        return text[: place + (len(part) if CLOSING_TAG.fullmatch(part) else 0)]

    def _holds_text(self, ids: list[int]) -> bool:
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(part in text for part in self.texts)
