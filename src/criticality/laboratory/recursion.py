"""The residual recursion ``x <- mu x + W n(x) + b`` of several runs at once, forward and backward written by hand.

One stack holds ``runs`` networks of the same shape, which differ in their seeds (weights and data).  A layer of all of them is
one batched product, without autograd, which takes half of autograd's time on one core.

``n(x) = gamma phi(alpha x + shift) + beta`` with a pointwise normalizer, ``gamma LN(x) + beta`` with LayerNorm or RMSNorm;
without ``affine`` there are no gamma and beta, and ``n(x) = phi(x)`` or ``phi(LN x)`` as in Doshi, He, Gromov (2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-6
"""Of LayerNorm and RMSNorm."""

_UNDERFLOW = -80.0
"""Exponents are cut here: the vectorized exponential takes thirty times as long where its result is no normal number."""

Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]
"""``phi`` of ``u``, and ``g phi'`` from ``(g, u, phi(u))``, in the place of ``g``."""


def _power(p: float) -> Pair:
    """``sign(u) ((1 + |u|)^p - 1) / p``: ``|u|^p / p`` far out, slope 1 at 0."""

    def value(u: Tensor) -> Tensor:
        return torch.copysign(torch.expm1(p * torch.log1p(u.abs())) / p, u)

    return value, lambda g, u, y: g.mul_(u.abs().log1p_().mul_(p - 1).exp_())


def _gelu_back(g: Tensor, u: Tensor, _: Tensor) -> Tensor:
    slope = 0.5 * (1 + torch.erf(u / math.sqrt(2))) + u * torch.exp((-0.5 * u * u).clamp_min_(_UNDERFLOW)) / math.sqrt(
        2 * math.pi
    )
    return g.mul_(slope)


POINTWISE: dict[str, Pair] = {
    "tanh": (torch.tanh, lambda g, u, y: g.addcmul_(g * y, y, value=-1)),
    "erf": (
        torch.erf,
        lambda g, u, y: g.mul_((u * u).neg_().clamp_min_(_UNDERFLOW).exp_().mul_(2 / math.sqrt(math.pi))),
    ),
    "relu": (torch.relu, lambda g, u, y: g.mul_(u > 0)),
    "gelu": (torch.nn.functional.gelu, _gelu_back),
    "power-1/2": _power(1 / 2),
    "power-2/3": _power(2 / 3),
    "power-3/4": _power(3 / 4),
}
ALIASES = {"dyt": "tanh", "derf": "erf"}
LAYER_NORMS = ("ln", "rms")


