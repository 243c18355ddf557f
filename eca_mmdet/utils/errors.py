"""What is said to the user: exceptions that he can mend, and how they are shown."""

_LONGEST = 1000
"""Letters of a line; what a config raises may have any number."""


def printable(text: str) -> str:
    """Return one line without control characters, which a file may have put there."""
    return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def clipped(text: str, most: int = 60) -> str:
    """Return a text of a file for a message: printable, and its middle left out."""
    if len(text) > most:
        text = f'{text[: most * 2 // 3]} ... {text[-(most // 3 - 5) :]}'
    return printable(text)


def shown(error: BaseException) -> str:
    """Return the message as printed: one line, or those of a ``FaultsError``."""
    lines = str(error).split('\n') if isinstance(error, FaultsError) else [str(error)]
    return '\n'.join(clipped(line, _LONGEST) for line in lines)


class UserError(Exception):
    """Bad input: the message says what was expected, what came and what to do.

    The command line prints the message alone and exits with ``exit_code``.
    """

    exit_code = 2


class RunError(UserError):
    """Work that had begun and cannot go on: a broken image, a full disk, a NaN."""

    exit_code = 1


class JobError(RunError):
    """Another process of this job is gone."""


class FaultsError(UserError):
    """Several faults at once: the message has a line for each, and one what to do.

    Text of files in it is escaped already, so that it makes no lines of its own.
    """


class WeightsError(UserError, ValueError):
    """A file of weights that cannot be read, is not known, or does not fit."""


class MissingWeightsError(WeightsError, FileNotFoundError):
    """A file of weights that is not there, or cannot be downloaded."""


class MissingPackageError(UserError, ImportError):
    """An optional package that is needed here, and not installed."""
