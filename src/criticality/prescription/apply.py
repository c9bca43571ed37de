"""Set a prescription on a torch model in place: by the theory of its config, or by one forward pass on data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from criticality.errors import StreamNotFoundError
from criticality.models.conversion import HEAD_NORMS
from criticality.models.normalizers import DynamicPointwise
from criticality.prescription.solve import Prescription
from criticality.stream.inputs import arguments, call
from criticality.stream.untouched import placed, untouched

OUTPUT_LAYERS = (
    "proj",
    "fc2",
    "o_proj",
    "down_proj",
    "c_proj",
    "out_proj",
    "w3",
    "attention.output.dense",
    "output.dense",
)
"""Last parts of the names of layers whose output is added to the stream."""


_LISTS = ("blocks", "layers", "layer", "h")


def find_blocks(model: nn.Module) -> tuple[str, nn.Sequential | nn.ModuleList]:
    """Name and list of the blocks on the residual stream: of lists with the usual names the longest.

    Raises:
        StreamNotFoundError: there is none.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and name.rpartition(".")[2] in _LISTS and len(module) > 0
    ]
    if not found:
        raise StreamNotFoundError(
            f"model {type(model).__name__} must have its blocks in a list named"
            f" {', '.join(repr(name) for name in _LISTS)} for its norms and weights to be found"
        )
    return max(found, key=lambda entry: len(entry[1]))


@dataclass(frozen=True)
class Change:
    """One number of a model, before and after; ``tensors`` are multiplied by ``after / before`` or, for an alpha, filled."""

    name: str
    what: str
    before: float
    after: float
    tensors: tuple[Tensor, ...] = ()

    def make(self) -> None:
        """Write it into the model."""
        with torch.no_grad():
            for tensor in self.tensors:
                if self.what == "alpha":
                    tensor.fill_(self.after)
                else:
                    tensor.mul_(self.after / self.before)


@dataclass(frozen=True)
class Applied:
    """What was changed; ``undo`` puts the very same numbers back."""

    changes: tuple[Change, ...]
    _saved: tuple[tuple[Tensor, Tensor], ...]

    def undo(self) -> None:
        """Put everything back, bit for bit."""
        with torch.no_grad():
            for tensor, value in self._saved:
                tensor.copy_(value)


def stream_norms(model: nn.Module) -> list[tuple[str, DynamicPointwise]]:
    """Names and pointwise norms of a module, in order; norms of queries and keys left out."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, DynamicPointwise) and name.rpartition(".")[2] not in HEAD_NORMS
    ]


def block_norms(model: nn.Module) -> list[tuple[str, DynamicPointwise]]:
    """Names and pointwise norms of a model's blocks, in order; norms of queries and keys left out.

    Raises:
        ValueError: a model without blocks, or whose blocks have no pointwise norms.
    """
    stem, blocks = find_blocks(model)
    found = [(f"{stem}.{name}", module) for name, module in stream_norms(blocks)]
    if not found:
        raise ValueError(
            f"model {type(model).__name__} must have pointwise norms in its blocks, and has none: see replace_norms"
        )
    return found


def final_norms(model: nn.Module) -> list[tuple[str, DynamicPointwise]]:
    """Pointwise norms that are defined after the blocks."""
    stem, _ = find_blocks(model)
    names = [name for name, _ in model.named_modules()]
    last = max(index for index, name in enumerate(names) if name == stem or name.startswith(f"{stem}."))
    later = [(name, model.get_submodule(name)) for name in names[last + 1 :]]
    return [(name, module) for name, module in later if isinstance(module, DynamicPointwise)]


def output_layers(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers of a block whose output is added to the stream, found by their names (``OUTPUT_LAYERS``).

    Raises:
        ValueError: none is found.
    """
    found = [
        (name, module)
        for name, module in block.named_modules()
        if any(name == known or name.endswith(f".{known}") for known in OUTPUT_LAYERS)
        and isinstance(getattr(module, "weight", None), Tensor)
    ]
    if not found:
        raise ValueError(
            f"block {type(block).__name__} must have a layer named {', '.join(map(repr, OUTPUT_LAYERS))} that adds to"
            " the stream, and has none; for others give layers=['name in block', ...]"
        )
    return found


