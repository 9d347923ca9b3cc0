"""The two ways in which a command fails, and the exit codes of the shell."""

EXIT_BAD_INPUT, EXIT_LEARNED_NOTHING, EXIT_PROOF_FAILED, EXIT_SEED_FAILED = 2, 3, 4, 5
EXIT_INTERRUPTED, EXIT_NO_READER = 130, 141


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do; the CLI prints it and exits with 2."""

    exit_code = EXIT_BAD_INPUT


class NotHereError(UserError):
    """What a configuration names is not on this machine, and the Hub cannot be reached."""


class StoppedError(Exception):
    """A run that ended before its last step: the message says why and how to resume; `exit_code` is the shell's."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
