"""Solve for alpha, a depth schedule of alpha, branch scales or weight gains that give a network the log J one asks for.

``schedule`` is ``alpha_l = c / sqrt(K_l)`` with ``K_l`` the variance that the norm sees: ``alpha^2 K`` is the same at every depth,
as after LayerNorm, and so the growth of ``log J`` is a power law again (docs/theory, section 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaln

from criticality.arguments import Count, Positive, Samples, Scale, Seed, Start, checked, meant, shown
from criticality.errors import ArgumentError, TokensNotEquivalentError, UndescribedError, UnreachableError
from criticality.moved import renamed_fields
from criticality.pointwise import Pointwise
from criticality.prescription.kinds import Kind
from criticality.theory import Network, SymmetricKernel, propagate
from criticality.theory.edits import (
    Alpha,
    AlphaGain,
    BranchGain,
    Edit,
    OtherNorm,
    Schedule,
    WeightGain,
    alphas_of,
    edited,
    edits_record,
)
from criticality.theory.kernels import Kernel

PRE_LAYER_NORM = "preln"
"""The target that matches the same network with LayerNorm, all its tokens alike: a class token, whose variance is small at the
input, inflates LayerNorm's ``log J`` there by a term that is no growth with depth (docs/theory, section 10)."""

PRE_LAYER_NORM_TOKENS = "preln-tokens"
"""The same with the tokens as they are, class token included."""

_LOWEST, _HIGHEST = 1e-3, 1e2
_CLOSE_ENOUGH = 0.01


@renamed_fields(
    alphas="edits, an Alpha(value, at=number) for each",
    final_alpha="edits, Alpha(value, at='final')",
    branch_scale="edits, BranchGain(factor)",
    gain="edits, WeightGain(factor)",
)
@dataclass(frozen=True)
class Prescription:
    """What to set so that a network at initialization has a given ``log J``.

    Attributes:
        kind: ``constant`` alpha, ``alpha-scale`` (every alpha times value, so that those of attention and MLP keep their ratio),
            ``schedule`` ``alpha_l = value / sqrt(K_l)``, ``branch-scale`` (output weights of every branch times value) or ``gain``
            (all weights of the blocks times value).
        value: the one number that was solved for.
        edits: that make it, in order: they can be kept as JSON (``write_edits``) and applied elsewhere.
        log_apjn: ``log J(0 -> L)`` predicted with it.
        log_apjn_before: and without.
        target: that was asked for.
        branch_share: ``1 - K_0 / K_L`` predicted with it: what of the final variance the branches hold.
        why: in a sentence.
        kept: names of norms of the blocks that it was not made for, as ``keep`` and ``only`` left them out.
    """

    kind: Kind
    value: float
    edits: tuple[Edit, ...]
    log_apjn: float
    log_apjn_before: float
    target: float
    branch_share: float
    why: str
    kept: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def alphas(self) -> tuple[float, ...]:
        """Of the norms of the blocks, in order; empty where they are left alone, or scaled as they are."""
        return tuple(edit.value for edit in self.edits if isinstance(edit, Alpha) and edit.at != "final")

    @property
    def final_alpha(self) -> float | None:
        """Of norms after the last block, ``None`` where they are left alone."""
        return next((edit.value for edit in self.edits if isinstance(edit, Alpha) and edit.at == "final"), None)

    @property
    def branch_scale(self) -> float:
        """1 where branches are left alone."""
        return math.prod(edit.factor for edit in self.edits if isinstance(edit, BranchGain))

    @property
    def gain(self) -> float:
        """1 where weights are left alone."""
        return math.prod(edit.factor for edit in self.edits if isinstance(edit, WeightGain))

    def record(self) -> dict[str, Any]:
        """As it is printed and written."""
        short = {name: getattr(self, name) for name in ("alphas", "final_alpha", "branch_scale", "gain")}
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            "kind": kept.pop("kind"),
            "value": kept.pop("value"),
            **short,
            **kept,
            "edits": edits_record(self.edits),
        }


