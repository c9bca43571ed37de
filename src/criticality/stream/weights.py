"""Which weights are used along a stream, and which of their axes are summed over."""

from __future__ import annotations

from typing import Any

from torch import nn

from criticality.stream.find import Chain, Trace

WeightAxes = dict[str, tuple[int, ...]]
"""By the name of a parameter the axes that its product sums over."""


def branch_weights(model: nn.Module, found: Trace, chain: Chain) -> WeightAxes:
    """Weight matrices of the branches of a chain, as the data flow uses them.

    Those in the same part of the model that this pass did not use, such as experts that no token went to, are taken to
    be used as the last axis of theirs is by ``torch.nn.functional.linear``.
    """
    layout = found.layout
    first, last = chain.steps[0].start, chain.steps[-1].join
    used: WeightAxes = {}
    for node in (*chain.flow.inside(first, last), last):
        call = layout.call(node)
        for name, axes in ({} if call is None else call.contracted).items():
            if layout.is_matrix(name):
                used.setdefault(name, axes)
    if not chain.name:
        return used
    for name, parameter in model.named_parameters():
        inside = name.startswith(f"{chain.name}.") and layout.is_matrix(name) and name not in used
        if inside and _alike(name, parameter, model, used):
            used[name] = (-1,)
    return used


def _alike(name: str, parameter: Any, model: nn.Module, used: WeightAxes) -> bool:
    """Whether a parameter of the same last name and shape is used as a matrix whose last axis is summed over."""
    last = name.rpartition(".")[2]
    return any(
        other.rpartition(".")[2] == last and axes == (-1,) and model.get_parameter(other).shape == parameter.shape
        for other, axes in used.items()
    )
