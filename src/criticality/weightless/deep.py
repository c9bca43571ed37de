"""A block of any model run to any depth with fresh weights each time, without being built more than once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from criticality.errors import InputsError, NotFiniteError, UnknownLawError
from criticality.measurement.points import chain_named
from criticality.measurement.profile import squared_norm
from criticality.measurement.starts import normal_probe
from criticality.shapes import Float
from criticality.stream import trace
from criticality.stream.blocks import BlockCall, Run, repeated_blocks
from criticality.stream.find import eager
from criticality.stream.untouched import untouched
from criticality.weightless.copies import Copies
from criticality.weightless.law import Law
from criticality.weightless.laws import measured_law
from criticality.weightless.prepared import Prepared, sources_of_weights
from criticality.weightless.sampling import WeightsIntegratedOut
from criticality.weightless.weight import RandomWeight

__all__ = [
    "Deep",
    "run_deep",
]

Mode = Literal["auto", "forward", "backward"]

_SEGMENT = 32
"""Blocks between two values of the stream that are kept; those between are computed again on the way back."""


@dataclass(frozen=True)
class Deep:
    """``log J(0 -> L)`` of blocks that are repeated with fresh weights.

    Attributes:
        run: which blocks.
        depths: ``L`` in blocks, as far as the stream stays finite.
        log_apjn: at these, ``(depths,)``.
        q: mean square of the stream there.
        mode: of the derivatives, ``forward`` or ``backward``.
    """

    run: Run
    depths: tuple[int, ...]
    log_apjn: Float[np.ndarray, " depths"]
    q: Float[np.ndarray, " depths"]
    mode: str


def run_deep(
    ready: Prepared,
    depths: Sequence[int],
    *,
    chain: str | None = None,
    mode: Mode = "auto",
    q0: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Deep:
    """``J(0 -> L)`` for several ``L``, of the blocks of a model repeated from the value that its own stream has before them.

    ``forward`` sends a random direction along, ``J(0 -> L) = E_v |J v|^2 / |v|^2``: one pass gives all ``L``, nothing is kept, and
    what one block adds to ``log J`` is known far better than the sum.  ``backward`` is for functions that torch cannot
    differentiate forward: a pass forward keeps the stream at every 32nd block, and the way back goes block by block, with one
    gradient for each ``L`` that was passed.  Both scale to length 1 after each block and add up the logarithms of the
    scales, so that nothing overflows, and of neither more than one block is ever alive.

    Args:
        ready: the model; random parameters of any size are drawn anew in each block where it was built with ``at_least=2``.
        depths: whole numbers, 1 or above.
        chain: name of the residual stream, as for ``measure``.
        mode: ``forward``, ``backward``, or ``auto``: backward where forward is not possible.
        q0: mean square that the value before the blocks is scaled to; by default it is as it is.
        progress: called with the number of blocks that the forward pass has come on.

    Raises:
        InputsError: another mode; depths that are not whole numbers, 1 or above; ``q0`` for a value before the blocks that is 0.
        StreamNotFoundError: no block that can be repeated; as ``trace``.
        NotFiniteError: the stream is not finite before the first of the depths, or a gradient is 0.
    """
    wanted = sorted(set(depths))
    if not wanted or any(int(depth) != depth or depth < 1 for depth in wanted):
        raise InputsError(f"depths={list(depths)!r} must be whole numbers, 1 or above")
    if mode not in ("auto", "forward", "backward"):
        raise InputsError(f"mode={mode!r} must be 'auto', 'forward' or 'backward'")
    with untouched(ready.model), eager():
        found = trace(ready.model, ready.inputs, under=ready.under())
        used = {name for call in found.layout.record.calls.values() for name in call.contracted}
        ready = _with_laws(ready, used)
        run = repeated_blocks(
            ready.model,
            ready.inputs,
            found,
            chain_named(ready.model, found, chain),
            trait,
            ready.under(),
        )
        run = replace(run, tied=run.tied or _copied(run, ready))
        del found
        way = _Way(run, ready, q0, progress)
        if mode != "backward":
            try:
                return way.forward(wanted)
            except (NotImplementedError, RuntimeError) as error:
                if mode == "forward" or not _no_forward_mode(error):
                    raise
        return way.there_and_back(wanted)


def _no_forward_mode(error: BaseException) -> bool:
    """Whether a function has no forward derivative, as torch says it of its own and of somebody's."""
    said = str(error).lower()
    return "forward ad" in said or "forward-mode" in said or "jvp" in said or isinstance(error, _NoTangentError)


