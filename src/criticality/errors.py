"""What the library refuses, by kind; each is a ``ValueError`` whose message is one sentence."""

from __future__ import annotations


class CriticalityError(ValueError):
    """Base of all that the library refuses."""


class InputsError(CriticalityError):
    """Inputs that a model cannot be differentiated with: nothing floating or embedded in them, or a form not understood."""


class ModelFailedError(CriticalityError, RuntimeError):
    """The model's own code raised; the message says what and where."""


class NotFiniteError(CriticalityError):
    """A value or a gradient that is nan, infinite, or 0 where it must not be."""


class StreamNotFoundError(CriticalityError):
    """No residual stream in the data flow, or none at the points that were given."""


class UndescribedError(CriticalityError):
    """A network that the exact theory does not describe; it can be predicted by running it without its weights."""


class UnknownLawError(CriticalityError):
    """The initialization of a parameter could not be followed."""


class MissingPackageError(CriticalityError, ImportError):
    """A package that only an extra brings is not installed; the message says which extra."""
