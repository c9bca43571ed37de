"""One forward and one backward pass: gradients and moments at every point of a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from criticality.arguments import checked
from criticality.errors import NotFiniteError, ZeroGradientError, model_failed
from criticality.measurement.axes import Moment, moment, stream_axes
from criticality.measurement.points import Points, points_asked_for, resolved
from criticality.measurement.seen import Seen
from criticality.measurement.starts import loss_gradient, token_probe
from criticality.measurement.statistics import Axes, token_kernels
from criticality.probes import Probe
from criticality.shapes import Float
from criticality.stream import Call, Point, Trace, trace
from criticality.stream.find import watch
from criticality.stream.points import OPAQUE
from criticality.stream.record import Record
from criticality.stream.tensors import node_name
from criticality.stream.untouched import fresh_batch_norms

Under = Callable[[], AbstractContextManager[Any]]
"""Makes the context that a model is run in, such as a mode that takes its weights' place; a new one for each pass."""


@dataclass(frozen=True)
class Profile:
    """What was measured of one model with one set of weights.

    Attributes:
        chain: name of the stream, and those of all that were found.
        points: in order.
        log_apjn: ``log J(l -> L)`` for each probe, ``(probes, points)``.
        moments: ``q``, ``p`` and the correlation, ``(3, points)``.
        side_inputs: held fixed along the depth.
        blocked: where values are added through which no gradient passes.
        resumed: where values come from that the stream begins with, as no gradient passes from the inputs to them.
        batch_statistics: number of batch norms that used those of the batch, as they have seen no data.
        training: whether the model was in training mode.
        width: channels of the stream at the first point.
        start: kernels over tokens at the first point, ``(batch, tokens, tokens)``; ``None`` where they were not asked for.
    """

    chain: str
    chains: tuple[str, ...]
    points: tuple[Point, ...]
    log_apjn: Float[np.ndarray, "probes points"]
    moments: Float[np.ndarray, "3 points"]
    side_inputs: tuple[str, ...]
    blocked: tuple[str, ...]
    resumed: tuple[str, ...]
    batch_statistics: int
    training: bool
    width: int
    start: Float[np.ndarray, "batch tokens tokens"] | None = None


@checked
def profile(
    model: nn.Module,
    inputs: Any,
    points: Points,
    chain: str | None,
    probes: int,
    seed: int,
    under: Under | None = None,
    probe: Probe = "normal",
    kernels: bool = False,
) -> Profile:
    """Measure a model whose parameters are frozen, in the mode that it is in; ``kernels`` asks for those at the first point.

    Raises:
        StreamNotFoundError, InputsError, ModelFailedError: as ``trace``; a ``chain`` that is not there.
        NotFiniteError: a point or a gradient that is not finite, or a gradient that is 0.
    """
    seen, fresh = Seen(), len(fresh_batch_norms(model))  # counted before any of them sees a batch
    points, required = resolved(model, points)
    found = trace(model, inputs, seen, under() if under else None, required)
    asked, of_chain = points_asked_for(model, found, points, chain)
    nodes = [found.node(point) for point in asked]
    axes = stream_axes(model, inputs, found, of_chain, asked, under)
    runs = _Runs(model, inputs, under)
    start, moments = _moments(runs, found, seen, asked, axes, kernels)
    _check_finite(runs, asked, moments[0])
    log_apjn = np.log(
        [gradient_norms(found, nodes, asked, seed, n, n + 1 < probes, probe, axes) for n in range(probes)]
    )
    side_inputs = of_chain.side_inputs if of_chain is not None else ()
    names = tuple(one.name for one in found.chains)
    return Profile(
        chain=of_chain.name if of_chain is not None else "",
        chains=names,
        points=tuple(asked),
        log_apjn=log_apjn,
        moments=moments,
        side_inputs=side_inputs,
        blocked=blocked(found),
        resumed=found.resumed,
        batch_statistics=fresh,
        training=model.training,
        width=asked[0].shape[-1 if axes is None else axes.channels],
        start=start,
    )


