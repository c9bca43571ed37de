"""Models by name: ``timm:NAME``, ``hf:...``, ``module:PATH.py:FACTORY``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import nn

from criticality.arguments import Positive, check, check_fields, checked, meant, shown
from criticality.errors import (
    RAISED,
    ArgumentError,
    CriticalityError,
    InputsError,
    MissingPackageError,
    UnknownNameError,
    model_failed,
    raised,
)
from criticality.models.conversion import Alpha, check_norm, replace_norms
from criticality.models.fitting import require_fit
from criticality.models.initialization import check_init, initialize_branches
from criticality.models.sites import alphas_by_flow, on_heads_by_flow
from criticality.moved import renamed_fields
from criticality.python_file import load_file
from criticality.randomness import forked, seed_everything
from criticality.reader import read_network
from criticality.theory import Network, TokenKernel
from criticality.weightless.building import build_without_weights
from criticality.weightless.laws import require_known_laws


class ModelSpec(Protocol):
    """A model by name with what is changed of it: built with weights, or read without."""

    @property
    def norm(self) -> str | None: ...
    @property
    def alpha(self) -> Alpha: ...
    @property
    def init(self) -> str: ...

    def create(self, device: torch.device | str | None = None) -> nn.Module:
        """The torch model at its own initialization, from torch's random state, with the norms asked for."""
        ...

    def build(self, device: torch.device | str | None = None) -> nn.Module:
        """The same, initialized as ``init`` says."""
        ...

    def inputs(self, seed: int = 0) -> Any:
        """Real inputs for the model, a batch."""
        ...

    def points(self, model: nn.Module) -> Sequence[str] | None:
        """Names of the points of the residual stream; ``None`` where they are found by themselves."""
        ...

    def network(self, model: nn.Module) -> Network:
        """Read a model that ``build`` made."""
        ...

    def read(self, seed: int = 0) -> tuple[Network, list[TokenKernel]]:
        """The network and the kernels at its start."""
        ...