def edits_of_kind(kind: Kind, value: float) -> tuple[Edit, ...]:
    """What a value of a kind means, before it is known of each norm."""
    kinds: dict[Kind, Callable[[float], Edit]] = {
        "constant": Alpha, "alpha-scale": AlphaGain, "schedule": Schedule, "branch-scale": BranchGain, "gain": WeightGain
    }  # fmt: skip
    return (kinds[kind](value),)


def alpha_edits(alphas: Sequence[float], final: float | None) -> tuple[Edit, ...]:
    """One for each norm of the blocks, and that of the norms after them."""
    each = tuple(Alpha(float(alpha), number) for number, alpha in enumerate(alphas))
    return each if final is None else (*each, Alpha(final, "final"))


@checked
def prescribe(
    network: Network,
    inputs: Kernel | Sequence[Kernel],
    target: float | str = PRE_LAYER_NORM,
    kind: Kind = "schedule",
    *,
    samples: Samples = 8,
    seed: Seed = 0,
) -> Prescription:
    """Solve for the value of one kind of prescription.

    A root of the cheap theory of equivalent tokens starts the search, and its slope the steps of Newton's method on the
    full theory of the inputs given.  ``log J`` rises with every kind's value, so that this is also the largest value
    that stays within the target.

    Args:
        network: with pointwise norms (``constant``, ``alpha-scale``, ``schedule``) or any.
        inputs: kernels at its start, as for ``propagate``.
        target: ``log J(0 -> L)``, or that of the same network with LayerNorm: ``"preln"``, or ``"preln-tokens"`` with its
            class token's share.
        kind: what is to be changed.
        samples, seed: of the theory of attention.

    Raises:
        ValueError: an unknown kind; a target that is not positive or out of reach; a network without pointwise norms.
    """
    kernels = _listed(inputs)

    def exact(changed: Network) -> Any:
        return propagate(changed, kernels, samples=samples, seed=seed)

    wanted = log_apjn_of_target(network, kernels, target, samples=samples, seed=seed)
    cheap = _cheap_theory(network, kernels)

    def cheap_at(log_value: float) -> float:
        changed = changed_network(network, cheap.inputs, kind, math.exp(log_value))
        return float(cheap.profile(changed).log_apjn[0]) - wanted

    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    start = root_between(cheap_at, low, high, kind, wanted)
    slope = (cheap_at(start + 0.02) - cheap_at(start - 0.02)) / 0.04
    log_value = start
    for _ in range(8):
        changed = changed_network(network, kernels, kind, math.exp(log_value))
        profile = exact(changed)
        miss = float(profile.log_apjn[0]) - wanted
        if abs(miss) < _CLOSE_ENOUGH:
            break
        log_value -= float(np.clip(miss / slope, -0.7, 0.7))
    else:
        raise UnreachableError(
            f"target={target!r} must be reached by kind={kind!r}, but the search ends {miss:+.3f} from it"
        )
    value = math.exp(log_value)
    before = float(exact(network).log_apjn[0])
    return _prescription(changed, profile, kind, value, before, wanted, _why(kind, value, target, wanted))


def _listed(inputs: Kernel | Sequence[Kernel]) -> list[Kernel]:
    return [inputs] if isinstance(inputs, Kernel) else list(inputs)


@checked
def log_apjn_of_target(
    network: Network, kernels: Sequence[Kernel], target: float | str, *, samples: int = 8, seed: int = 0
) -> float:
    """The number that a target stands for.

    Raises:
        ValueError: a target that is neither a positive, finite number nor one of those names.
    """
    if target == PRE_LAYER_NORM:
        return float(_cheap_theory(network, kernels).profile(with_layer_norm(network)).log_apjn[0])
    if target == PRE_LAYER_NORM_TOKENS:
        return float(propagate(with_layer_norm(network), kernels, samples=samples, seed=seed).log_apjn[0])
    try:
        wanted = float(target)
    except (ValueError, OverflowError):
        wanted = math.nan
    if not (math.isfinite(wanted) and wanted > 0):
        near = meant(target, (PRE_LAYER_NORM, PRE_LAYER_NORM_TOKENS))
        raise ArgumentError(f"target={shown(target)} must be a log J above 0, 'preln' or 'preln-tokens'{near}")
    return wanted


