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
from torch import nn

from criticality.arguments import Positive, checked
from criticality.errors import ArgumentError, NotFiniteError
from criticality.models.conversion import Conversion, replace_norms
from criticality.models.patterns import Patterns
from criticality.prescription.handles import AlphaSite, Handles
from criticality.prescription.planning import (
    EVERYTHING,
    Change,
    Untouched,
    alpha_sites,
    check_all_set,
    other_norms,
    planned,
    split_sites,
)
from criticality.prescription.scaling import (
    Saved,
    parameter_of,
    put_back,
    put_back_on_failure,
    saved_values,
    write,
)
from criticality.prescription.solve import Prescription
from criticality.stream.find import eager
from criticality.stream.inputs import arguments, call
from criticality.stream.sharded import mean_over_processes
from criticality.stream.tensors import tensors_in
from criticality.stream.untouched import placed, untouched
from criticality.theory.edits import Alpha, AlphaGain, BranchGain, Edit, OtherNorm, Schedule, WeightGain


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
    return planned(prescription.edits, handles).changes


@checked
def apply_prescription(
    prescription: Prescription,
    model: nn.Module,
    inputs: Any = None,
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = ("*",),
    strict: bool = False,
) -> Applied:
    """Set a prescription in place.

    Args:
        prescription: as ``prescribe`` makes it.
        model: any that ``measure`` takes.
        inputs: as for ``measure``, to find the stream with [default: example inputs, for the models of timm and transformers].
        keep, only: patterns (names, globs, ``re:...``) of norms, branches or weights that are left, and that are set, in a
            prescription that was made for all of them; ``prescribe_sampled`` makes one for a part.
        strict: refuse to leave something that ``keep`` and ``only`` do not name.

    Returns:
        What was changed, and what was not, such as norms that are not of the stream and branches that nothing scales.

    Raises:
        InputsError: no inputs, for a model that does not say what it takes.
        WriteError: a parameter does not hold what was written.
        ValueError: a model with other numbers of norms than the prescription, parts that are not found, or a pattern without a
            match; as ``measure``. The model is then as it was, bit for bit.
    """
    handles = Handles(model, inputs)
    _check_made_for(prescription, handles)
    return _written(prescription.edits, handles, Patterns(keep, only), strict)


@checked
def apply_edits(edits: Sequence[Edit], model: nn.Module, inputs: Any = None, *, strict: bool = False) -> Applied:
    """Make edits in place, one after the other, as ``theory.edits.edited`` does to a description.

    Args:
        edits: of ``theory.edits``, a ``Prescription``'s, a ``Tuning``'s, or those of a file (``read_edits``).
        model, inputs, strict: as for ``apply_prescription``; a ``Schedule`` is set by one forward pass on the inputs.

    Raises:
        InputsError, WriteError, ValueError: as ``apply_prescription``, ``schedule_from_data`` and ``replace_norms``; a number
            that no norm or branch has. The model is then as it was, bit for bit.
    """
    done: list[Applied | Conversion] = []
    try:
        for numbers, group in groupby(edits, lambda edit: isinstance(edit, (Alpha, AlphaGain, BranchGain, WeightGain))):
            if numbers:
                done.append(_written([*group], Handles(model, inputs), strict=strict))
                continue
            for edit in group:
                if isinstance(edit, Schedule):
                    done.append(schedule_from_data(model, inputs, edit.c, strict=strict))
                elif isinstance(edit, OtherNorm):
                    only = [*edit.names] or None
                    done.append(replace_norms(model, edit.norm, edit.alpha, inputs=inputs, only=only, strict=strict))
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
    model: nn.Module,
    inputs: Any,
    c: Positive,
    *,
    device: torch.device | str | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = ("*",),
    strict: bool = False,
) -> Applied:
    """Set every alpha to ``c / sqrt(q)`` with ``q`` the mean square of what the norm sees, in one forward pass.

    Norms are set one after the other as the pass reaches them, so that each sees the stream that those before it make.

    Args:
        model: with pointwise norms on its stream; evaluated in eval mode, states as before after the call.
        inputs: as for ``apply_prescription``; ``None`` for those that the model says that it takes.
        c: of the schedule, as ``prescribe`` gives it.
        device: where to run.
        keep, only, strict: as for ``apply_prescription``.

    Raises:
        ValueError: ``c`` not positive; a norm that is not reached once, or whose input is 0 or not finite. The model is
            then as it was, bit for bit.
        WriteError: an alpha does not hold what was written.
    """
    handles = Handles(model, inputs)
    patterns = Patterns(keep, only)
    patterns.check(
        [*(site.name for site in alpha_sites(handles)), *handles.other_alphas()],
        f"a pointwise norm of {type(handles.model).__name__}",
    )
    sites, left = split_sites(alpha_sites(handles), patterns)
    left += other_norms(handles, patterns)
    if strict:
        check_all_set(handles, left)
    before = {site.parameter: parameter_of(handles.model, site.parameter).detach().clone() for site in sites}
    with put_back_on_failure(parameter_of(handles.model, name) for name in before) as saved:
        found = alphas_from_data(handles, sites, c, device)
        changes = [
            Change(site.name, "alpha", float(before[site.parameter].double().mean()), found[site.name],
                   ((site.parameter, torch.full_like(before[site.parameter], found[site.name])),))
            for site in sites
        ]  # fmt: skip
        write(handles.model, {name: value for change in changes for name, value in change.values})
    return Applied(tuple(changes), tuple(left), _saved=saved)


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
    norms = len(prescription.alphas) + len(prescription.kept)
    if prescription.alphas and alpha_sites(handles) and len(inner) != norms:
        raise ArgumentError(
            f"model {type(handles.model).__name__} must have the {norms} pointwise norms that the"
            f" prescription was made for, and has {len(inner)}"
        )


def _written(edits: Sequence[Edit], handles: Handles, patterns: Patterns = EVERYTHING, strict: bool = False) -> Applied:
    changes, left = planned(edits, handles, patterns, strict)
    values = {name: value for change in changes for name, value in change.values}
    saved = saved_values(parameter_of(handles.model, name) for name in values)
    write(handles.model, values)
    return Applied(tuple(changes), tuple(left), _saved=saved)
