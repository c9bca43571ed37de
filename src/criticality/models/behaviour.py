"""What a module does to a stream, found by running it on random numbers: a norm, a pointwise function, or neither.

No name of a class or of a parameter decides anything.  A *normalization* does not see the scale of its input along one axis
and is ``factor (offset + w) x_hat + b`` there, with ``x_hat`` the input over its root mean square, or over its deviation
from the mean; ``offset`` is 1 for weights that are kept as differences from 1 (Gemma's).  A *pointwise norm* is, entry by
entry, ``factor (offset + w) phi(alpha x + shift) + b``.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from criticality.models.normalizers import DynamicPointwise
from criticality.models.pointwise_behaviour import as_pointwise
from criticality.models.probing import Probe, undisturbed
from criticality.models.roles import Gain, agree, biases_of, effective_gain

Kind = Literal["layer norm", "rms norm", "pointwise"]


@dataclass(frozen=True)
class Behaviour:
    """A norm, as it was seen to act.

    Attributes:
        kind: ``layer norm`` (the mean is taken away), ``rms norm`` or ``pointwise``.
        width: channels; ``None`` where any number will do.
        axis: of the channels: -1, or 1 for images.
        gain: what scales the output.
        bias: name of the parameter that is added, if any.
        epsilon: of a normalization.
        function: of a pointwise norm, by name; ``None`` for one that is not built in.
        alpha: name of the parameter, or the number.
        shift: name of the parameter, if any.
    """

    kind: Kind
    width: int | None
    axis: int
    gain: Gain
    bias: str | None = None
    epsilon: float = 0.0
    function: str | None = None
    alpha: str | float = 1.0
    shift: str | None = None


@dataclass(frozen=True)
class Otherwise:
    """No norm of a stream, and why.

    Attributes:
        kind: ``batch`` or ``several axes`` for norms that average otherwise, ``unseen`` for what does not run on one tensor,
            ``none`` for everything else.
        reason: to be read after the module's name and "must".
    """

    kind: Literal["batch", "several axes", "unseen", "none"]
    reason: str


def behaviour(module: nn.Module) -> Behaviour | Otherwise:
    """What a module does, by running a copy of it on random inputs ``(3, 5, width)`` and ``(3, width, 5, 2)``.

    Anything that it raises means that it is no norm of one tensor.
    """
    if type(module) is DynamicPointwise:
        return _own(module)
    kind = type(module).__name__
    unseen = Otherwise("unseen", f"run on one tensor for it to be seen what it does, and a {kind} does not:"
                       " whether it scales by its weight or scales by 1 + weight is not known")  # fmt: skip
    if _takes_more(module):
        return Otherwise("unseen", f"act on one tensor, and a {kind} takes others, too")
    if _no_vectors(module):
        return Otherwise("none", f"hold vectors of one length at most, and a {kind} holds others")
    with undisturbed():
        try:
            probe = Probe(module)
            return _identified(probe, module) or _averaging(probe, module) or unseen
        except Exception:  # somebody's own code, run on what it need not take
            return unseen


def _own(module: DynamicPointwise) -> Behaviour:
    return Behaviour(
        "pointwise",
        module.width,
        1 if module.channels_first else -1,
        Gain(None if module.weight is None else "weight"),
        None if module.bias is None else "bias",
        function=module.function,
        alpha="alpha",
        shift=None if module.shift is None else "shift",
    )


def _takes_more(module: nn.Module) -> bool:
    """Whether it may be called with more than the stream, such as a gate."""
    try:
        taken = inspect.signature(type(module).forward).parameters.values()
    except (TypeError, ValueError):
        return False
    named = [one for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return len(named) > 2  # itself and the stream


def _no_vectors(module: nn.Module) -> bool:
    """Whether its parameters are more than vectors and numbers, or vectors over several axes that are all of one shape."""
    shapes = [tuple(parameter.shape) for parameter in module.parameters()]
    matrices = [shape for shape in shapes if sum(size > 1 for size in shape) > 1]
    return bool(matrices) and len(set(shapes)) > 1


def widths(module: nn.Module) -> list[int]:
    """Numbers of channels that a module may take: the lengths of its vectors, else whole numbers among its attributes."""
    lengths = dict.fromkeys(p.numel() for p in module.parameters() if p.numel() > 1)
    if lengths:
        return list(lengths)
    given: dict[int, None] = {}
    for part in module.modules():
        for value in vars(part).values():
            value = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
            if isinstance(value, int) and not isinstance(value, bool) and 1 < value <= 2**16:
                given[value] = None
    return [*given, 8] if 8 not in given else list(given)


def _identified(probe: Probe, module: nn.Module) -> Behaviour | Otherwise | None:
    ran = False
    for width in widths(module):
        for shape, axis in (((3, 5, width), -1), ((3, width, 5, 2), 1), ((3, width, 5), 1)):
            x = probe.normal(shape)
            if not probe.steady(x, probe):
                continue
            ran = True
            found = _as_norm(probe, x, axis, module)
            pointwise = None if found else as_pointwise(probe, x, axis)
            if found is not None:
                return found
            if pointwise is not None:
                vectors = any(value.numel() > 1 for value in probe.values.values())
                return Behaviour(
                    "pointwise",
                    width if vectors else None,
                    axis if vectors else -1,
                    pointwise.gain,
                    pointwise.bias,
                    function=pointwise.function,
                    alpha=pointwise.alpha,
                    shift=pointwise.shift,
                )
    if not ran:
        return None
    return _averaging(probe, module) or Otherwise(
        "none", f"normalize along one axis or act entry by entry, and a {type(module).__name__} does neither"
    )


def _as_norm(probe: Probe, x: Tensor, axis: int, module: nn.Module) -> Behaviour | None:
    """Of one axis, at inputs so large that its epsilon does not matter."""
    large = 100 * (x + 0.3)
    value = probe(large)
    sizes = [1 if number == axis % x.ndim else size for number, size in enumerate(x.shape)]
    if not agree(probe(large * (0.5 + probe.uniform(tuple(sizes)))), value) or agree(value, probe(large.flip(0))):
        return None
    centred = agree(probe(large + 100 * probe.normal(tuple(sizes))), value)
    biases = biases_of(probe, large, probe.normal(x.shape) * 100)
    if len(biases) > 1:
        return None
    zero = {name: torch.zeros_like(probe.values[name]) for name in biases}

    def output(changes: dict[str, Tensor]) -> Tensor:
        return probe(large, {**changes, **zero})

    unit = normalized(large, axis, centred)
    gain = effective_gain(probe, output, unit, axis, zero)
    if gain is None:
        return None
    free = all(value.numel() < 2 for value in probe.values.values()) and probe.steady(
        x.repeat_interleave(2, axis), probe
    )
    return Behaviour(
        "layer norm" if centred else "rms norm",
        None if free else x.shape[axis],
        axis,
        gain,
        next(iter(biases), None),
        _epsilon(probe, x, axis, centred, zero, module),
    )


def normalized(x: Tensor, axis: int, centred: bool) -> Tensor:
    """``x`` over its root mean square along an axis, its mean taken away first or not."""
    x = x - x.mean(axis, keepdim=True) if centred else x
    return x / x.square().mean(axis, keepdim=True).sqrt()


def _epsilon(probe: Probe, x: Tensor, axis: int, centred: bool, zero: dict[str, Tensor], module: nn.Module) -> float:
    """From how the output falls short of that of a large input when the input is small; 0 when it does not."""
    x = x - x.mean(axis, keepdim=True) if centred else x
    second = x.square().mean(axis, keepdim=True)
    large = probe(100 * x, zero)
    for exponent in range(1, -9, -1):
        size = 10.0**exponent
        small = probe(size * x, zero)
        ratio = (small * large).sum(axis, keepdim=True) / large.square().sum(axis, keepdim=True)
        if float(ratio.mean()) < 0.9:
            if float(ratio.mean()) < 0.01:
                break
            found = (size**2 * second * (ratio**-2 - 1)).median()
            return _rounded(float(found), module)
    return 0.0


def _rounded(epsilon: float, module: nn.Module) -> float:
    """The number that was meant, if the module or torch has one that is within two per cent."""
    own = [value for part in module.modules() for value in vars(part).values() if isinstance(value, float)]
    types = [torch.finfo(dtype).eps for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    for value in (*own, *types, *(10.0**-power for power in range(1, 13))):
        if abs(value - epsilon) <= 0.02 * abs(epsilon):
            return float(value)
    return epsilon


def _mixes_samples(probe: Probe, x: Tensor) -> bool:
    """Whether, in training mode, the output of one sample depends on the others; not so by chance, as with dropout."""

    def first(value: Tensor) -> Tensor:
        return probe(value, training=True)[:1]

    if not probe.steady(x, lambda value: probe(value, training=True)) or not agree(first(x), first(x)):
        return False
    return not agree(first(x), first(torch.cat([x[:1], 3 * x[1:] + 50])))


def _averaging(probe: Probe, module: nn.Module) -> Otherwise | None:
    """Norms over the batch, groups or several axes."""
    kind = type(module).__name__
    shapes = {tuple(value.shape) for value in probe.values.values()}
    several = [shape for shape in shapes if sum(size > 1 for size in shape) > 1]
    tried = [(3, *shape) for shape in several] or [
        shape for width in widths(module) for shape in ((3, width, 4, 2), (3, width, 4), (6, width), (3, 5, width))
    ]
    for shape in tried:
        x = 100 * (probe.normal(shape) + 0.3)
        if not probe.steady(x, probe):
            continue
        if _mixes_samples(probe, x):
            return Otherwise("batch", f"be a LayerNorm or RMSNorm, but is a {kind}, which averages over the batch")
        scale = torch.tensor([0.5, 1.0, 2.0]).repeat(x.shape[0] // 3).view(-1, *[1] * (x.ndim - 1))
        if agree(probe(x * scale), probe(x)) and not agree(probe(x), probe(x.flip(0))):
            if several:
                axes = " x ".join(map(str, several[0]))
                return Otherwise(
                    "several axes", f"act on one axis of channels, but is a {kind} that averages over {axes}"
                )
            return Otherwise("several axes", f"be a LayerNorm or RMSNorm, but is a {kind}, which averages otherwise")
    return None


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
