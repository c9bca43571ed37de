"""Set a prescription on a torch model in place: by the theory of its config, or by one forward pass on data.

What is set is found in the data flow of one pass: norms of the stream in the order in which values reach them, and the last
thing that scales each branch.  No name decides anything; every number that is written is read back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from criticality.arguments import Positive, checked
from criticality.errors import CriticalityError
from criticality.prescription.handles import AlphaSite, BranchHandle, Handles
from criticality.prescription.scaling import (
    Saved,
    Scaled,
    parameter_of,
    put_back,
    put_back_on_failure,
    saved_values,
    write,
)
from criticality.prescription.solve import Prescription
from criticality.stream.find import eager
from criticality.stream.inputs import arguments, call
from criticality.stream.recording import tensors_in
from criticality.stream.sharded import mean_over_processes
from criticality.stream.untouched import placed, untouched


@dataclass(frozen=True)
class Change:
    """One number of a model, before and after.

    Attributes:
        name: of the module.
        what: ``alpha``, ``output weights x`` or ``weights x``.
        before, after: an alpha, or a factor.
        values: what is written, by the whole name of each parameter.
    """

    name: str
    what: str
    before: float
    after: float
    values: tuple[tuple[str, Tensor], ...] = ()


@dataclass(frozen=True)
class Untouched:
    """What an operation left as it was: name and reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Applied:
    """What was changed, and what was left as it was; ``undo`` puts the very same numbers back.

    Printed, it is a line for each change and one with the number of things left, which are listed.
    """

    changes: tuple[Change, ...]
    untouched: tuple[Untouched, ...]
    _saved: Saved

    def undo(self) -> None:
        """Put everything back, bit for bit."""
        put_back(self._saved)

    def __str__(self) -> str:
        rows = [f"{one.name}: {one.what} {one.before:g} -> {one.after:g}" for one in self.changes]
        left = [f"{len(self.untouched)} left as they were"] if self.untouched else []
        return "\n".join([*rows, *left, *(f"  {one}" for one in self.untouched)])


def block_norms(model: nn.Module, inputs: Any = None) -> list[tuple[str, nn.Module]]:
    """Names and modules of the pointwise norms of a model's streams, in the order of the data flow.

    Raises:
        ValueError: a stream without pointwise norms; as ``measure``.
    """
    return [(site.name, site.module) for site in alpha_sites(Handles(model, inputs)) if not site.final]


def final_norms(model: nn.Module, inputs: Any = None) -> list[tuple[str, nn.Module]]:
    """Pointwise norms after the last point of each stream, up to the first weight after it.

    Raises:
        ValueError: as ``measure``.
    """
    return [(site.name, site.module) for site in Handles(model, inputs).alphas if site.final]


@checked
def planned_changes(prescription: Prescription, model: nn.Module, inputs: Any = None) -> list[Change]:
    """What ``apply_prescription`` would change, nothing changed yet.

    Raises:
        ValueError: as ``apply_prescription``.
    """
    return _planned(prescription, Handles(model, inputs))[0]


@checked
def apply_prescription(prescription: Prescription, model: nn.Module, inputs: Any = None) -> Applied:
    """Set a prescription in place.

    Args:
        prescription: as ``prescribe`` makes it.
        model: any that ``measure`` takes.
        inputs: as for ``measure``, to find the stream with [default: example inputs, for the models of timm and transformers].

    Returns:
        What was changed, and what was not, such as norms that are not of the stream and branches that nothing scales.

    Raises:
        InputsError: no inputs, for a model that does not say what it takes.
        WriteError: a parameter does not hold what was written.
        ValueError: a model with other numbers of norms than the prescription, or parts that are not found; as ``measure``.
            The model is then as it was, bit for bit.
    """
    handles = Handles(model, inputs)
    changes, left = _planned(prescription, handles)
    values = {name: value for change in changes for name, value in change.values}
    saved = saved_values(parameter_of(handles.model, name) for name in values)
    write(handles.model, values)
    return Applied(tuple(changes), tuple(left), saved)


@checked
def schedule_from_data(
    model: nn.Module, inputs: Any, c: Positive, *, device: torch.device | str | None = None
) -> Applied:
    """Set every alpha to ``c / sqrt(q)`` with ``q`` the mean square of what the norm sees, in one forward pass.

    Norms are set one after the other as the pass reaches them, so that each sees the stream that those before it make.

    Args:
        model: with pointwise norms on its stream; evaluated in eval mode, states as before after the call.
        inputs: as for ``apply_prescription``; ``None`` for those that the model says that it takes.
        c: of the schedule, as ``prescribe`` gives it.
        device: where to run.

    Raises:
        ValueError: ``c`` not positive; a norm that is not reached once, or whose input is 0 or not finite. The model is
            then as it was, bit for bit.
        WriteError: an alpha does not hold what was written.
    """
    handles = Handles(model, inputs)
    sites = alpha_sites(handles)
    before = {site.parameter: parameter_of(handles.model, site.parameter).detach().clone() for site in sites}
    with put_back_on_failure(parameter_of(handles.model, name) for name in before) as saved:
        found = alphas_from_data(handles, sites, c, device)
        changes = [
            Change(site.name, "alpha", float(before[site.parameter].double().mean()), found[site.name],
                   ((site.parameter, torch.full_like(before[site.parameter], found[site.name])),))
            for site in sites
        ]  # fmt: skip
        write(handles.model, {name: value for change in changes for name, value in change.values})
    return Applied(tuple(changes), tuple(_other_norms(handles)), saved)


