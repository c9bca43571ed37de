"""What one pass through a model shows of its norms and branches, read from the recorded calls: nothing is hooked into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import CheckpointFunction

from criticality.models.behaviour import Behaviour, behaviour
from criticality.pointwise import get_function
from criticality.prescription.handles import norm_sites
from criticality.stream import Call, Chain, Reader, Trace, trace
from criticality.stream.find import original, watch
from criticality.stream.untouched import placed, untouched

SAMPLED = 16_384
"""Entries of a value that its moments are estimated from."""


class NormState(NamedTuple):
    """Of a pointwise norm: its alpha, and ``E phi'(alpha x + shift)^2`` of what it sees, 1 where phi is linear."""

    alpha: float
    slope: float


@dataclass
class Seen:
    """What a pass showed.

    Attributes:
        positions: of the boundaries of blocks.
        points: their names.
        q: mean square of the stream at each.
        norms: of each pointwise norm of the stream before its last point, by name.
        shares: of what each block adds, relative to the stream after it, by the name of its last point.
    """

    positions: list[float] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    q: list[float] = field(default_factory=list)
    norms: dict[str, NormState] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without what compiles it or spreads its batches; its parameters are the same."""
    while True:
        inner = original(model)
        if isinstance(inner, (DataParallel, DistributedDataParallel)):
            inner = inner.module
        if inner is model:
            return model
        model = inner


class Watcher:
    """Looks at a model; what a module does is found out once."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._known: dict[str, Behaviour | None] = {}

    def look(self, inputs: Any) -> Seen:
        """One pass in evaluation mode, nothing changed by it.

        Raises:
            ValueError: as ``trace``.
        """
        samples: dict[int, Tensor] = {}

        def note(call: Call, tensor: Tensor) -> None:
            flat = tensor.detach().flatten()
            samples[call.number] = flat[:: max(1, flat.numel() // SAMPLED)].clone()

        with placed(self.model, inputs, None, None) as ready, untouched(self.model), _unfolded():
            found = trace(self.model, ready, note, required=False)
        seen = Seen()
        if found.chains:
            self._stream(found, found.chains[0], samples, seen)
            self._norms(found, found.chains[0], samples, seen)
        return seen

    def first_not_finite(self, inputs: Any) -> str:
        """Where in the model a value is nan or infinite first, for people; empty when none is."""
        first: list[Call] = []

        def note(call: Call, tensor: Tensor) -> None:
            if not first and not bool(torch.isfinite(tensor.detach()).all()):
                first.append(call)

        with placed(self.model, inputs, None, None) as ready, untouched(self.model), _unfolded():
            record = watch(self.model, ready, note)
        if not first:
            return ""
        inside = record.visits[first[0].visit].name if first[0].visit >= 0 else ""
        return f"{inside or type(self.model).__name__!r} ({first[0].function})"

    def _stream(self, found: Trace, chain: Chain, samples: dict[int, Tensor], seen: Seen) -> None:
        before: tuple[tuple[int, ...], Tensor] | None = None
        for point in chain.points:
            if not point.boundary:
                continue
            call = found.layout.call(point.node)
            value = samples.get(call.number) if call is not None else None
            seen.positions.append(point.position)
            seen.points.append(point.name)
            seen.q.append(float("nan") if value is None else float(value.double().square().mean()))
            if value is not None and before is not None and before[0] == point.shape:
                added = (value.double() - before[1].double()).square().mean()
                seen.shares[point.name] = float(added) / seen.q[-1] if seen.q[-1] else float("nan")
            before = None if value is None else (point.shape, value)

    def _norms(self, found: Trace, chain: Chain, samples: dict[int, Tensor], seen: Seen) -> None:
        reader, visits = Reader(found.layout, chain.flow), found.layout.record.visits
        entered: dict[str, Tensor] = {}
        for visit in visits:
            calls = (found.layout.record.calls.get(node) for node in visit.entered)
            values = [samples[call.number] for call in calls if call is not None and call.number in samples]
            if values:
                entered.setdefault(visit.name, values[0])
        for _, site in norm_sites(chain, reader, lambda name: name in entered and self._behaviour(name) is not None):
            for name in self._within(site.module, entered):
                if name not in seen.norms:
                    seen.norms[name] = self._state(name, entered[name])

    def _within(self, site: str, entered: dict[str, Tensor]) -> list[str]:
        """Pointwise norms at a site."""
        if not site:
            return []
        names = [name for name in entered if name == site or name.startswith(f"{site}.")]
        return [name for name in names if self._behaviour(name) is not None]

    def _behaviour(self, name: str) -> Behaviour | None:
        if name not in self._known:
            seen = behaviour(self.model.get_submodule(name))
            known = isinstance(seen, Behaviour) and seen.kind == "pointwise" and seen.function is not None
            self._known[name] = seen if known else None  # type: ignore[assignment]
        return self._known[name]

    def _state(self, name: str, sample: Tensor) -> NormState:
        module, seen = self.model.get_submodule(name), self._known[name]
        assert seen is not None
        assert seen.function is not None
        alpha, shift = _number(module, seen.alpha), _number(module, seen.shift or 0.0)
        derivative = get_function(seen.function).derivative
        with np.errstate(all="ignore"):
            slope = derivative(alpha * sample.double().cpu().numpy() + shift)
            at_zero = derivative(np.zeros(1))[0] or 1.0
            return NormState(alpha, float(np.mean((slope / at_zero) ** 2)))


def _number(module: nn.Module, given: str | float) -> float:
    return float(module.get_parameter(given).detach().double().mean()) if isinstance(given, str) else float(given)


@contextmanager
def _unfolded() -> Iterator[None]:
    """A context in which reentrant checkpoints run as they are written, so that what is inside them is seen."""

    def run(function: Any, preserve: bool, *args: Any) -> Any:
        return function(*args)

    CheckpointFunction.apply = staticmethod(run)
    try:
        yield
    finally:
        del CheckpointFunction.apply