_UNKNOWN = Moment(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class _Runs:
    """A model that is run again where one pass has not shown all that is asked."""

    model: nn.Module
    inputs: Any
    under: Under | None

    def watch(self, note: Callable[[Call, Tensor], None]) -> Record:
        return watch(self.model, self.inputs, note, self.under() if self.under else None)


def _moments(
    runs: _Runs, found: Trace, seen: Seen, points: Sequence[Point], axes: Axes | None, kernels: bool
) -> tuple[np.ndarray | None, np.ndarray]:
    """Kernels at the first point where they are asked for, and moments ``(3, points)``; of values that were not held by one more
    pass."""
    nodes = [found.node(point) for point in points]
    first = seen.value(nodes[0])
    start = token_kernels(first, axes) if kernels and first is not None else None
    known = seen.moments(nodes, axes)
    calls = {
        point.node: found.layout.call(point.node)
        for point in points
        if found.node(point) not in known or (kernels and start is None and point is points[0])
    }
    missing = {call.number: found.layout.graph.nodes[number] for number, call in calls.items() if call is not None}

    def note(call: Call, tensor: Tensor) -> None:
        nonlocal start
        if call.number in missing:
            node = missing[call.number]
            known[node] = moment(tensor, axes)
            start = token_kernels(tensor, axes) if kernels and node is nodes[0] else start

    if missing:
        runs.watch(note)
    return start, np.array([known.get(node, _UNKNOWN) for node in nodes]).T


def _check_finite(runs: _Runs, points: Sequence[Point], q: np.ndarray) -> None:
    """Raise for a stream that is not finite, naming the module in which it first is not."""
    bad = [point for point, value in zip(points, q, strict=True) if np.isinf(value) or np.isnan(value)]
    if not bad:
        return
    first: list[Call] = []

    def note(call: Call, tensor: Tensor) -> None:
        if not first and not bool(torch.isfinite(tensor.detach()).all()):
            first.append(call)

    record = runs.watch(note)
    if not first:
        return  # a value that no call was seen to make
    if first[0].function == "input":
        raise NotFiniteError("inputs must be finite, and hold nan or inf")
    place = record.visits[first[0].visit].name if first[0].visit >= 0 else ""
    raise NotFiniteError(
        f"point '{bad[0].name}' must be finite, but the model returns nan or inf there"
        f"{f', first in {place!r} ({first[0].function})' if place else ''}"
    )


def blocked(found: Trace) -> tuple[str, ...]:
    """Where values are added to a stream through which no gradient passes: quantized or detached branches."""
    nodes = (call.node for call in found.layout.record.calls.values() if call.blocked and call.function in _SUMS)
    numbers = (found.layout.graph.number[node] for node in nodes if node in found.layout.graph.number)
    cuts = {cut for chain in found.chains for cut in chain.flow.cuts}
    return tuple(found.layout.label(number) for number in numbers if number in cuts)


_SUMS = ("add", "add_", "sub", "__add__", "__iadd__", "__radd__")


def gradient_norms(
    found: Trace,
    nodes: Sequence[Node],
    points: Sequence[Point],
    seed: int,
    number: int,
    retain: bool,
    probe: Probe = "normal",
    axes: Axes | None = None,
) -> list[float]:
    """``|d(u . x^L) / d x^l|^2 / |u|^2`` at every point for one gradient ``u`` at the last; the last is 1.

    Norms are taken as the gradients go by, so that none is kept.

    Args:
        probe: what ``u`` is, see ``criticality.probes``; ``axes``, of the stream, say where its tokens are.

    Raises:
        NotFiniteError: a gradient that is not finite, or, as ``ZeroGradientError``, 0.
        ModelFailedError: the backward pass raised, such as for values that the model has overwritten.
        ValueError: as ``probe_kernel``.
    """
    of_loss = isinstance(probe, str) and probe == "loss"
    if of_loss:
        end: Tensor | GradientEdge = found.output
        u = loss_gradient(found.output, seed, number)
    else:
        end = GradientEdge(nodes[-1], 0)
        u = token_probe(probe, points[-1].shape, axes, seed, number, found.output)
        u = u.to(_dtype_at(nodes[-1], u.dtype))
    try:
        squares = _squares(found, nodes, end, u, retain)
    except RuntimeError as error:
        said = str(error).strip().partition("\n")[0].partition(". Hint")[0]
        raise model_failed(
            f"model must be differentiable between its points, and the backward pass from {points[-1].name!r} to"
            f" {points[0].name!r} raised {type(error).__name__}: {said}",
            error,
        ) from error
    size = squares[nodes[-1]] if of_loss else squared_norm(u)
    norms = [squares[node] / size if size else 0.0 for node in nodes[:-1]] + [1.0]
    _check_gradients(norms, points, u.dtype)
    return norms


def _squares(
    found: Trace, nodes: Sequence[Node], end: Tensor | GradientEdge, u: Tensor, retain: bool
) -> dict[Node, float]:
    """Squared norms of the gradients at the nodes for ``u`` at the end; that of the last node where the end comes after it."""
    squares = dict.fromkeys(nodes, 0.0)

    def note(node: Node) -> Callable[[tuple[Tensor | None, ...]], None]:
        def hook(gradients: tuple[Tensor | None, ...]) -> None:
            squares[node] = sum(squared_norm(gradient) for gradient in gradients if gradient is not None)

        return hook

    watched = nodes if isinstance(end, Tensor) else nodes[:-1]
    handles = [node.register_prehook(note(node)) for node in dict.fromkeys(watched)]
    opaque = any(node_name(node) == OPAQUE for node in found.layout.graph.nodes)
    try:
        start = GradientEdge(nodes[0], 0)
        if opaque:  # reentrant checkpoints refuse autograd.grad
            torch.autograd.backward(end, u, retain_graph=retain)
        else:
            (gradient,) = torch.autograd.grad(end, start, u, retain_graph=retain, allow_unused=True)
            squares[nodes[0]] = 0.0 if gradient is None else squared_norm(gradient)
    finally:
        for handle in handles:
            handle.remove()
    return squares


def _check_gradients(norms: Sequence[float], points: Sequence[Point], dtype: torch.dtype) -> None:
    bad = [index for index, value in enumerate(norms) if not (np.isfinite(value) and value > 0)]
    if not bad:
        return
    zero = norms[bad[-1]] == 0
    cure = "; try dtype=torch.float64"
    if dtype == torch.float64:
        cure = "; no value of this point reaches the end on these inputs" if zero else ""
    raise (ZeroGradientError if zero else NotFiniteError)(
        f"gradient at point {bad[-1]} ({points[bad[-1]].name!r}) must be finite and not 0 in {dtype}, got a"
        f" squared norm of {norms[bad[-1]]}{cure}"
    )


def _dtype_at(node: Node, default: torch.dtype) -> torch.dtype:
    """Of the values of a node, which under autocast is not that of the output."""
    metadata = getattr(node, "_input_metadata", None)
    return metadata[0].dtype if metadata else default


def squared_norm(tensor: Tensor) -> float:
    """Squared norm: rows in the tensor's precision, or float32 where that is less, the sum over rows in float64."""
    rows = tensor.detach()
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return float(torch.linalg.vector_norm(rows, dim=-1).double().square().sum())
