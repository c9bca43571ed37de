"""Kernels over tokens at both ends of a stream: of the values where it starts, and of the gradients that a loss sends back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from criticality.arguments import Seed, checked
from criticality.measurement.axes import stream_axes
from criticality.measurement.points import Points, points_asked_for, resolved
from criticality.measurement.profile import Under
from criticality.measurement.seen import Seen
from criticality.measurement.starts import loss_gradient
from criticality.measurement.statistics import token_kernels
from criticality.shapes import Float
from criticality.stream import Call, trace
from criticality.stream.find import watch
from criticality.stream.untouched import placed, untouched


@checked
def input_kernels(
    model: nn.Module, inputs: Any, *, points: Points = None, device: torch.device | str | None = None
) -> Float[np.ndarray, "batch tokens tokens"]:
    """Kernels ``x_a . x_b / width`` at the first point of the stream, float64.

    Raises:
        ValueError: as ``measure``.
    """
    with placed(model, inputs, device, None) as ready, untouched(model):
        seen = Seen()
        found = trace(model, ready, seen, required=resolved(model, points)[1])
        asked, chain = points_asked_for(model, found, points)
        node, call = found.node(asked[0]), found.layout.call(asked[0].node)
        axes = stream_axes(model, ready, found, chain, asked, None)
        first = seen.value(node)
        streams = [] if first is None else [first]

        def note(one: Call, tensor: Tensor) -> None:
            if call is not None and one.number == call.number:
                streams.append(tensor.detach().clone())

        if first is None:
            watch(model, ready, note)
    return token_kernels(streams[0], axes)


@checked
def output_kernels(
    model: nn.Module, inputs: Any, *, points: Points = None, seed: Seed = 0, under: Under | None = None
) -> Float[np.ndarray, "batch tokens tokens"]:
    """Kernels ``delta_a . delta_b / width`` at the last point of the stream of the gradient of a cross entropy of random labels.

    What final norm, pooling and head of the model send back: where ``measure(..., probe="loss")`` starts.

    Args:
        model, inputs, points: as for ``measure``.
        seed: of the labels.
        under: makes the context that the model is run in, of one that has no weights.

    Raises:
        InputsError: an output without classes.
        ValueError: as ``measure``.
    """
    with placed(model, inputs, None, None) as ready, untouched(model):
        found = trace(model, ready, under=None if under is None else under(), required=resolved(model, points)[1])
        asked, chain = points_asked_for(model, found, points)
        axes = stream_axes(model, ready, found, chain, asked, under)
        edge = GradientEdge(found.node(asked[-1]), 0)
        (gradient,) = torch.autograd.grad(found.output, edge, loss_gradient(found.output, seed, 0))
    return token_kernels(gradient, axes)