def alphas_from_data(
    handles: Handles,
    sites: Sequence[AlphaSite],
    c: float,
    device: torch.device | str | None = None,
    under: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """Set each alpha to ``c / sqrt(q)`` as soon as its input is there; what was set, by the name of the norm.

    Raises:
        CriticalityError: a norm that is not reached once, or whose input is 0 or not finite.
    """
    found: dict[str, float] = {}

    def at(site: AlphaSite) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = next(tensor for tensor in tensors_in((args, kwargs)) if tensor.is_floating_point())
            q = float(mean_over_processes(handles.model, x.detach().double().square().mean().cpu().numpy()))
            if site.name in found:
                raise CriticalityError(
                    f"norm {site.name!r} must be reached once by the forward pass, and is reached again"
                )
            if not (math.isfinite(q) and q > 0):
                raise CriticalityError(
                    f"norm {site.name!r} must see a finite stream that is not 0, got a mean square of {q}"
                )
            found[site.name] = c / math.sqrt(q)
            with torch.no_grad():
                parameter_of(module, site.parameter.removeprefix(f"{site.name}.")).fill_(found[site.name])

        return hook

    hooks = [site.module.register_forward_pre_hook(at(site), with_kwargs=True) for site in sites]
    try:
        with (
            placed(handles.model, handles.inputs, device, None) as ready,
            untouched(handles.model),
            torch.no_grad(),
            eager(),
            under(),
        ):
            call(handles.model, arguments(ready))
    finally:
        for hook in hooks:
            hook.remove()
    missing = [site.name for site in sites if site.name not in found]
    if missing:
        raise CriticalityError(f"norm {missing[0]!r} must be reached by the forward pass, and is not")
    return found


def _planned(prescription: Prescription, handles: Handles) -> tuple[list[Change], list[Untouched]]:
    """Changes, and what is left as it is."""
    changes: list[Change] = []
    left: list[Untouched] = []
    if prescription.alphas:
        sites = alpha_sites(handles)
        inner, final = ([site for site in sites if site.final is last] for last in (False, True))
        if len(inner) != len(prescription.alphas):
            raise CriticalityError(
                f"model {type(handles.model).__name__} must have the {len(prescription.alphas)} pointwise norms that the"
                f" prescription was made for, and has {len(inner)}"
            )
        changes += [_alpha(handles, site, alpha) for site, alpha in zip(inner, prescription.alphas, strict=True)]
        if prescription.final_alpha is not None:
            changes += [_alpha(handles, site, prescription.final_alpha) for site in final]
        else:
            left += [
                Untouched(site.name, "after the last block, and the prescription says nothing of it") for site in final
            ]
        left += _other_norms(handles)
    if prescription.branch_scale != 1.0:
        scaled, kept = scaled_branches(handles, handles.branches, [prescription.branch_scale] * len(handles.branches))
        changes, left = changes + scaled, left + kept
    if prescription.gain != 1.0:
        for name in handles.matrices():
            value = parameter_of(handles.model, name).detach() * prescription.gain
            module = name.rpartition(".")[0]
            changes.append(Change(module, "weights x", 1.0, prescription.gain, ((name, value),)))
    return changes, left


def scaled_branches(
    handles: Handles, branches: Sequence[BranchHandle], factors: Sequence[float]
) -> tuple[list[Change], list[Untouched]]:
    """Changes that scale each branch by its factor, and the branches that nothing scales.

    Raises:
        CriticalityError: there is no branch that can be scaled.
    """
    rules = handles.scalings(tuple(branches))
    changes, left = [], []
    for branch, factor in zip(branches, factors, strict=True):
        reason = branch.reason or _unscaled(branch, rules)
        if reason:
            left.append(Untouched(branch.name, reason))
            continue
        values = tuple(
            (name, rules[name].value(parameter_of(handles.model, name).detach(), factor)) for name in branch.parameters
        )
        changes.append(Change(branch.name, "output weights x", 1.0, factor, values))
    if not changes:
        why = f": {left[0]}" if left else ""
        raise CriticalityError(
            f"model {type(handles.model).__name__} must have a branch with a weight that scales it, and has none{why}"
        )
    return changes, left


def _unscaled(branch: BranchHandle, rules: dict[str, Scaled]) -> str:
    tried = [name for name in branch.parameters if rules[name].offset is None]
    return f"twice {tried[0]!r} is not twice the branch, nor is twice 1 more than it" if tried else ""


def alpha_sites(handles: Handles) -> tuple[AlphaSite, ...]:
    """Pointwise norms of the streams, final ones last.

    Raises:
        CriticalityError: there is none.
    """
    if not any(not site.final for site in handles.alphas):
        raise CriticalityError(
            f"model {type(handles.model).__name__} must have pointwise norms in its blocks, and has none: see replace_norms"
        )
    return handles.alphas


def _other_norms(handles: Handles) -> list[Untouched]:
    return [Untouched(name, "a pointwise norm that is not on the stream") for name in handles.other_alphas()]


def _alpha(handles: Handles, site: AlphaSite, alpha: float) -> Change:
    before = parameter_of(handles.model, site.parameter).detach()
    value = torch.full_like(before, alpha)
    return Change(site.name, "alpha", float(before.double().mean()), alpha, ((site.parameter, value),))