def with_layer_norm(network: Network) -> Network:
    """The same network with LayerNorm in the place of every norm of the stream."""
    return edited(network, [OtherNorm("ln")])


def changed_network(network: Network, inputs: Sequence[Kernel], kind: Kind, value: float) -> Network:
    """The network with one kind of prescription applied, its norms' alphas set one after the other along the stream.

    Raises:
        UndescribedError: ``constant``, ``alpha-scale`` or ``schedule`` for a network without pointwise norms, ``branch-scale`` for
            post-norm.
    """
    try:
        return edited(network, edits_of_kind(kind, value), inputs)
    except UndescribedError as error:
        raise UndescribedError(f"kind={kind!r} must fit the network: {error}") from None


@dataclass(frozen=True)
class _Theory:
    """A theory that is quick enough to look for a root with."""

    inputs: list[Kernel]
    samples: int

    def profile(self, network: Network) -> Any:
        return propagate(network, self.inputs, samples=self.samples)


def _cheap_theory(network: Network, kernels: Sequence[Kernel]) -> _Theory:
    """Equivalent tokens where the network allows, else two score samples."""
    symmetric = SymmetricKernel.mean_of(kernels)
    try:
        propagate(network, symmetric)
    except TokensNotEquivalentError:
        return _Theory(list(kernels), 2)
    return _Theory([symmetric], 2)


def root_between(
    function: Callable[[float], float], low: float, high: float, kind: str, wanted: float, tolerance: float = 1e-4
) -> float:
    """By Brent's method, from an interval that grows from one upwards and downwards until it holds the root."""
    left = right = 0.0
    at_left = at_right = function(0.0)
    while at_left > 0 and left > low:
        left -= 0.5
        at_left = function(left)
    while at_right < 0 and right < high:
        right += 0.5
        at_right = function(right)
    if at_left > 0 or at_right < 0:
        raise UnreachableError(
            f"target={wanted:.4g} must be within reach of kind={kind!r}: log J from {wanted + at_left:.3g} at value"
            f" {math.exp(left):.2g} to {wanted + at_right:.3g} at {math.exp(right):.2g}"
        )
    return left if left == right else float(brentq(function, left, right, xtol=tolerance))


def _prescription(
    changed: Network, profile: Any, kind: Kind, value: float, before: float, target: float, why: str
) -> Prescription:
    q = profile.q.values
    edits = edits_of_kind(kind, value)
    if kind in ("constant", "schedule"):
        edits = alpha_edits(alphas_of(changed), value if kind == "constant" else value / math.sqrt(float(q[-1])))
    return Prescription(
        kind=kind,
        value=value,
        edits=edits,
        log_apjn=float(profile.log_apjn[0]),
        log_apjn_before=before,
        target=target,
        branch_share=float(1 - q[0] / q[-1]),
        why=why,
    )


def _why(kind: Kind, value: float, target: float | str, wanted: float) -> str:
    aim = f"log J(0->L) = {wanted:.2f}" + (
        ", that of the same network with LayerNorm" if target in (PRE_LAYER_NORM, PRE_LAYER_NORM_TOKENS) else ""
    )
    reasons = {
        "constant": f"the largest alpha within {aim}, as log J rises with alpha",
        "alpha-scale": f"every alpha times {value:.3f}, their ratios kept: the largest within {aim}, as log J rises with alpha",
        "schedule": f"alpha_l = {value:.3f} / sqrt(K_l) keeps alpha^2 K the same at every depth, which makes log J"
        " a power law of"
        f" depth; {value:.3f} gives {aim}",
        "branch-scale": f"branches scaled by {value:.3f} add less variance and less gradient; this one gives {aim}",
        "gain": f"weights scaled by {value:.3f} make every susceptibility smaller or larger; this gain gives {aim}",
    }
    return reasons[kind]


