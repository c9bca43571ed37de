"""What the library refuses, by kind; each is a ``ValueError`` whose message is one sentence."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

__all__ = [
    "ArgumentError",
    "CriticalityError",
    "FileError",
    "InputsError",
    "MissingPackageError",
    "ModelFailedError",
    "NotFiniteError",
    "OutOfMemoryError",
    "StreamNotFoundError",
    "TokensNotEquivalentError",
    "UndescribedError",
    "UnknownLawError",
    "UnknownNameError",
    "UnreachableError",
    "ZeroGradientError",
]


class CriticalityError(ValueError):
    """Base of all that the library refuses; the message is on one line, whatever was given."""

    def __init__(self, said: object = "") -> None:
        super().__init__(" ".join(str(said).split()))


def first_sentence(text: str, longest: int = 200) -> str:
    """The first line, what follows its colon included; of one that is long its first sentence, cut between words if at all."""
    said = ""
    for line in text.splitlines():
        said = " ".join((*said.split(), *line.split()))
        if said and not said.endswith(":"):
            break
    if len(said) > longest and (whole := re.match(r".{20,}?[.;!?](?=\s)", said)):
        said = whole[0]
    return whole_words(said, 2 * longest)


def whole_words(text: str, longest: int) -> str:
    """No longer than that, and cut between words."""
    return text if len(text) <= longest else f"{text[: longest - 4].rpartition(' ')[0] or text[: longest - 4]} ..."


def raised(error: BaseException) -> str:
    """What code that is not the library's said when it raised: kind of error, first sentence, and where, ``FILE.py:LINE``."""
    said = first_sentence(str(error)) or "without a message"
    places = [
        (frame.filename, frame.lineno)
        for frame in reversed(traceback.extract_tb(error.__traceback__))
        if not frame.filename.startswith("<") and not Path(frame.filename).is_relative_to(_OWN_FOLDER)
    ]
    outside_torch = [place for place in places if "torch" not in Path(place[0]).parts]
    where = "{}:{}".format(*(outside_torch or places)[0]) if places else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    return f"{type(error).__name__}: {said}" + (f" ({where})" if where else "")


_OWN_FOLDER = Path(__file__).parent


class ArgumentError(CriticalityError):
    """An argument outside what is allowed; the message names it, its value, and what is."""


class FileError(CriticalityError):
    """A file, a store or a folder that is not there, is damaged, or is of another kind."""


class UnreachableError(CriticalityError):
    """A target that no value of what may be changed gives, or a search that did not end."""


class InputsError(CriticalityError):
    """Inputs that a model cannot be differentiated with: nothing floating or embedded in them, or a form not understood."""


class ModelFailedError(CriticalityError, RuntimeError):
    """The model's own code raised; the message says what and where."""


class OutOfMemoryError(ModelFailedError, MemoryError):
    """The model, or a batch of it, does not fit into memory."""


def model_failed(said: str, error: BaseException) -> ModelFailedError:
    """The error that says so, of its kind, for code of a model's that raised ``error``."""
    return (OutOfMemoryError if out_of_memory(error) else ModelFailedError)(said)


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out: Python's own, torch's of a card, or what torch says of a processor's."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


_NO_MEMORY = re.compile(r"(out of|not enough|allocate) memory")

RAISED = (Exception, GeneratorExit)
"""What code of the user's may raise that is an error of its own; a signal to end the process is none."""


class NotFiniteError(CriticalityError):
    """A value or a gradient that is nan, infinite, or 0 where it must not be."""


class ZeroGradientError(NotFiniteError):
    """A gradient that is 0, of which there is no logarithm."""


class StreamNotFoundError(CriticalityError):
    """No residual stream in the data flow, or none at the points that were given."""


class UndescribedError(CriticalityError):
    """A network that the exact theory does not describe; it can be predicted by running it without its weights."""


class UnknownNameError(CriticalityError):
    """A function, norm or model that there is not; the message suggests the nearest name."""


class TokensNotEquivalentError(UndescribedError):
    """Tokens that a network tells apart, where a theory of equivalent tokens was asked for."""


class UnknownLawError(CriticalityError):
    """The initialization of a parameter could not be followed."""


class MissingPackageError(CriticalityError, ImportError):
    """A package that only an extra brings is not installed; the message says which extra."""
