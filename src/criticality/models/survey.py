"""The norms of a model, found by what its modules do."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from criticality.models.behaviour import Behaviour, Otherwise, behaviour


@dataclass(frozen=True)
class Survey:
    """The norms of a model by name, in the order of the model, a shared one at each of its names.

    Attributes:
        norms: modules that act as norms of one axis.
        others: norms that average otherwise, and modules of vectors whose behaviour could not be seen.
    """

    norms: dict[str, tuple[nn.Module, Behaviour]]
    others: dict[str, tuple[nn.Module, Otherwise]]


def survey(model: nn.Module) -> Survey:
    """What every module without a weight matrix does; of modules within modules the innermost that is a norm."""
    known: dict[int, Behaviour | Otherwise] = {}
    found = Survey({}, {})

    def of(module: nn.Module) -> Behaviour | Otherwise:
        return known.setdefault(id(module), known.get(id(module)) or behaviour(module))

    def visit(name: str, module: nn.Module) -> bool:
        children = [(child, part) for child, part in module._modules.items() if part is not None]
        inside = [visit(f"{name}.{child}" if name else child, part) for child, part in children]
        if any(inside) or (children and (not _own_parameters(module) or _holds_matrix(module))):
            return any(inside)
        seen = of(module)
        if isinstance(seen, Behaviour):
            found.norms[name] = (module, seen)
            return True
        if seen.kind != "none" and next(module.parameters(), None) is not None and not _only_matrix(module, seen):
            found.others[name] = (module, seen)
        return False

    visit("", model)
    return found


def _own_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None and not isinstance(module, (nn.Sequential, nn.ModuleList))


def _holds_matrix(module: nn.Module) -> bool:
    return any(sum(size > 1 for size in parameter.shape) > 1 for parameter in module.parameters())


def _only_matrix(module: nn.Module, seen: Otherwise) -> bool:
    return seen.kind == "unseen" and _holds_matrix(module)
