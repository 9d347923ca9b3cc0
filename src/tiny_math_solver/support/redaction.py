"""Access tokens and passwords are never written to files, logs or messages."""

import os
import re
from collections.abc import Sequence

NAMES = re.compile(  # of environment variables that hold a secret
    r"(^|_)(\w*TOKEN|SECRETS?|PASSWORD|PASSWD|PASS|PAT|CREDENTIALS?|\w*KEYS?)(_(READ|WRITE|ID))?$", re.IGNORECASE
)
SHORTEST = 8  # characters: anything shorter would blot out ordinary words
HIDDEN = "***"


def without_secrets(text: str, secrets: Sequence[str] | None = None) -> str:
    """`text` without the passwords of its addresses, bearer tokens and `secrets`, by default `secret_values`."""
    for value in secret_values() if secrets is None else secrets:
        text = text.replace(value, HIDDEN)
    return re.sub(r"(//)[^/\s@]*@|(Bearer )\S+", r"\1\2", text)


def secret_values() -> list[str]:
    """The values of secret environment variables, the longest first: one may begin with another."""
    found = [value for name, value in os.environ.items() if NAMES.search(name) and len(value) >= SHORTEST]
    return sorted(found, key=len, reverse=True)