class _NoTangentError(RuntimeError):
    """Nothing of the direction arrives: it was lost in a function without a forward derivative, or J is 0."""


def trait(parameter: Tensor) -> Hashable:
    """What a parameter is drawn from, to a hundredth of its size; of one that is no constant and holds numbers nothing."""
    if isinstance(parameter, RandomWeight):
        law = parameter.law
        size = math.sqrt(law.second_moment)
        return float(f"{size:.2g}"), round(law.mean / size, 1) + 0.0 if size else 0.0
    numbers = parameter.detach().flatten()
    constant = len(numbers) > 0 and bool((numbers == numbers[0]).all())
    return float(f"{float(numbers[0]):.6g}") if constant else "numbers"


def _with_laws(ready: Prepared, used: set[str]) -> Prepared:
    """Weights of products that hold numbers, small ones too, stand for their laws: repeated, they would be tied."""
    parameters = dict(ready.model.named_parameters())
    computed_from = {id(one) for one in sources_of_weights(ready.model)}
    for name in sorted(used):
        if id(parameters[name]) in computed_from:
            raise InputsError(
                f"parameter {name!r} must be a weight for its block to be repeated with fresh ones, and is what torch computes a"
                " weight from: keep the weight itself, with `parametrize.remove_parametrizations(module, 'weight')`"
            )
    held = [parameters[name] for name in sorted(used) if not isinstance(parameters[name], RandomWeight)]
    laws: dict[Tensor, Law] = {
        one: measured_law(one) for one in held if one not in ready.laws and trait(one) == "numbers"
    }
    return replace(ready, laws={**ready.laws, **laws}) if laws else ready


def _copied(run: Run, ready: Prepared) -> bool:
    """Whether the model gives one weight to several of the blocks, as copies of each other have it."""
    copies: Copies[BlockCall] = Copies()
    for one in run.calls:
        laws = {
            weight: weight.law if isinstance(weight, RandomWeight) else ready.laws.get(weight)
            for weight in one.module.parameters()
        }
        try:
            copied = any(law is not None and copies.original(weight, law) for weight, law in laws.items())
        except UnknownLawError:
            return True
        if copied:
            return True
        for weight, law in laws.items():
            if law is not None:
                copies.add(weight, law, one)
    return False