@dataclass(frozen=True)
class Shape:
    """Of a stack.

    Attributes:
        runs: networks in it.
        depth, width: residual layers and channels.
        inputs, classes: sizes at both ends.
        norm: ``ln``, ``rms``, ``none`` or a name in ``POINTWISE`` or ``ALIASES``.
        activation: name in ``POINTWISE`` applied after ``ln``, ``rms`` or ``none``; ``None`` for none.
        mu: of the skip path.
        affine: whether norms have gamma and beta, and pointwise ones a learned alpha (erf: and shift).
    """

    runs: int
    depth: int
    width: int
    inputs: int
    classes: int
    norm: str
    activation: str | None
    mu: float
    affine: bool

    @property
    def function(self) -> str | None:
        """Name of the pointwise function of a layer."""
        name = self.norm if self.norm not in (*LAYER_NORMS, "none") else self.activation
        return None if name is None else ALIASES.get(name, name)

    @property
    def scaled(self) -> bool:
        """Whether the function has a learned alpha."""
        return self.norm not in (*LAYER_NORMS, "none")

    def sections(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, what is decayed first."""
        layers, runs, width = self.depth, self.runs, self.width
        found: dict[str, tuple[int, ...]] = {
            "weight": (layers, runs, width, width),
            "embedding": (runs, self.inputs, width),
            "readout": (runs, width, self.classes),
            "bias": (layers, runs, 1, width),
            "embedding_bias": (runs, 1, width),
            "readout_bias": (runs, 1, self.classes),
        }
        if self.affine:
            found |= {"gamma": (layers + 1, runs, 1, width), "beta": (layers + 1, runs, 1, width)}
        if self.scaled:
            found["alpha"] = (layers + 1, runs, 1, 1)
            if self.function == "erf":
                found["shift"] = (layers + 1, runs, 1, 1)
        return found


MATRICES = ("weight", "embedding", "readout")
"""Sections that weight decay is for: as in the published recipes not on biases, gammas and alphas."""


class Stack:
    """Parameters and gradients of a stack, each in one flat tensor, and the recursion on them.

    Attributes:
        shape: of the stack.
        flat, gradient: ``(parameters,)``.
        decayed: how many parameters at the front of ``flat`` are matrices.
        p, g: views of them by section, shapes as in ``Shape.sections``.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"):
        self.shape = shape
        sizes = {name: math.prod(size) for name, size in shape.sections().items()}
        total = sum(sizes.values())
        self.flat, self.gradient = (torch.zeros(total, dtype=dtype, device=device) for _ in range(2))
        self.decayed = sum(sizes[name] for name in MATRICES)
        self.p, self.g = _views(self.flat, shape), _views(self.gradient, shape)
        self._pair = None if shape.function is None else POINTWISE[shape.function]
        self._kept: list[tuple[Tensor, ...]] = []

    def initialize(
        self,
        seeds: Sequence[int],
        sigma_w: float | Sequence[float],
        sigma_b: float | Sequence[float],
        alphas: Sequence[float] | Sequence[Sequence[float]],
    ) -> None:
        """Weights ``N(0, sigma_w^2 / width)``, biases ``N(0, sigma_b^2)``, both ends fan-in: each run by its seed.

        Args:
            seeds: ``(runs,)``.
            sigma_w, sigma_b: of all runs, or ``(runs,)``.
            alphas: ``(depth + 1,)`` of all runs, or ``(runs, depth + 1)``.
        """
        s = self.shape
        if s.affine:
            self.p["gamma"].fill_(1.0)
        if s.scaled:
            given = torch.tensor(np.array(alphas), dtype=self.flat.dtype).expand(s.runs, s.depth + 1)
            self.p["alpha"].copy_(given.T.reshape(-1, s.runs, 1, 1))
        of_weights, of_biases = (np.broadcast_to(np.asarray(given, float), s.runs) for given in (sigma_w, sigma_b))
        deviations = {
            "embedding": np.full(s.runs, s.inputs**-0.5),
            "weight": of_weights * s.width**-0.5,
            "bias": of_biases,
            "readout": np.full(s.runs, s.width**-0.5),
        }
        for seed in dict.fromkeys(seeds):
            draw = torch.Generator().manual_seed(int(seed))
            places = [run for run, other in enumerate(seeds) if other == seed]
            for name, deviation in deviations.items():
                view = self.p[name].transpose(0, -3)  # runs first
                noise = torch.randn(view.shape[1:], generator=draw, dtype=self.flat.dtype).to(self.flat.device)
                for run in places:
                    view[run].copy_(noise * float(deviation[run]))

    def views_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Another flat tensor of as many entries by section; the axis of runs is the third from the end."""
        return _views(flat, self.shape)

    # --- forward ------------------------------------------------------------------------------------------------------

    def normalized(self, layer: int, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``n(x)`` of a layer (``depth``: the last norm) and what its backward pass needs."""
        s = self.shape
        u, root = x, x
        if s.norm in LAYER_NORMS:
            u = x - x.mean(-1, keepdim=True) if s.norm == "ln" else x
            root = torch.rsqrt(u.square().mean(-1, keepdim=True) + EPSILON)
            u = u * root
        elif s.scaled:
            u = x * self.p["alpha"][layer]
            if "shift" in self.p:
                u = u + self.p["shift"][layer]
        y = u if self._pair is None else self._pair[0](u)
        n = torch.addcmul(self.p["beta"][layer], y, self.p["gamma"][layer]) if s.affine else y
        return n, (x, u, y, n, root)

    def stream(self, x: Tensor, keep: bool = False) -> list[Tensor]:
        """Points of the stream ``(runs, batch, width)`` at ``0 .. depth`` from inputs ``(runs, batch, inputs)``."""
        s = self.shape
        self._kept = []
        points = [torch.baddbmm(self.p["embedding_bias"], x, self.p["embedding"])]
        for layer in range(s.depth):
            before = points[-1]
            n, kept = self.normalized(layer, before)
            skip = torch.add(self.p["bias"][layer], before, alpha=s.mu)
            points.append(torch.baddbmm(skip, n, self.p["weight"][layer]))
            if keep:
                self._kept.append(kept)
        return points

    def logits(self, x: Tensor, keep: bool = False) -> Tensor:
        """``(runs, batch, classes)``."""
        n, kept = self.normalized(self.shape.depth, self.stream(x, keep)[-1])
        if keep:
            self._kept.append(kept)
        return torch.baddbmm(self.p["readout_bias"], n, self.p["readout"])

    # --- backward -----------------------------------------------------------------------------------------------------

    def loss_and_gradient(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy ``(runs,)`` and logits; fills ``gradient`` with that of the sum over runs.

        Args:
            x: ``(runs, batch, inputs)``.
            labels: ``(runs, batch)``.
        """
        logits = self.logits(x, keep=True)
        log_p = torch.log_softmax(logits, -1)
        chosen = labels.unsqueeze(-1)
        loss = -log_p.gather(-1, chosen).squeeze(-1).mean(-1)
        by_logits = log_p.exp()
        by_logits.scatter_add_(-1, chosen, torch.full_like(chosen, -1, dtype=by_logits.dtype))
        by_logits /= labels.shape[-1]
        kept = self._kept[-1]
        torch.bmm(kept[3].transpose(1, 2), by_logits, out=self.g["readout"])
        torch.sum(by_logits, 1, keepdim=True, out=self.g["readout_bias"])
        delta = self._through_norm(
            self.shape.depth, torch.bmm(by_logits, self.p["readout"].transpose(1, 2)), kept, store=True
        )
        for layer in range(self.shape.depth - 1, -1, -1):
            kept = self._kept[layer]
            torch.bmm(kept[3].transpose(1, 2), delta, out=self.g["weight"][layer])
            torch.sum(delta, 1, keepdim=True, out=self.g["bias"][layer])
            delta = self._step_back(layer, delta, kept, store=True)
        torch.bmm(x.transpose(1, 2), delta, out=self.g["embedding"])
        torch.sum(delta, 1, keepdim=True, out=self.g["embedding_bias"])
        self._kept = []
        return loss, logits

    def back_to_start(self, delta: Tensor) -> list[Tensor]:
        """``delta`` at ``depth``, taken back to every point ``0 .. depth``, after ``stream(x, keep=True)``."""
        found = [delta]
        for layer in range(self.shape.depth - 1, -1, -1):
            found.append(self._step_back(layer, found[-1], self._kept[layer], store=False))
        return found[::-1]

    def _step_back(self, layer: int, delta: Tensor, kept: tuple[Tensor, ...], store: bool) -> Tensor:
        by_n = torch.bmm(delta, self.p["weight"][layer].transpose(1, 2))
        through = self._through_norm(layer, by_n, kept, store)
        return through.add_(delta, alpha=self.shape.mu)

    def _through_norm(self, layer: int, by_n: Tensor, kept: tuple[Tensor, ...], store: bool) -> Tensor:
        """From the gradient by ``n(x)``, which is overwritten, to that by ``x``."""
        s = self.shape
        x, u, y, _, root = kept
        if s.affine:
            if store:
                torch.sum(by_n * y, 1, keepdim=True, out=self.g["gamma"][layer])
                torch.sum(by_n, 1, keepdim=True, out=self.g["beta"][layer])
            by_n.mul_(self.p["gamma"][layer])
        by_u = by_n if self._pair is None else self._pair[1](by_n, u, y)
        if s.norm in LAYER_NORMS:
            inner = torch.addcmul(by_u, u, (by_u * u).mean(-1, keepdim=True), value=-1)
            if s.norm == "ln":
                inner -= by_u.mean(-1, keepdim=True)
            return inner.mul_(root)
        if s.scaled:
            if store:
                torch.sum((by_u * x).flatten(1), 1, out=self.g["alpha"][layer].view(-1))
                if "shift" in self.g:
                    torch.sum(by_u.flatten(1), 1, out=self.g["shift"][layer].view(-1))
            by_u.mul_(self.p["alpha"][layer])
        return by_u

    def slopes(self, layer: int, x: Tensor) -> Tensor:
        """``(phi'(u) / phi'(0))^2`` of a layer at stream ``x``, ``(runs, batch, width)``; 1 where there is no function."""
        if self._pair is None:
            return torch.ones_like(x)
        _, (_, u, _, _, _) = self.normalized(layer, x)
        return relative_slope(self._pair, u)


def relative_slope(pair: Pair, u: Tensor) -> Tensor:
    """``(phi'(u) / phi'(0))^2``, ``phi'(u)^2`` of a function that is flat at 0."""
    value, back = pair
    zero = torch.zeros(1, dtype=u.dtype, device=u.device)
    at_zero = float(back(torch.ones_like(zero), zero, value(zero)))
    return back(torch.ones_like(u), u, value(u)).div_(at_zero or 1.0).square_()


def _views(flat: Tensor, shape: Shape) -> dict[str, Tensor]:
    views, at = {}, 0
    for name, size in shape.sections().items():
        count = math.prod(size)
        views[name] = flat[at : at + count].view(size)
        at += count
    return views
