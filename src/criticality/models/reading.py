"""The exact description of a model that a function builds, without its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from criticality.errors import ModelFailedError, UndescribedError
from criticality.models.initialization import initialize_branches
from criticality.reader import Reading
from criticality.reader.tape import Tape
from criticality.theory import Network, TokenKernel
from criticality.weightless import build_without_weights
from criticality.weightless.initializing import Initializer


def described(
    build: Callable[[], nn.Module], init: str | Initializer, inputs: Any
) -> tuple[Network, list[TokenKernel]]:
    """The network and the expected kernels at its start.

    Args:
        build: makes the model at its own initialization.
        init: ``own``, ``fan-in`` of the weights of all branches, or a function ``(name, weight, fan_in)``.
        inputs: for which the kernels are; shapes are those of the reading, too.

    Raises:
        UndescribedError: a part that the exact theory does not describe.
        ValueError: the model cannot be built or run.
    """
    model = build_without_weights(build, at_least=1)
    try:
        initialize_branches(model, init, inputs, Tape)
    except ModelFailedError as error:  # as experts do, which ask for numbers
        raise UndescribedError(f"the exact theory reads a network without its numbers: {error}") from error
    found = Reading(model, inputs)
    return found.network(), found.kernels()