class _Way:
    """Blocks one after the other, by number."""

    def __init__(self, run: Run, ready: Prepared, q0: float | None, progress: Callable[[int], None] | None):
        self.run, self.seed, self.q0, self.progress = run, ready.seed, q0, progress
        self.modes = [WeightsIntegratedOut(_of(one, ready.laws), seed=ready.seed) for one in run.calls]
        self.after = np.cumsum([one.blocks for one in run.calls])

    def forward(self, wanted: Sequence[int]) -> Deep:
        """One pass with a random direction."""
        ends = {self._calls_to(depth): depth for depth in wanted}
        x = self._first()
        v = normal_probe(x.shape, self.seed, 0, x)
        size, log_norm = squared_norm(v), 0.0
        found: dict[int, tuple[float, float]] = {}
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for number in range(max(ends)):
                with forward_ad.dual_level():
                    y, tangent = forward_ad.unpack_dual(self._step(number, forward_ad.make_dual(x, v / size**0.5)))
                if tangent is None:
                    raise _NoTangentError(f"no direction arrives after {self._name(number)!r}")
                size, q = squared_norm(tangent), squared_norm(y) / y.numel()
                if not (math.isfinite(q) and math.isfinite(size)):
                    break
                self._check(number, size)
                log_norm += math.log(size)
                x, v = y, tangent
                if number + 1 in ends:
                    found[number + 1] = log_norm, q
                self._tell(number)
        return self._deep(ends, found, "forward")

    def there_and_back(self, wanted: Sequence[int]) -> Deep:
        """A pass forward that keeps values, and one back from each end."""
        ends = {self._calls_to(depth): depth for depth in wanted}
        kept, q = self._there(sorted(ends))
        log_apjn = self._back(kept, sorted(q)) if q else {}
        return self._deep(ends, {calls: (log_apjn[calls], q[calls]) for calls in q}, "backward")

    def _deep(self, ends: dict[int, int], found: dict[int, tuple[float, float]], mode: str) -> Deep:
        if not found:
            raise NotFiniteError(
                f"stream of the repeated blocks must be finite for one block at least, and is not after {min(ends)} calls of"
                f" {self._name(0)!r}"
            )
        log_apjn, q = np.array([found[calls] for calls in sorted(found)]).T
        return Deep(self.run, tuple(ends[calls] for calls in sorted(found)), log_apjn, q, mode)

    def _first(self) -> Tensor:
        value = self.run.calls[0].value
        assert value is not None  # the arguments of every call were watched
        if self.q0 is None:
            return value
        q = squared_norm(value) / value.numel()
        if q == 0:
            raise InputsError(f"q0={self.q0!r} must be left out, as the value before {self._name(0)!r} is 0")
        return value * (self.q0 / q) ** 0.5

    def _name(self, number: int) -> str:
        return self.run.names[number % len(self.run.calls)]

    def _check(self, number: int, size: float) -> None:
        if not (math.isfinite(size) and size > 0):
            raise NotFiniteError(
                f"gradient at block {number} ({self._name(number)!r}) must be finite and not 0, got a squared norm of {size} from"
                " one of length 1; try a model in torch.float64"
            )

    def _calls_to(self, depth: int) -> int:
        """Calls to a depth in blocks: the first with which it is reached."""
        whole, rest = divmod(depth, int(self.after[-1]))
        return whole * len(self.after) + int(np.searchsorted(self.after, rest, side="left")) + (rest > 0)

    def _step(self, number: int, x: Tensor) -> Tensor:
        place = number % len(self.run.calls)
        mode = self.modes[place]
        mode.renew(number + 1)
        with mode:
            return self.run.calls[place](x)

    def _there(self, ends: Sequence[int]) -> tuple[dict[int, Tensor], dict[int, float]]:
        """The stream at every 32nd block, and its mean square at the ends, as far as it is finite."""
        x = self._first()
        kept: dict[int, Tensor] = {0: x}
        q: dict[int, float] = {}
        with torch.no_grad():
            for number in range(ends[-1]):
                x = self._step(number, x)
                self._tell(number)
                if number + 1 in ends or (number + 1) % _SEGMENT == 0:
                    mean = squared_norm(x) / x.numel()
                    if not math.isfinite(mean):
                        break
                    if number + 1 in ends:
                        q[number + 1] = mean
                    if (number + 1) % _SEGMENT == 0:
                        kept[number + 1] = x
        return kept, q

    def _back(self, kept: dict[int, Tensor], ends: Sequence[int]) -> dict[int, float]:
        """``log J(0 -> end)`` of each end."""
        log_norm = dict.fromkeys(ends, 0.0)
        gradients: dict[int, Tensor] = {}
        for begin in range((ends[-1] - 1) // _SEGMENT * _SEGMENT, -1, -_SEGMENT):
            values = [kept.pop(begin).detach()]
            stop = min(begin + _SEGMENT, ends[-1])
            with torch.no_grad():
                for number in range(begin, stop - 1):
                    values.append(self._step(number, values[-1]))
            for number in range(stop - 1, begin - 1, -1):
                x = values.pop().requires_grad_()
                y = self._step(number, x.clone())  # which a model may write to
                if number + 1 in log_norm:
                    probe = normal_probe(y.shape, self.seed, number, y)
                    gradients[number + 1] = probe / squared_norm(probe) ** 0.5
                self._one_back(number, x, y, gradients, log_norm)
        return log_norm

    def _one_back(
        self, number: int, x: Tensor, y: Tensor, gradients: dict[int, Tensor], log_norm: dict[int, float]
    ) -> None:
        for index, end in enumerate(gradients, 1):
            (gradient,) = torch.autograd.grad(
                y, x, gradients[end], retain_graph=index < len(gradients), allow_unused=True
            )
            gradient = torch.zeros_like(x) if gradient is None else gradient
            size = squared_norm(gradient)
            self._check(number, size)
            log_norm[end] += math.log(size)
            gradients[end] = gradient / size**0.5

    def _tell(self, number: int) -> None:
        if self.progress is not None:
            self.progress(self.run.calls[number % len(self.run.calls)].blocks)


def _of(one: BlockCall, laws: dict[Tensor, Law]) -> dict[Tensor, Law]:
    """The laws of a block's own parameters."""
    return {parameter: laws[parameter] for parameter in one.module.parameters() if parameter in laws}
