"""Turns: the text of a completion or a gold without hidden reasoning and the tokens that end a turn."""

import re


def visible(text: str) -> str:
    """The first part of a text that is not empty once <think> blocks are dropped and turns are split.

    Reasoning that never ends hides the whole text, unless an answer is marked in it.
    """
    if "<" not in text and "INST]" not in text:
        return text
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    elif "<think>" in text and "####" not in text and "\\boxed" not in text:
        return ""
    if _END_OF_TURN.search(text):
        parts = (_ROLE.sub("", part) for part in _END_OF_TURN.split(text, maxsplit=8))
        text = next((part for part in parts if part.strip()), "")
    return text


_ROLE = re.compile(r"\A\s*(?:assistant|model)\s*\n")
_END_OF_TURN = re.compile(
    r"<[|\uff5c][A-Za-z_\u2581]{2,30}[|\uff5c]>|</?s>|<(?:start|end)_of_turn>|<eos>|<bos>|<pad>|<eod>|<eot>|<turn\|>"
    r"|\[/?INST\]"
)
