"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Bad input: the message says what was expected, what came and what to do.

    The command line prints the message alone and exits with 2.
    """
