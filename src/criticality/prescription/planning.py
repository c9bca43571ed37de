"""What edits would write on a torch model, and what they would leave as it is; nothing is written here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from criticality.errors import ArgumentError
from criticality.models.patterns import Patterns
from criticality.moved import renamed_fields
from criticality.prescription.handles import AlphaSite, BranchHandle, Handles
from criticality.prescription.scaling import Scaled, parameter_of
from criticality.theory.edits import Alpha, AlphaGain, BranchGain, Edit, WeightGain

EVERYTHING = Patterns()


@renamed_fields(tensors="values, by the name of each parameter")
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
    """What an operation left as it was: name and reason, and whether ``keep`` or ``only`` asked for that."""

    name: str
    reason: str
    asked: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Plan(NamedTuple):
    """What is written, and what is left as it is."""

    changes: list[Change]
    left: list[Untouched]


def planned(edits: Sequence[Edit], handles: Handles, patterns: Patterns = EVERYTHING, strict: bool = False) -> Plan:
    """Changes of numbers.

    Raises:
        CriticalityError: a number or a pattern that fits nothing; no norm, or no branch that can be scaled; with ``strict``
            something that would be left and that ``keep`` and ``only`` do not name.
    """
    alphas = [edit for edit in edits if isinstance(edit, (Alpha, AlphaGain))]
    gains = [edit for edit in edits if isinstance(edit, BranchGain)]
    weights = [edit for edit in edits if isinstance(edit, WeightGain) and edit.factor != 1.0]
    if patterns != EVERYTHING:
        _check_patterns(patterns, handles, bool(alphas), bool(gains), bool(weights))
    parts = [_planned_alphas(alphas, handles, patterns), _planned_branches(gains, handles, patterns)]
    before = [change for part in parts for change in part.changes]
    parts.append(_planned_weights(weights, handles, patterns, before))
    changes, left = [one for part in parts for one in part.changes], [one for part in parts for one in part.left]
    if strict:
        check_all_set(handles, left)
    return Plan(changes, left)


def check_all_set(handles: Handles, left: Sequence[Untouched]) -> None:
    """Refuse to leave something that no pattern named.

    Raises:
        ArgumentError: the first of it, and how many there are.
    """
    unasked = [one for one in left if not one.asked]
    if unasked:
        raise ArgumentError(
            f"model {type(handles.model).__name__} must have all set that the prescription is for, with strict, and"
            f" {len(unasked)} would be left as they are, such as {unasked[0].name!r} ({unasked[0].reason}); name them in keep"
        )


def _check_patterns(patterns: Patterns, handles: Handles, alphas: bool, gains: bool, weights: bool) -> None:
    names: list[str] = []
    if alphas:
        names += [*(site.name for site in handles.alphas), *handles.other_alphas()]
    if gains:
        names += [name for branch in handles.branches for name in (branch.name, *branch.parameters)]
    if weights:
        names += handles.matrices()
    patterns.check(names, f"a norm, branch or weight of {type(handles.model).__name__} that the prescription is for")


def left_out_branch(branch: BranchHandle, patterns: Patterns) -> str:
    """Why patterns leave a branch out, which they name by its module or by its parameters; empty where they do not."""
    return patterns.left_out(branch.name, *branch.parameters)


class Split(NamedTuple):
    """Norms that patterns choose, and those that they leave."""

    chosen: list[AlphaSite]
    left: list[Untouched]


def split_sites(sites: Sequence[AlphaSite], patterns: Patterns) -> Split:
    """By the patterns."""
    reasons = {site.name: patterns.left_out(site.name) for site in sites}
    left = [Untouched(name, reason, True) for name, reason in reasons.items() if reason]
    return Split([site for site in sites if not reasons[site.name]], left)


def _planned_alphas(edits: Sequence[Alpha | AlphaGain], handles: Handles, patterns: Patterns) -> Plan:
    if not edits:
        return Plan([], [])
    sites = alpha_sites(handles)
    inner = [site for site in sites if not site.final]
    wanted: dict[str, float] = {}
    for edit in edits:
        if isinstance(edit, AlphaGain):
            wanted |= {one.name: edit.factor * wanted.get(one.name, one.alpha(handles.model)) for one in sites}
            continue
        chosen: Sequence[AlphaSite] = sites
        if edit.at == "final":
            chosen = [site for site in sites if site.final]
        elif isinstance(edit.at, str) and edit.at != "all":
            chosen = [site for site in sites if site.branch == edit.at]
            if not chosen:
                raise ArgumentError(
                    f"at={edit.at!r} of Alpha must be of a norm of {type(handles.model).__name__}, which has none there"
                )
        elif edit.at != "all":
            chosen = [inner[_numbered(edit.at, inner, "norm", handles)]]
        wanted |= dict.fromkeys((site.name for site in chosen), edit.value)
    chosen, left = split_sites(sites, patterns)
    left += [
        Untouched(site.name, f"{'after the last block, and ' if site.final else ''}the prescription says nothing of it")
        for site in chosen
        if site.name not in wanted
    ]
    changes = [_alpha(handles, site, wanted[site.name]) for site in chosen if site.name in wanted]
    return Plan(changes, left + other_norms(handles, patterns))


def _planned_branches(gains: Sequence[BranchGain], handles: Handles, patterns: Patterns) -> Plan:
    if not gains:
        return Plan([], [])
    factors = [1.0] * len(handles.branches)
    for gain in gains:
        for number in range(len(factors)) if gain.at == "all" else [_numbered(gain.at, factors, "branch", handles)]:
            factors[number] *= gain.factor
    changed = [(one, factor) for one, factor in zip(handles.branches, factors, strict=True) if factor != 1.0]
    left = [Untouched(one.name, reason, True) for one, _ in changed if (reason := left_out_branch(one, patterns))]
    chosen = [(one, factor) for one, factor in changed if not left_out_branch(one, patterns)]
    if not chosen:
        return Plan([], left)
    changes, unscaled = _scaled_branches(handles, *zip(*chosen, strict=True))
    return Plan(changes, left + unscaled)


def _planned_weights(
    gains: Sequence[WeightGain], handles: Handles, patterns: Patterns, before: Sequence[Change]
) -> Plan:
    """Of what the changes ``before`` leave."""
    values = {name: value for change in before for name, value in change.values}
    matrices = handles.matrices() if gains else []
    for unknown in (name for gain in gains for name in gain.names if name not in matrices):
        raise ArgumentError(
            f"names={unknown!r} of WeightGain must be weights of branches of {type(handles.model).__name__}"
        )
    changes, left = [], []
    for name in matrices:
        reason = patterns.left_out(name)
        factor = math.prod(gain.factor for gain in gains if not gain.names or name in gain.names)
        if reason:
            left.append(Untouched(name, reason, True))
        elif factor != 1.0:
            value = values.get(name, parameter_of(handles.model, name).detach())
            changes.append(Change(name.rpartition(".")[0], "weights x", 1.0, factor, ((name, value * factor),)))
    return Plan(changes, left)


def _numbered(number: Any, among: Sequence[Any], what: str, handles: Handles) -> int:
    if not 0 <= number < len(among):
        raise ArgumentError(
            f"at={number!r} must be the number of a {what} of {type(handles.model).__name__}, which has {len(among)}"
        )
    return int(number)


def _scaled_branches(handles: Handles, branches: Sequence[BranchHandle], factors: Sequence[float]) -> Plan:
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
    return Plan(changes, left)


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


def other_norms(handles: Handles, patterns: Patterns = EVERYTHING) -> list[Untouched]:
    """Pointwise norms of the model that a prescription is not for."""
    return [
        Untouched(name, reason or "a pointwise norm that is not on the stream", bool(reason))
        for name in handles.other_alphas()
        for reason in [patterns.left_out(name)]
    ]


def _alpha(handles: Handles, site: AlphaSite, alpha: float) -> Change:
    value = torch.full_like(parameter_of(handles.model, site.parameter).detach(), alpha)
    return Change(site.name, "alpha", site.alpha(handles.model), alpha, ((site.parameter, value),))