@renamed_fields(describe="read(seed)")
@dataclass(frozen=True)
class OwnSpec:
    """A model of one's own: ``FACTORY()`` of a Python file returns it.

    The file also holds ``inputs(model)``, which returns a batch, and may hold ``points(model)``, the names of the modules
    of the residual stream, where others are wanted than those found in the data flow.

    Attributes:
        name: ``PATH.py:FACTORY``.
        norm, alpha, init: as for the other descriptions; ``alpha`` a number, or by pattern, ``attention``, ``mlp`` and ``final``
            among them.
    """

    name: str
    norm: str | None = None
    alpha: Positive | Mapping[str, Positive] | None = None
    init: str = "own"

    def __post_init__(self) -> None:
        check_fields(self)
        path, _, factory = self.name.rpartition(":")
        if not path or not factory:
            raise ArgumentError(f"model 'module:{self.name}' must be given as 'module:PATH.py:FACTORY'")
        if not callable(getattr(_load(path), factory, None)):
            near = meant(factory, [name for name, value in vars(_load(path)).items() if callable(value)])
            raise UnknownNameError(
                f"model 'module:{self.name}' must name a function {factory!r} of {path!r}, and it has none{near}"
            )
        object.__setattr__(self, "alpha", check_norm(self.norm, self.alpha))
        check_init(self.init)

    def create(self, device: torch.device | str | None = None) -> nn.Module:
        path, _, factory = self.name.rpartition(":")
        try:
            with torch.device(device) if device is not None else nullcontext():
                model = getattr(_load(path), factory)()
        except CriticalityError:
            raise
        except RAISED as error:
            said = f"model 'module:{self.name}' must be built by its own code, which raised {raised(error)}"
            raise model_failed(said, error) from error
        if not isinstance(model, nn.Module):
            raise InputsError(f"model 'module:{self.name}' must return a torch module, but returned {shown(model)}")
        if self.norm is not None:
            replace_norms(model, self.norm, alphas_by_flow(self), keep=on_heads_by_flow(model, self))
        return model

    def build(self, device: torch.device | str | None = None) -> nn.Module:
        model = self.create(device)
        if self.init == "fan-in":
            initialize_branches(model, self.init, self._inputs_of(model))
        return model

    def inputs(self, seed: int = 0) -> Any:
        return self._inputs_of(build_without_weights(self.create))

    def _inputs_of(self, model: nn.Module) -> Any:
        make = getattr(_load(self.name.rpartition(":")[0]), "inputs", None)
        if make is None:
            raise InputsError(f"model 'module:{self.name}' must come with a function inputs(model) in the same file")
        return self._called(make, "inputs", model)

    def _called(self, function: Callable[[nn.Module], Any], what: str, model: nn.Module) -> Any:
        """What a function of the file returns.

        Raises:
            ModelFailedError: it raised.
        """
        try:
            return function(model)
        except MissingPackageError:
            raise
        except RAISED as error:
            said = f"{what}(model) of 'module:{self.name}' must return for its model, but its own code raised {raised(error)}"
            raise model_failed(said, error) from error

    def network(self, model: nn.Module) -> Network:
        return read_network(model, self._inputs_of(model), self.points(model))

    def points(self, model: nn.Module) -> Sequence[str] | None:
        """The names that the file gives, if any."""
        find = getattr(_load(self.name.rpartition(":")[0]), "points", None)
        if find is None:
            return None
        names = self._called(find, "points", model)
        check(Sequence[str], f"points(model) of 'module:{self.name}'", names)
        return list(names)

    def read(self, seed: int = 0) -> tuple[Network, list[TokenKernel]]:
        """Read from weights that are drawn for it, as one's own code need not work without.

        Raises:
            UndescribedError: a model that the exact theory does not read.
            UnknownLawError: a parameter that is allocated and never initialized, of which a number would be anything.
        """
        from criticality.measurement import input_kernels

        with forked():
            seed_everything(seed)
            require_known_laws(build_without_weights(self.create))
            seed_everything(seed)
            model = self.build()
        network = self.network(model)
        kernels = input_kernels(model, self._inputs_of(model), points=self.points(model))
        return network, [TokenKernel.of(kernel) for kernel in kernels]


def _load(path: str) -> Any:
    return load_file(path, "model file")


def _adapter(module: str) -> Any:
    """A family's module, imported when it is wanted: each brings a large package along."""
    return importlib.import_module(f"criticality.models.{module}")


_FAMILIES: dict[str, Callable[[], Any]] = {
    "timm": lambda: _adapter("timm_vit").ViTSpec,
    "hf": lambda: _adapter("huggingface").HuggingFaceSpec,
    "module": lambda: OwnSpec,
}


@checked
def model_spec(model: str, **changes: Any) -> ModelSpec:
    """The description of ``timm:NAME``, ``hf:PATH/config.json``, ``hf:MODEL_TYPE`` or ``module:PATH.py:FACTORY``.

    ``changes`` that are ``None`` are left out.

    Raises:
        ValueError: another form, an unknown name, or a change that this kind of model does not take.
    """
    family, colon, name = model.partition(":")
    if family not in _FAMILIES or not colon or not name:
        raise UnknownNameError(
            f"model {shown(model)} must be given as 'timm:NAME' (such as 'timm:vit_base_patch16_224'), 'hf:PATH/config.json',"
            f" 'hf:MODEL_TYPE' or 'module:PATH.py:FACTORY'{meant(family, (*_FAMILIES, 'resnet'))}"
        )
    make = _FAMILIES[family]()
    given = {key: value for key, value in changes.items() if value is not None}
    taken = {field.name for field in fields(make)}
    refused: Sequence[str] = sorted(given.keys() - taken)
    if refused:
        raise ArgumentError(
            f"{refused[0]}={given[refused[0]]!r} must be left out for {model!r}, which does not take it"
        )
    description: ModelSpec = make(name, **given)
    if "depth" in taken:
        require_fit(description, weights=False)
    return description
