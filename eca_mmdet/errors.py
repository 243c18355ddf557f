"""What is said to the user: exceptions that he can mend, and how they are shown."""


def printable(text: str) -> str:
    """Return one line without control characters, which a file may have put there."""
    return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class UserError(Exception):
    """Bad input: the message says what was expected, what came and what to do.

    The command line prints the message alone and exits with 2.
    """


class WeightsError(UserError, ValueError):
    """A file of weights that cannot be read, is not known, or does not fit."""


class MissingWeightsError(WeightsError, FileNotFoundError):
    """A file of weights that is not there, or cannot be downloaded."""
