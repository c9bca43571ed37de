"""What the library refuses, by kind; each is a ``ValueError`` whose message is one sentence."""

from __future__ import annotations


class CriticalityError(ValueError):
    """Base of all that the library refuses."""


class ArgumentError(CriticalityError):
    """An argument outside what is allowed; the message names it, its value, and what is."""


class FileError(CriticalityError):
    """A file that cannot be read as what it should be: of another kind, damaged, or of another version."""


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


class TokensNotEquivalentError(UndescribedError):
    """Tokens that a network tells apart, where a theory of equivalent tokens was asked for."""


class UnknownLawError(CriticalityError):
    """The initialization of a parameter could not be followed."""


class MissingPackageError(CriticalityError, ImportError):
    """A package that only an extra brings is not installed; the message says which extra."""
