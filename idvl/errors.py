"""The two ways a run can end badly, each with one line for the user."""


class UsageError(ValueError):
    """Something asked for cannot be done: exit code 2."""


class RunError(RuntimeError):
    """A run that was asked for correctly failed: exit code 1."""
