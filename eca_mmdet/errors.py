"""The exceptions that mean: the user can mend this."""


class UserError(Exception):
    """Bad input: the message says what was expected, what came and what to do.

    The command line prints the message alone and exits with 2.
    """


class WeightsError(UserError, ValueError):
    """A file of weights that cannot be read, is not known, or does not fit."""


class MissingWeightsError(WeightsError, FileNotFoundError):
    """A file of weights that is not there, or cannot be downloaded."""
