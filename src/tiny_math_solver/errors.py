"""The one exception type for anything a user can put right, and what each end of a command returns to the shell."""

EXIT_BAD_INPUT, EXIT_LEARNED_NOTHING, EXIT_PROOF_FAILED, EXIT_INTERRUPTED = 2, 3, 4, 130


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do; the CLI prints it and exits with 2."""
