"""Which axes of a stream are samples, tokens and channels, read from the data flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from criticality.measurement.statistics import Axes, Moments, stream_moments
from criticality.stream import Call, Chain, Point, Trace
from criticality.stream.find import watch

Moment = Moments

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_CHANNELS_FIRST = ("conv1d", "conv2d", "conv3d", "_convolution", "batch_norm", "group_norm", "instance_norm")


def layouts(shape: Sequence[int]) -> list[Axes | None]:
    """Layouts that a stream of some shape may have, the usual one first."""
    if len(shape) == 3:
        return [Axes(0, 2), Axes(1, 2)] if shape[0] > 1 and shape[1] > 1 else [Axes(0, 2)]
    if len(shape) >= 4:
        return [Axes(0, len(shape) - 1), Axes(0, 1)]
    return [None]


def moment_of(tensor: Tensor) -> dict[Axes | None, Moment]:
    """Moments in every layout that a tensor may have."""
    return {axes: stream_moments(tensor, axes) for axes in layouts(tensor.shape)}


def moment(tensor: Tensor, axes: Axes | None) -> Moment:
    """Moments in one layout, or in the usual one where a tensor cannot have that."""
    choices = layouts(tensor.shape)
    return stream_moments(tensor, axes if axes in choices else choices[0])


def stream_axes(
    model: nn.Module,
    inputs: Any,
    found: Trace,
    chain: Chain | None,
    points: Sequence[Point],
    under: Callable[[], AbstractContextManager[Any]] | None,
) -> Axes | None:
    """The layout of a stream, by its first point.

    Channels are what the first weight or norm of the first branch contracts.  The batch axis of a stream with three axes
    is the one of the two that is as long as the batch of a convolution before it; without one it is the first one, unless
    what is at one place reaches others along it: nan is put there, and a pass goes on until it has spread, to a point or,
    where the sizes of the two axes tell them apart, to any value that has them.
    """
    shape = points[0].shape
    choices = layouts(shape)
    if len(choices) == 1:
        return choices[0]
    if len(shape) >= 4:
        return choices[1] if chain is not None and _channels_first(found, chain) else choices[0]
    batch = _convolved(found, points[0])
    if batch in shape[:2] and shape[0] != shape[1]:
        return choices[tuple(shape[:2]).index(batch)]
    return choices[1] if _mixes_first_axis(model, inputs, found, points, under) else choices[0]


def _channels_first(found: Trace, chain: Chain) -> bool:
    """Whether the first weight or norm of the first branch is one of convolutions, seen through a permutation."""
    step = chain.steps[0]
    permuted = False
    for node in chain.flow.inside(step.start, step.join):
        call, name = found.layout.call(node), found.layout.name(node)
        permuted ^= name.startswith("Permute")
        if call is None:
            continue
        if call.function in _CHANNELS_FIRST:
            return not permuted
        if found.layout.heavy(node) or call.function in ("layer_norm", "rms_norm"):
            return permuted
    return False


def _convolved(found: Trace, start: Point) -> int | None:
    """Samples in the first convolution before a point, which torch counts by the first axis."""
    point = found.layout.call(start.node)
    for call in found.layout.record.calls.values():
        if point is not None and call.number >= point.number:
            break
        if call.function in _CONVOLUTIONS and 0 in call.shapes:
            shape = call.shapes[0]
            return shape[0] if len(shape) == int(call.function[4]) + 2 else None
    return None


def _mixes_first_axis(
    model: nn.Module,
    inputs: Any,
    found: Trace,
    points: Sequence[Point],
    under: Callable[[], AbstractContextManager[Any]] | None,
) -> bool:
    """Whether the value at one place of the first two axes reaches others along the first: then tokens are counted by it."""
    start = found.layout.call(points[0].node)
    later = {call.number for point in points[1:] if (call := found.layout.call(point.node)) is not None}
    shape = tuple(points[0].shape)
    begun = mixes = False

    def note(call: Call, tensor: Tensor) -> None:
        nonlocal begun, mixes
        if start is not None and call.number == start.number:
            tensor.data[0, 0] = float("nan")
            begun = True
        elif call.number in later or (begun and shape[0] != shape[1] and tensor.shape[:2] == shape[:2]):
            value = tensor.detach().isnan()
            mixes = bool(value[1:].any())
            if mixes or bool(value[:, 1:].any()):
                raise _Decided

    with suppress(_Decided), _evaluating(model):
        watch(model, inputs, note, under() if under else None)
    return mixes


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode inside: a batch norm that normalizes by its batch mixes along all axes."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Decided(Exception):  # noqa: N818  (a signal, not an error)
    """Ends a forward pass: it has shown what was asked."""
