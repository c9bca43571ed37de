"""Read norms, projections and activations of torch modules as the theory's objects; every family's reader uses these."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from criticality.errors import CriticalityError, UndescribedError
from criticality.models.behaviour import Otherwise, behaviour
from criticality.models.initialization import SecondMoment
from criticality.models.roles import Gain
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, GatedMLP, HeadNorm, LayerNorm, NoNorm, PointwiseNorm, RMSNorm
from criticality.theory.norms import Norm


@contextmanager
def reading(model: str) -> Iterator[None]:
    """What is raised inside while a model is read means that the exact theory does not describe it.

    Raises:
        UndescribedError: in the place of any error of reading; kinds of the library's own go through.
    """
    try:
        yield
    except CriticalityError:
        raise
    except (ValueError, AssertionError, AttributeError, TypeError, LookupError, NotImplementedError) as error:
        said = str(error).strip().splitlines()
        raise UndescribedError(said[0] if said else f"{model} is not read: {type(error).__name__}") from error


_ACTIVATIONS = {
    "gelu": "gelu",
    "geluactivation": "gelu",
    "gelutanh": "gelu_tanh",
    "newgeluactivation": "gelu_tanh",
    "geluactivationtanh": "gelu_tanh",
    "pytorchgelutanh": "gelu_tanh",
    "fastgeluactivation": "gelu_tanh",
    "silu": "silu",
    "siluactivation": "silu",
    "relu": "relu",
    "tanh": "tanh",
    "identity": "identity",
}


def read_norm(norm: nn.Module, second: SecondMoment) -> Norm:
    """A norm of the stream, by what it does (``behaviour``).

    Raises:
        UndescribedError: a norm that the theory does not describe.
    """
    if isinstance(norm, nn.Identity):
        return NoNorm()
    seen = behaviour(norm)
    if isinstance(seen, Otherwise):
        raise UndescribedError(f"norm must be LayerNorm, RMSNorm or pointwise, but is a {type(norm).__name__}")
    gamma = _gamma(norm, seen.gain, second)
    beta = 0.0 if seen.bias is None else math.sqrt(second(norm.get_parameter(seen.bias)))
    if seen.kind != "pointwise":
        return (RMSNorm if seen.kind == "rms norm" else LayerNorm)(seen.epsilon, gamma, beta)
    if seen.function is None:
        raise UndescribedError(
            f"norm must be a built-in function of the stream, and a {type(norm).__name__} has the values of none"
        )
    alpha = math.sqrt(second(norm.get_parameter(seen.alpha))) if isinstance(seen.alpha, str) else seen.alpha
    shift = 0.0 if seen.shift is None else math.sqrt(second(norm.get_parameter(seen.shift)))
    return PointwiseNorm(Pointwise(seen.function, alpha=alpha, shift=shift, gamma=gamma, beta=beta))


def _gamma(norm: nn.Module, gain: Gain, second: SecondMoment) -> float:
    """Root mean square of what scales; of a difference from 1 that is only known by its law, the law's mean is taken for 0."""
    if gain.parameter is None:
        return abs(gain.factor)
    weight = norm.get_parameter(gain.parameter)
    if gain.offset == 0.0:
        return abs(gain.factor) * math.sqrt(second(weight))
    if weight.is_meta:
        return abs(gain.factor) * math.sqrt(gain.offset**2 + second(weight))
    return abs(gain.factor) * math.sqrt(second(gain.offset + weight.detach()))


def read_head_norm(norm: nn.Module | None, second: SecondMoment) -> HeadNorm | None:
    """A norm of queries or keys (QK-norm), ``None`` where there is none.

    Raises:
        UndescribedError: a norm that is neither LayerNorm nor RMSNorm.
    """
    if norm is None or isinstance(norm, nn.Identity):
        return None
    seen = behaviour(norm)
    if isinstance(seen, Otherwise) or seen.kind == "pointwise":
        raise UndescribedError(f"QK-norm must be LayerNorm or RMSNorm, but is a {type(norm).__name__}")
    return HeadNorm(seen.epsilon, _gamma(norm, seen.gain, second), centred=seen.kind == "layer norm")


def read_linear(linear: Any, second: SecondMoment) -> tuple[float, float]:
    """``fan_in Var(W)`` and ``Var(b)`` of a Linear layer or of GPT-2's Conv1D.

    Raises:
        ValueError: another kind of layer.
    """
    bias = 0.0 if getattr(linear, "bias", None) is None else second(linear.bias)
    return fan_in(linear) * second(linear.weight), bias


Projection = tuple[float, float]
"""``fan_in Var(W)`` and ``Var(b)``."""


def make_attention(
    query: Projection, key: Projection, value: Projection, output: Projection, **settings: Any
) -> Attention:
    """Attention from its four projections."""
    return Attention(query[0], key[0], value[0], output[0], query[1], key[1], value[1], output[1], **settings)


def make_gated_mlp(
    activation: Pointwise, gate: Projection, up: Projection, output: Projection, ratio: float
) -> GatedMLP:
    """A gated MLP from its three projections."""
    return GatedMLP(activation, gate[0], up[0], output[0], gate[1], up[1], output[1], ratio)


def read_mlp(inner: Any, outer: Any, activation: Pointwise, second: SecondMoment) -> MLP:
    """A plain MLP from its two layers."""
    (in_variance, in_bias), (out_variance, out_bias) = read_linear(inner, second), read_linear(outer, second)
    return MLP(activation, in_variance, out_variance, in_bias, out_bias, fan_in(outer) / fan_in(inner))


def read_fused(
    weight: Tensor, bias: Tensor | None, parts: int, channels: int, second: SecondMoment, axis: int = 0
) -> list[Projection]:
    """The projections that one fused layer of ``channels`` inputs holds, equal parts along an axis of its weight.

    On the meta device all parts are alike.
    """

    def moments(parameter: Tensor | None, along: int) -> list[float]:
        if parameter is None:
            return [0.0] * parts
        if parameter.is_meta:
            return [second(parameter)] * parts
        return [second(part) for part in parameter.chunk(parts, along)]

    return [(channels * w, b) for w, b in zip(moments(weight, axis), moments(bias, 0), strict=True)]


def fan_in(linear: Any) -> int:
    """Input channels of a Linear layer or of GPT-2's Conv1D.

    Raises:
        ValueError: another kind of layer.
    """
    if isinstance(linear, nn.Linear):
        return linear.in_features
    if type(linear).__name__ == "Conv1D":
        return int(linear.weight.shape[0])
    raise ValueError(f"projection must be a Linear layer, but is a {type(linear).__name__}")


def read_activation(activation: Any) -> Pointwise:
    """The pointwise function of an activation module.

    Raises:
        ValueError: an activation that is not built in.
    """
    name = type(activation).__name__.lower()
    if isinstance(activation, nn.GELU) and activation.approximate == "tanh":
        return Pointwise("gelu_tanh")
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(sorted(_ACTIVATIONS))}, but is {activation!r}")
    return Pointwise(_ACTIVATIONS[name])


def require_absent(part: nn.Module | Tensor | None, name: str) -> None:
    """Refuse a part of a model that the theory does not describe.

    Raises:
        ValueError: when it is there.
    """
    if part is not None and not isinstance(part, nn.Identity):
        raise ValueError(
            f"{name} of the model must be absent, as the theory does not describe it: {type(part).__name__}"
        )