def planned_changes(prescription: Prescription, model: nn.Module) -> list[Change]:
    """What ``apply_prescription`` would change, nothing changed yet.

    Raises:
        ValueError: a model with other numbers of norms than the prescription, or parts that are not found.
    """
    changes: list[Change] = []
    if prescription.alphas:
        norms = block_norms(model)
        if len(norms) != len(prescription.alphas):
            raise ValueError(
                f"model {type(model).__name__} must have the {len(prescription.alphas)} pointwise norms that the prescription"
                f" was made for, and has {len(norms)}"
            )
        changes += [_alpha(*norm, alpha) for norm, alpha in zip(norms, prescription.alphas, strict=True)]
        if prescription.final_alpha is not None:
            changes += [_alpha(*norm, prescription.final_alpha) for norm in final_norms(model)]
    if prescription.branch_scale != 1.0:
        changes += _scaled(model, prescription.branch_scale, "output weights x", output_layers, biases=True)
    if prescription.gain != 1.0:
        changes += _scaled(model, prescription.gain, "weights x", _weights, biases=False)
    return changes


def apply_prescription(prescription: Prescription, model: nn.Module) -> Applied:
    """Set a prescription in place.

    Raises:
        ValueError: as ``planned_changes``; the model is then as it was.
    """
    changes = planned_changes(prescription, model)
    saved = tuple((tensor, tensor.detach().clone()) for change in changes for tensor in change.tensors)
    for change in changes:
        change.make()
    return Applied(tuple(changes), saved)


def schedule_from_data(model: nn.Module, inputs: Any, c: float, *, device: torch.device | str | None = None) -> Applied:
    """Set every alpha to ``c / sqrt(q)`` with ``q`` the mean square of what the norm sees, in one forward pass.

    Norms are set one after the other as the pass reaches them, so that each sees the stream that those before it make.

    Args:
        model: with pointwise norms in its blocks; evaluated in eval mode, states as before after the call.
        inputs: as for ``measure``.
        c: of the schedule, as ``prescribe`` gives it.
        device: where to run.

    Raises:
        ValueError: ``c`` not positive; a norm that is not reached once, or whose input is 0 or not finite. The model is
            then as it was.
    """
    if not (math.isfinite(c) and c > 0):
        raise ValueError(f"c={c!r} must be a finite number above 0")
    norms = [*block_norms(model), *final_norms(model)]
    saved = [(module.alpha, module.alpha.detach().clone()) for _, module in norms]
    found: dict[str, float] = {}

    def at(name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...]) -> None:
            q = float(args[0].detach().double().square().mean())
            if name in found:
                raise ValueError(f"norm {name!r} must be reached once by the forward pass, and is reached again")
            if not (math.isfinite(q) and q > 0):
                raise ValueError(f"norm {name!r} must see a finite stream that is not 0, got a mean square of {q}")
            found[name] = c / math.sqrt(q)
            with torch.no_grad():
                module.alpha.fill_(found[name])

        return hook

    handles = [module.register_forward_pre_hook(at(name)) for name, module in norms]
    try:
        with placed(model, inputs, device, None) as ready, untouched(model), torch.no_grad():
            call(model, arguments(ready))
        missing = [name for name, _ in norms if name not in found]
        if missing:
            raise ValueError(f"norm {missing[0]!r} must be reached by the forward pass, and is not")
    except BaseException:
        Applied((), tuple(saved)).undo()
        raise
    finally:
        for handle in handles:
            handle.remove()
    changes = tuple(
        Change(name, "alpha", float(before.mean()), found[name], (module.alpha,))
        for (name, module), (_, before) in zip(norms, saved, strict=True)
    )
    return Applied(changes, tuple(saved))


def _alpha(name: str, module: DynamicPointwise, alpha: float) -> Change:
    return Change(name, "alpha", float(module.alpha.detach().mean()), alpha, (module.alpha,))


def _scaled(
    model: nn.Module, factor: float, what: str, find: Callable[[nn.Module], list[tuple[str, nn.Module]]], biases: bool
) -> list[Change]:
    stem, blocks = find_blocks(model)
    changes = []
    for number, block in enumerate(blocks):
        for name, module in find(block):
            tensors = [getattr(module, part, None) for part in (("weight", "bias") if biases else ("weight",))]
            kept = tuple(tensor for tensor in tensors if isinstance(tensor, Tensor))
            changes.append(Change(f"{stem}.{number}.{name}", what, 1.0, factor, kept))
    return changes


def _weights(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every layer with a weight matrix."""
    return [
        (name, module)
        for name, module in block.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim >= 2
    ]
