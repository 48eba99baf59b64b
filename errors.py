"""The exception that means "the user can fix this": a message, never a traceback."""


class UserError(Exception):
    """A problem in what the user gave: configuration, environment, run folder, disk.

    The message says what was given, what is allowed and what to type. The programs print it and
    exit with status 2.
    """
