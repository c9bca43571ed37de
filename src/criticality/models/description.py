"""Models by name: ``timm:NAME``, ``hf:...``, ``module:PATH.py:FACTORY``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import nn

from criticality.models.conversion import check_norm, replace_norms
from criticality.models.initialization import SecondMoment, actual_second_moment, initialize
from criticality.python_file import load_file
from criticality.theory import Network, TokenKernel


class ModelDescription(Protocol):
    """A model by name with what is changed of it: built with weights, or described without."""

    @property
    def norm(self) -> str | None: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def init(self) -> str: ...

    def build(self, device: torch.device | str | None = None) -> nn.Module:
        """The torch model, random weights, from torch's random state."""
        ...

    def inputs(self, seed: int = 0) -> Any:
        """Real inputs for the model, a batch."""
        ...

    def points(self, model: nn.Module) -> Sequence[str] | None:
        """Names of the points of the residual stream; ``None`` where they are found by themselves."""
        ...

    def network(self, model: nn.Module, second_moment: SecondMoment = actual_second_moment) -> Network:
        """Read a model that ``build`` made."""
        ...

    def describe(self, seed: int = 0) -> tuple[Network, list[TokenKernel]]:
        """The network and the kernels at its start."""
        ...


@dataclass(frozen=True)
class OwnDescription:
    """A model of one's own: ``FACTORY()`` of a Python file returns it.

    The file also holds ``inputs(model)``, which returns a batch, and may hold ``points(model)``, the names of the modules
    of the residual stream (``residual_points``). A model of a family that is read (timm, Hugging Face) is predicted and
    compared too; any other is measured.

    Attributes:
        name: ``PATH.py:FACTORY``.
        norm, alpha, init: as for the other descriptions.
    """

    name: str
    norm: str | None = None
    alpha: float | None = None
    init: str = "own"

    def __post_init__(self) -> None:
        path, _, factory = self.name.rpartition(":")
        if not path or not factory:
            raise ValueError(f"model 'module:{self.name}' must be given as 'module:PATH.py:FACTORY'")
        if not callable(getattr(_load(path), factory, None)):
            raise ValueError(
                f"model 'module:{self.name}' must name a function {factory!r} of {path!r}, and it has none"
            )
        check_norm(self.norm, self.alpha)
        initialize([], self.init)

    def build(self, device: torch.device | str | None = None) -> nn.Module:
        path, _, factory = self.name.rpartition(":")
        with torch.device(device or "cpu"):
            model = getattr(_load(path), factory)()
        if not isinstance(model, nn.Module):
            raise ValueError(f"model 'module:{self.name}' must return a torch module, but returned {model!r}")
        if self.norm is not None:
            replace_norms(model, self.norm, self.alpha)
        initialize([model] if self.init == "fan-in" else [], self.init)
        return model

    def inputs(self, seed: int = 0) -> Any:
        make = getattr(_load(self.name.rpartition(":")[0]), "inputs", None)
        if make is None:
            raise ValueError(f"model 'module:{self.name}' must come with a function inputs(model) in the same file")
        return make(self.build())

    def network(self, model: nn.Module, second_moment: SecondMoment = actual_second_moment) -> Network:
        module = "huggingface" if hasattr(getattr(model, "config", None), "model_type") else "timm_vit"
        read = {"huggingface": "huggingface_network", "timm_vit": "vit_network"}[module]
        network: Network = getattr(_adapter(module), read)(model, second_moment)
        return network

    def points(self, model: nn.Module) -> Sequence[str] | None:
        """The names that the file gives, if any."""
        find = getattr(_load(self.name.rpartition(":")[0]), "points", None)
        return None if find is None else [str(name) for name in find(model)]

    def describe(self, seed: int = 0) -> tuple[Network, list[TokenKernel]]:
        """Read from weights that are drawn for it, as one's own code need not work without."""
        from criticality.measurement import input_kernels

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.build()
        kernels = input_kernels(model, self.inputs(seed), points=self.points(model))
        return self.network(model), [TokenKernel.of(kernel) for kernel in kernels]


def _load(path: str) -> Any:
    return load_file(path, "model file")


def _adapter(module: str) -> Any:
    """A family's module, imported when it is wanted: each brings a large package along."""
    return importlib.import_module(f"criticality.models.{module}")


_FAMILIES: dict[str, Callable[[], Any]] = {
    "timm": lambda: _adapter("timm_vit").ViTDescription,
    "hf": lambda: _adapter("huggingface").HuggingFaceDescription,
    "module": lambda: OwnDescription,
}


def describe_model(model: str, **changes: Any) -> ModelDescription:
    """The description of ``timm:NAME``, ``hf:PATH/config.json``, ``hf:MODEL_TYPE`` or ``module:PATH.py:FACTORY``.

    ``changes`` that are ``None`` are left out.

    Raises:
        ValueError: another form, an unknown name, or a change that this kind of model does not take.
    """
    family, colon, name = model.partition(":")
    if family not in _FAMILIES or not colon or not name:
        raise ValueError(
            f"model {model!r} must be given as 'timm:NAME' (such as 'timm:vit_base_patch16_224'), 'hf:PATH/config.json',"
            " 'hf:MODEL_TYPE' or 'module:PATH.py:FACTORY'"
        )
    make = _FAMILIES[family]()
    given = {key: value for key, value in changes.items() if value is not None}
    taken = {field.name for field in fields(make)}
    refused: Sequence[str] = sorted(given.keys() - taken)
    if refused:
        raise ValueError(f"{refused[0]}={given[refused[0]]!r} must be left out for {model!r}, which does not take it")
    description: ModelDescription = make(name, **given)
    return description
