"""Edits of a torch model in place: a prescription by the theory of its config, or by one forward pass on data.

What is set is found in the data flow of one pass: norms of the stream in the order in which values reach them, and the last
thing that scales each branch.  No name decides anything; every number that is written is read back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from criticality.arguments import Positive, checked
from criticality.errors import ArgumentError, NotFiniteError
from criticality.models.conversion import Conversion, replace_norms
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
from criticality.theory.edits import Alpha, BranchGain, Edit, OtherNorm, Schedule, WeightGain


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
    """What was changed, and what was left as it was; ``undo`` puts the very same numbers and norms back.

    Printed, it is a line for each change and one with the number of things left, which are listed.
    """

    changes: tuple[Change, ...]
    untouched: tuple[Untouched, ...]
    conversions: tuple[Conversion, ...] = ()
    _steps: tuple[Applied | Conversion, ...] = ()
    _saved: Saved = field(default_factory=list)

    def undo(self) -> None:
        """Put everything back, bit for bit."""
        put_back(self._saved)
        for step in reversed(self._steps):
            step.undo()

    def __str__(self) -> str:
        rows = [str(one) for one in self.conversions]
        rows += [f"{one.name}: {one.what} {one.before:g} -> {one.after:g}" for one in self.changes]
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
    handles = Handles(model, inputs)
    _check_made_for(prescription, handles)
    return _planned(prescription.edits, handles)[0]


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
    _check_made_for(prescription, handles)
    return _written(prescription.edits, handles)


@checked
def apply_edits(edits: Sequence[Edit], model: nn.Module, inputs: Any = None) -> Applied:
    """Make edits in place, one after the other, as ``theory.edits.edited`` does to a description.

    Args:
        edits: of ``theory.edits``, a ``Prescription``'s, a ``Tuning``'s, or those of a file (``read_edits``).
        model, inputs: as for ``apply_prescription``; a ``Schedule`` is set by one forward pass on the inputs.

    Raises:
        InputsError, WriteError, ValueError: as ``apply_prescription``, ``schedule_from_data`` and ``replace_norms``; a number
            that no norm or branch has. The model is then as it was, bit for bit.
    """
    done: list[Applied | Conversion] = []
    try:
        for numbers, group in groupby(edits, lambda edit: isinstance(edit, (Alpha, BranchGain, WeightGain))):
            if numbers:
                done.append(_written([*group], Handles(model, inputs)))
                continue
            for edit in group:
                if isinstance(edit, Schedule):
                    done.append(schedule_from_data(model, inputs, edit.c))
                elif isinstance(edit, OtherNorm):
                    done.append(replace_norms(model, edit.norm, edit.alpha, inputs=inputs, only=[*edit.names] or None))
    except BaseException:
        for one in reversed(done):
            one.undo()
        raise
    numbers_set = [one for one in done if isinstance(one, Applied)]
    return Applied(
        tuple(change for one in numbers_set for change in one.changes),
        tuple(left for one in numbers_set for left in one.untouched),
        tuple(one for one in done if isinstance(one, Conversion)),
        tuple(done),
    )


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
    return Applied(tuple(changes), tuple(_other_norms(handles)), _saved=saved)


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
                raise ArgumentError(
                    f"norm {site.name!r} must be reached once by the forward pass, and is reached again"
                )
            if not (math.isfinite(q) and q > 0):
                raise NotFiniteError(
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
        raise ArgumentError(f"norm {missing[0]!r} must be reached by the forward pass, and is not")
    return found


def _check_made_for(prescription: Prescription, handles: Handles) -> None:
    """Refuse a model with another number of norms."""
    inner = [site for site in handles.alphas if not site.final]
    if prescription.alphas and alpha_sites(handles) and len(inner) != len(prescription.alphas):
        raise ArgumentError(
            f"model {type(handles.model).__name__} must have the {len(prescription.alphas)} pointwise norms that the"
            f" prescription was made for, and has {len(inner)}"
        )


def _written(edits: Sequence[Edit], handles: Handles) -> Applied:
    changes, left = _planned(edits, handles)
    values = {name: value for change in changes for name, value in change.values}
    saved = saved_values(parameter_of(handles.model, name) for name in values)
    write(handles.model, values)
    return Applied(tuple(changes), tuple(left), _saved=saved)


def _planned(edits: Sequence[Edit], handles: Handles) -> tuple[list[Change], list[Untouched]]:
    """Changes of numbers, and what is left as it is."""
    changes, left = _planned_alphas([edit for edit in edits if isinstance(edit, Alpha)], handles)
    gains = [edit for edit in edits if isinstance(edit, BranchGain)]
    if gains:
        factors = [1.0] * len(handles.branches)
        for gain in gains:
            for number in range(len(factors)) if gain.at == "all" else [_numbered(gain.at, factors, "branch", handles)]:
                factors[number] *= gain.factor
        chosen = [(one, factor) for one, factor in zip(handles.branches, factors, strict=True) if factor != 1.0]
        if chosen:
            scaled, kept = scaled_branches(handles, *zip(*chosen, strict=True))
            changes, left = changes + scaled, left + kept
    factor = math.prod(edit.factor for edit in edits if isinstance(edit, WeightGain))
    if factor != 1.0:
        set_before = {name: value for change in changes for name, value in change.values}
        for name in handles.matrices():
            before = set_before.get(name, parameter_of(handles.model, name).detach())
            changes.append(Change(name.rpartition(".")[0], "weights x", 1.0, factor, ((name, before * factor),)))
    return changes, left


def _planned_alphas(edits: Sequence[Alpha], handles: Handles) -> tuple[list[Change], list[Untouched]]:
    if not edits:
        return [], []
    sites = alpha_sites(handles)
    inner = [site for site in sites if not site.final]
    wanted: dict[str, float] = {}
    for edit in edits:
        chosen: Sequence[AlphaSite] = sites
        if edit.at == "final":
            chosen = [site for site in sites if site.final]
        elif edit.at != "all":
            chosen = [inner[_numbered(edit.at, inner, "norm", handles)]]
        wanted |= dict.fromkeys((site.name for site in chosen), edit.value)
    left = [
        Untouched(site.name, "after the last block, and the prescription says nothing of it")
        for site in sites
        if site.final and site.name not in wanted
    ]
    changes = [_alpha(handles, site, wanted[site.name]) for site in sites if site.name in wanted]
    return changes, left + _other_norms(handles)


def _numbered(number: Any, among: Sequence[Any], what: str, handles: Handles) -> int:
    if not 0 <= number < len(among):
        raise ArgumentError(
            f"at={number!r} must be the number of a {what} of {type(handles.model).__name__}, which has {len(among)}"
        )
    return int(number)


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
        raise ArgumentError(
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
        raise ArgumentError(
            f"model {type(handles.model).__name__} must have pointwise norms in its blocks, and has none: see replace_norms"
        )
    return handles.alphas


def _other_norms(handles: Handles) -> list[Untouched]:
    return [Untouched(name, "a pointwise norm that is not on the stream") for name in handles.other_alphas()]


def _alpha(handles: Handles, site: AlphaSite, alpha: float) -> Change:
    before = parameter_of(handles.model, site.parameter).detach()
    value = torch.full_like(before, alpha)
    return Change(site.name, "alpha", float(before.double().mean()), alpha, ((site.parameter, value),))
