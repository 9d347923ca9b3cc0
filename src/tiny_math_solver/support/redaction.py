"""Access tokens and passwords are never written to files, logs or messages."""

import os
import re

NAMES = re.compile(  # of environment variables that hold a secret
    r"(^|_)(\w*TOKEN|SECRETS?|PASSWORD|PASSWD|PASS|PAT|CREDENTIALS?|\w*KEYS?)(_(READ|WRITE|ID))?$", re.IGNORECASE
)
SHORTEST = 8  # characters: anything shorter would blot out ordinary words
HIDDEN = "***"


def without_secrets(text: str) -> str:
    """`text` without the values of secret environment variables, the passwords of its addresses, and bearer tokens."""
    secrets = [value for name, value in os.environ.items() if NAMES.search(name) and len(value) >= SHORTEST]
    for value in sorted(secrets, key=len, reverse=True):  # one may begin with another
        text = text.replace(value, HIDDEN)
    return re.sub(r"(//)[^/\s@]*@|(Bearer )\S+", r"\1\2", text)
