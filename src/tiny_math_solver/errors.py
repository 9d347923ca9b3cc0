"""The one exception type for anything a user can put right."""


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do; the CLI prints it and exits with 2."""
