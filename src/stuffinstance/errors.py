"""Errors that are this package's own; everything else is a ``ValueError`` or ``TypeError``."""


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot run here.

    Raised instead of falling back in silence: who names a backend wants that one.
    """
