"""What can be changed in a network, said once for descriptions and for models, and kept as JSON.

``edited`` changes a description; ``criticality.prescription.apply_edits`` a torch model.  Norms and branches are numbered from 0 in
the order in which values reach them, those of parallel branches and at the end of branches included.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np

from criticality.arguments import Positive, Whole, check_fields, checked, shown
from criticality.errors import ArgumentError, UndescribedError
from criticality.schema import write_text
from criticality.theory.attention import ScoreSampling
from criticality.theory.branches import Attention, Branch, Linear, Normed, Parallel
from criticality.theory.kernels import Kernel
from criticality.theory.network import Network, Sublayer, scale_weights
from criticality.theory.norms import LayerNorm, NoNorm, Norm, PointwiseNorm, make_norm
from criticality.theory.parts import DESCEND, parts_of, rebuilt

Number = Annotated[int, Whole(low=0)]


@dataclass(frozen=True)
class Alpha:
    """``alpha`` of a pointwise norm of the stream: of one by number, of ``all``, of those of branches with ``attention`` (a norm
    that branches of both kinds share among them), of those of other branches (``mlp``), or of those after the last block
    (``final``)."""

    value: Positive
    at: Number | Literal["all", "attention", "mlp", "final"] = "all"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class AlphaGain:
    """``alpha`` of every pointwise norm of the stream, those after the last block among them, times ``factor``."""

    factor: Positive

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Schedule:
    """``alpha_l = c / sqrt(K_l)``, ``K_l`` the variance that the norm sees when those before it are set."""

    c: Positive

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class BranchGain:
    """What a branch adds to the stream, times ``factor``: of one by number, or of ``all``."""

    factor: Positive
    at: Number | Literal["all"] = "all"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class WeightGain:
    """All weight matrices of the branches, or those of a model by name, times ``factor``; no bias."""

    factor: Positive
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class OtherNorm:
    """Another norm in the place of every one, or of those of a model by name; what scales and shifts it is kept."""

    norm: str
    alpha: Positive | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        make_norm(self.norm, self.alpha)


Edit = Alpha | AlphaGain | Schedule | BranchGain | WeightGain | OtherNorm

_WORDS: dict[str, type] = {
    "alpha": Alpha,
    "alpha-gain": AlphaGain,
    "schedule": Schedule,
    "branch-gain": BranchGain,
    "weight-gain": WeightGain,
    "other-norm": OtherNorm,
}


def edits_record(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    """As JSON: a mapping for each, its kind under ``edit``."""
    words = {kind: word for word, kind in _WORDS.items()}
    return [{"edit": words[type(edit)], **asdict(edit)} for edit in edits]


def edits_of_record(records: Any) -> tuple[Edit, ...]:
    """From ``edits_record``, or from a mapping that holds one under ``edits``.

    Raises:
        ArgumentError: something else; what an edit itself refuses.
    """
    listed = records.get("edits") if isinstance(records, Mapping) else records
    if not isinstance(listed, list) or not all(
        isinstance(one, Mapping) and one.get("edit") in _WORDS for one in listed
    ):
        raise ArgumentError(f"edits={shown(records)} must be a list of mappings with edit: {', '.join(_WORDS)}")
    found = []
    for one in listed:
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in one.items() if key != "edit"}
        kind = _WORDS[one["edit"]]
        try:
            found.append(kind(**given))
        except TypeError as error:
            raise ArgumentError(f"edit={shown(dict(one))} must have the fields of {kind.__name__}: {error}") from None
    return tuple(found)


@checked
def write_edits(edits: Sequence[Edit], path: str | os.PathLike[str]) -> Path:
    """As a JSON file, whole or not at all."""
    return write_text(json.dumps({"edits": edits_record(edits)}, indent=1), path)


@checked
def read_edits(path: str | os.PathLike[str]) -> tuple[Edit, ...]:
    """Of a file of ``write_edits`` or of ``criticality prescribe --out``.

    Raises:
        ArgumentError: no file, no JSON, or JSON that is none of these.
    """
    try:
        return edits_of_record(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(f"edits={str(path)!r} must be a JSON file that can be read: {error}") from None


@checked
def edited(network: Network, edits: Sequence[Edit], inputs: Sequence[Kernel] = ()) -> Network:
    """The description with edits made one after the other.

    Args:
        network: as it is.
        edits: those of norms after the last block change nothing here.
        inputs: kernels at its start, which a ``Schedule`` is made for, one or several.

    Raises:
        UndescribedError: no pointwise norm to set, a branch gain where a post-norm would undo it, names of a model's modules.
        ArgumentError: a number that no norm or branch has, a schedule without inputs.
    """
    for edit in edits:
        if isinstance(edit, WeightGain):
            _check_no_names(edit)
            network = scale_weights(network, edit.factor)
        elif isinstance(edit, BranchGain):
            network = _with_branch_gain(network, edit)
        elif isinstance(edit, OtherNorm):
            network = _with_other_norm(network, edit)
        elif isinstance(edit, Schedule):
            network = _scheduled(network, edit.c, inputs)
        elif isinstance(edit, AlphaGain):
            network = _with_alphas(network, lambda norm, factor=edit.factor: norm.pointwise.alpha * factor)  # type: ignore[misc]
        elif edit.at != "final":
            network = _with_alpha(network, edit)
    return network


def pointwise_norms(part: Any) -> list[PointwiseNorm]:
    """Of a network or a part of one, in the order in which values reach them."""
    return parts_of(part, PointwiseNorm, once=False)


@checked
def alphas_of(network: Network) -> tuple[float, ...]:
    """Of the pointwise norms of the stream, in order."""
    return tuple(norm.pointwise.alpha for norm in pointwise_norms(network))


def _of_alpha(norm: PointwiseNorm, alpha: float) -> PointwiseNorm:
    return PointwiseNorm(replace(norm.pointwise, alpha=alpha))


def _with_alphas(network: Network, alpha: Callable[[PointwiseNorm], float]) -> Network:
    if not pointwise_norms(network):
        raise UndescribedError(
            f"network {network.name!r} must have pointwise norms for an alpha to be set, and has none"
        )
    return cast(Network, rebuilt(_at_norms(lambda norm: _of_alpha(norm, alpha(norm))), network))


def _with_alpha(network: Network, edit: Alpha) -> Network:
    norms = pointwise_norms(network)
    if edit.at == "all" or not norms:
        return _with_alphas(network, lambda norm: edit.value)
    if isinstance(edit.at, str):
        return _with_alpha_of_kind(network, edit)
    if edit.at >= len(norms):
        raise ArgumentError(
            f"at={edit.at!r} of Alpha must be the number of a norm, and {network.name!r} has {len(norms)}"
        )
    return cast(Network, _with_nth(network, edit.at, lambda norm: _of_alpha(norm, edit.value)))


def _with_alpha_of_kind(network: Network, edit: Alpha) -> Network:
    """Of the norms of sub-layers, and of branches with a norm of their own, that hold attention or hold none."""
    set_here = 0

    def visit(part: Any) -> Any:
        nonlocal set_here
        if not isinstance(part, (Sublayer, Normed)):
            return DESCEND
        changes: dict[str, Any] = {"branch": rebuilt(visit, part.branch)}
        if bool(parts_of(part.branch, Attention)) == (edit.at == "attention"):
            norms = {name: getattr(part, name, None) for name in ("norm", "output_norm")}
            own = {name: _of_alpha(norm, edit.value) for name, norm in norms.items() if isinstance(norm, PointwiseNorm)}
            set_here += len(own)
            changes |= own
        return replace(part, **changes)

    changed = cast(Network, rebuilt(visit, network))
    if not set_here:
        raise ArgumentError(f"at={edit.at!r} of Alpha must be of a pointwise norm, and {network.name!r} has none there")
    return changed


def _at_norms(change: Callable[[PointwiseNorm], Any]) -> Callable[[Any], Any]:
    return lambda part: change(part) if isinstance(part, PointwiseNorm) else DESCEND


def _with_nth(part: Any, number: int, change: Callable[[PointwiseNorm], Any]) -> Any:
    numbers = count()
    return rebuilt(_at_norms(lambda norm: change(norm) if next(numbers) == number else norm), part, once=False)


class _Reached(Exception):  # noqa: N818  (it is no error)
    """A value has come to the norm that is looked for."""

    def __init__(self, kernel: Kernel):
        self.variance = float(kernel.mean_diagonal())


class _Stop:
    """In the place of a norm, to see what reaches it."""

    def forward(self, kernel: Any) -> Any:
        raise _Reached(kernel)

    factor = forward


def _scheduled(network: Network, c: float, inputs: Sequence[Kernel]) -> Network:
    if not inputs:
        raise ArgumentError("inputs=() must hold a kernel at least, which a Schedule is made for")
    if not pointwise_norms(network):
        raise UndescribedError(f"network {network.name!r} must have pointwise norms for a schedule, and has none")
    sampling, kernels, parts = ScoreSampling(2, 0), [*inputs], []
    for layer, part in enumerate(network.sublayers):
        at = sampling.at(layer)
        for number in range(len(pointwise_norms(part))):
            variance = float(np.mean([_variance_at(part, number, kernel, at) for kernel in kernels]))
            alpha = c / math.sqrt(variance)
            part = _with_nth(part, number, lambda norm, alpha=alpha: _of_alpha(norm, alpha))  # type: ignore[misc]
        parts.append(part)
        kernels = [part.forward(cast(Any, kernel), at) for kernel in kernels]
    return replace(network, sublayers=tuple(parts))


def _variance_at(part: Sublayer, number: int, kernel: Kernel, sampling: ScoreSampling) -> float:
    """Of what the norm of that number sees."""
    try:
        _with_nth(part, number, lambda _: _Stop()).forward(kernel, sampling)
    except _Reached as reached:
        return reached.variance
    raise AssertionError("the norm is on the way")


def _with_branch_gain(network: Network, edit: BranchGain) -> Network:
    if any(part.placement == "post" for part in network.sublayers):
        raise UndescribedError("a branch gain must be used with pre-norm: post-norm undoes a scale of both summands")

    def scaled(part: Sublayer) -> Sublayer:
        return replace(part, scale=part.scale * edit.factor)

    if edit.at == "all":
        visit = lambda part: scaled(part) if isinstance(part, Sublayer) else DESCEND  # noqa: E731
        return cast(Network, rebuilt(visit, network))
    parts, number = list(network.sublayers), cast(int, edit.at)
    for layer, part in enumerate(parts):
        branches = part.branch.branches if isinstance(part.branch, Parallel) else (part.branch,)
        if number < len(branches):
            changed = [*branches]
            changed[number] = _times(branches[number], edit.factor)
            whole = (
                replace(part, branch=Parallel(tuple(changed))) if isinstance(part.branch, Parallel) else scaled(part)
            )
            parts[layer] = whole
            return replace(network, sublayers=tuple(parts))
        number -= len(branches)
    raise ArgumentError(
        f"at={edit.at!r} of BranchGain must be the number of a branch of {network.name!r}, and is of none"
    )


def _times(branch: Branch, factor: float) -> Branch:
    """A branch whose output is multiplied: of parallel ones, which have no scale of their own."""
    if isinstance(branch, Linear):
        return branch.scaled(factor)
    if isinstance(branch, Normed):
        return replace(branch, branch=_times(branch.branch, factor))
    if isinstance(branch, Parallel):
        return Parallel(tuple(_times(one, factor) for one in branch.branches))
    last = "output" if isinstance(branch, Attention) else "down"
    if not isinstance(getattr(branch, last, None), Linear):
        raise UndescribedError(f"branch {type(branch).__name__} must end with a Linear called {last!r} to be scaled")
    return cast(Branch, replace(cast(Any, branch), **{last: getattr(branch, last).scaled(factor)}))


def _check_no_names(edit: WeightGain | OtherNorm) -> None:
    if edit.names:
        raise UndescribedError(
            f"names={edit.names!r} of {type(edit).__name__} must be left out for a description, whose parts have none"
        )


def _with_other_norm(network: Network, edit: OtherNorm) -> Network:
    _check_no_names(edit)

    def visit(part: Any) -> Any:
        if isinstance(part, PointwiseNorm):
            return _other_norm(edit, part.pointwise.gamma, part.pointwise.beta, 1e-6)
        return _other_norm(edit, part.gamma, part.beta, part.epsilon) if isinstance(part, LayerNorm) else DESCEND

    return cast(Network, rebuilt(visit, network))


def _other_norm(edit: OtherNorm, gamma: float, beta: float, epsilon: float) -> Norm:
    made = make_norm(edit.norm, edit.alpha, epsilon)
    if isinstance(made, PointwiseNorm):
        return PointwiseNorm(replace(made.pointwise, gamma=gamma, beta=beta))
    return made if isinstance(made, NoNorm) else replace(cast(LayerNorm, made), gamma=gamma, beta=beta)