@checked
def trade_off(
    network: Network, inputs: Kernel | Sequence[Kernel], kind: Kind, values: Sequence[float]
) -> list[dict[str, float]]:
    """What each value costs and buys: ``value``, ``log_apjn`` and ``branch_share``, by the cheap theory.

    Raises:
        ValueError: as ``changed_network``.
    """
    cheap = _cheap_theory(network, _listed(inputs))
    rows = []
    for value in values:
        profile = cheap.profile(changed_network(network, cheap.inputs, kind, value))
        share = float(1 - profile.q[0] / profile.q[-1])
        rows.append({"value": value, "log_apjn": float(profile.log_apjn[0]), "branch_share": share})
    return rows


@checked
def least_amplification(
    network: Network, inputs: Kernel | Sequence[Kernel], branch_share: Positive, *, samples: Samples = 8, seed: Seed = 0
) -> Prescription:
    """The constant alpha and branch scale that amplify least while the branches hold a given share of the variance.

    For each alpha the scale is solved for the share, by the cheap theory; alpha is then the minimum of ``log J``.

    Raises:
        ValueError: a share outside (0, 1), out of reach, or a network without pointwise norms.
    """
    if not 0 < branch_share < 1:
        raise ArgumentError(f"branch_share={branch_share!r} must be between 0 and 1")
    kernels = _listed(inputs)
    cheap = _cheap_theory(network, kernels)

    def scaled(log_alpha: float, log_scale: float) -> Network:
        changed = changed_network(network, cheap.inputs, "constant", math.exp(log_alpha))
        return changed_network(changed, cheap.inputs, "branch-scale", math.exp(log_scale))

    def scale_for(log_alpha: float) -> float:
        def excess(log_scale: float) -> float:
            q = cheap.profile(scaled(log_alpha, log_scale)).q.values
            return float(1 - q[0] / q[-1]) - branch_share

        return root_between(excess, math.log(_LOWEST), math.log(_HIGHEST), "branch-scale", branch_share)

    def cost(log_alpha: float) -> float:
        return float(cheap.profile(scaled(log_alpha, scale_for(log_alpha))).log_apjn[0])

    best = minimize_scalar(cost, bounds=(math.log(0.05), math.log(5.0)), method="bounded", options={"xatol": 1e-2})
    alpha, scale = math.exp(best.x), math.exp(scale_for(best.x))
    changed = changed_network(changed_network(network, kernels, "constant", alpha), kernels, "branch-scale", scale)
    profile = propagate(changed, kernels, samples=samples, seed=seed)
    before = float(propagate(network, kernels, samples=samples, seed=seed).log_apjn[0])
    why = f"of all alphas and branch scales that leave {branch_share:.0%} of the variance to the branches, those of least log J"
    found = _prescription(changed, profile, "constant", alpha, before, float(profile.log_apjn[0]), why)
    return replace(found, edits=(*found.edits, BranchGain(scale)))


@checked
def scheduled_log_apjn(
    pointwise: Pointwise, c: Positive, depth: Count, weight_variance: Scale = 1.0, q0: Start = 1.0
) -> float:
    """``log J(0 -> depth)`` of ``x + W phi(alpha_l x)``, ``alpha_l = c / sqrt(K_l)``, in closed form.

    ``K_l = q_0 + l v``, ``v = sigma^2 V(c^2)``, and ``chi_l = 1 + a / K_l``, ``a = sigma^2 c^2 D(c^2)``: a ratio of Gamma
    functions, ``J ~ L^(a / v)``.
    """
    unit = Pointwise(pointwise.phi, alpha=1.0)
    v = weight_variance * float(unit.V(c * c))
    a = weight_variance * c * c * float(unit.D(c * c))
    x, y = q0 / v, (q0 + a) / v
    return float(gammaln(depth + y) - gammaln(y) - gammaln(depth + x) + gammaln(x))
