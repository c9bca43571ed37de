"""What models have in common that a library builds from a name: built with weights, or read without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from criticality.models.conversion import Alpha
from criticality.models.fitting import require_fit
from criticality.models.initialization import initialize_described
from criticality.models.reading import described
from criticality.reader import read_network
from criticality.theory import Network, TokenKernel


class LibraryModel(ABC):
    """A ``ModelSpec`` of a library's model, without the library."""

    norm: str | None
    alpha: Alpha
    init: str

    @abstractmethod
    def create(self, device: torch.device | str | None = None) -> nn.Module: ...

    @abstractmethod
    def inputs(self, seed: int = 0) -> Any: ...

    def build(self, device: torch.device | str | None = None) -> nn.Module:
        """The torch model, random weights, from torch's random state.

        Raises:
            ValueError: as ``create``; with ``fan-in`` a model whose residual stream is not found.
        """
        require_fit(self, weights=True)
        model = self.create(device)
        initialize_described(self, model)
        return model

    def points(self, model: nn.Module) -> Sequence[str] | None:
        """``None``: they are found by themselves."""
        return None

    def network(self, model: nn.Module) -> Network:
        """Read a model that ``build`` made."""
        return read_network(model, self.inputs())

    def read(self, seed: int = 0) -> tuple[Network, list[TokenKernel]]:
        """The network and the expected kernels at its start; allocates no weight.

        Raises:
            UndescribedError: when the model has a part that the theory does not describe.
        """
        return described(self.create, self.init, self.inputs(seed))
