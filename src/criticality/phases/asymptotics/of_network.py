"""The law of a network, by the tails of its norms: which closed form applies to it."""

from __future__ import annotations

import math

from criticality.arguments import Start, checked
from criticality.errors import ArgumentError
from criticality.phases.asymptotics.blocks import power_law, stretched_law
from criticality.phases.asymptotics.laws import ExponentialLaw, Law, PowerLaw, StretchedLaw
from criticality.phases.asymptotics.one_branch import crossover_depth, stretched_growth
from criticality.phases.depth import BlockStep, ResidualStep
from criticality.phases.tails import slope_diverges, tail_of
from criticality.pointwise import Pointwise
from criticality.theory.norms import LayerNorm, NoNorm, PointwiseNorm


@checked
def law_of(step: ResidualStep | BlockStep, q0: Start = 1.0) -> Law | None:
    """What ``log J`` comes to at great depth, as far as it is known without a recursion; ``None`` where it is not.

    One branch: LayerNorm and every pointwise function whose tail is known. Blocks of pre-norm sub-layers: all with LayerNorms, or
    these and bounded functions; one branch without any norm makes them exponential, at a rate that is not given here.

    Args:
        step: one layer, or the block of a network of equivalent tokens.
        q0: variance of the input.

    Raises:
        ValueError: as ``tail_of``.
    """
    if isinstance(step, BlockStep):
        return _of_block(step, q0)
    if isinstance(step.norm, LayerNorm):
        grown = step.weight_variance * (step.norm.gamma**2 + step.norm.beta**2) + step.bias_variance
        exponent = step.weight_variance * step.norm.gamma**2 / grown if grown else 0.0
        return PowerLaw(exponent, exponent)
    if isinstance(step.norm, NoNorm):
        return ExponentialLaw(math.log1p(step.weight_variance)) if step.weight_variance else PowerLaw(0.0, 0.0)
    return _of_function(step, step.norm.pointwise, q0) if isinstance(step.norm, PointwiseNorm) else None


def _of_function(step: ResidualStep, pointwise: Pointwise, q0: float) -> Law | None:
    if pointwise.shift or slope_diverges(pointwise.phi):
        return None
    tail, weight = tail_of(pointwise.phi), step.weight_variance * pointwise.gamma**2
    bias = step.bias_variance + step.weight_variance * pointwise.beta**2
    crossover = _crossover(pointwise, weight, q0) if not bias else math.nan
    if tail.growth == "bounded" and math.isfinite(tail.slope_integral) and weight:
        growth = stretched_growth(pointwise.phi, pointwise.alpha, weight, bias)
        return StretchedLaw(0.5, growth.rate, growth.logarithm, crossover_depth=crossover)
    if bias:  # of other tails the coefficients are known without one
        return None
    kind, exponent, coefficient = tail.expected(pointwise.alpha, weight)
    if kind == "power":
        return PowerLaw(exponent, exponent)
    if kind == "stretched":
        return StretchedLaw(exponent, coefficient, crossover_depth=crossover)
    return ExponentialLaw(coefficient)


def _crossover(pointwise: Pointwise, weight: float, q0: float) -> float:
    try:
        return crossover_depth(pointwise.phi, pointwise.alpha, weight, q0)
    except ArgumentError:  # no linear regime
        return math.nan


def _of_block(step: BlockStep, q0: float) -> Law | None:
    block = step.network.last_block
    norms = [norm for part in block for norm in part.entry_norms]
    if any(part.placement != "pre" for part in block):
        return None
    if any(isinstance(norm, NoNorm) for norm in norms):
        return ExponentialLaw(math.nan)
    if all(isinstance(norm, LayerNorm) for norm in norms):
        return power_law(step)
    for norm in norms:
        if isinstance(norm, LayerNorm):
            continue
        if not isinstance(norm, PointwiseNorm) or slope_diverges(norm.pointwise.phi):
            return None
        tail = tail_of(norm.pointwise.phi)
        if tail.growth != "bounded" or not math.isfinite(tail.slope_integral):
            return None
    return stretched_law(step, q0)
