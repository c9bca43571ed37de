"""What a stack of networks is before its first step and what one step would do: sharpness, a step of signs, two near inputs."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from criticality.laboratory.data import fashion_mnist
from criticality.laboratory.recursion import Stack
from criticality.laboratory.residual_run import ResidualRun
from criticality.laboratory.stacked import PROBES, pixels_of

ADAM_EPSILON = 1e-8
_DIFFERENCE = 1e-5
"""Norm of the displacement whose gradients are differenced, in float64: third derivatives are of order ``1e-10``."""


def initial_values(
    run: ResidualRun, *, data_root: str | os.PathLike[str] | None = None, inputs: int = PROBES, iterations: int = 12
) -> dict[str, np.ndarray]:
    """Measured at initialization on the first validation images, each ``(seeds,)``.

    Args:
        run: which networks; rates and steps play no part.
        data_root: as for ``fashion_mnist``.
        inputs: images.
        iterations: of the power method, for each of both sharpnesses.

    Returns:
        ``log_apjn``; ``log_sharpness``, log of the largest absolute eigenvalue of the loss's Hessian (plain gradient descent is
        unstable above rate 2 / sharpness); ``log_adam_sharpness``, the same of ``P^-1/2 H P^-1/2`` with ``P = |g|``, what Adam's
        first step divides by (Cohen et al. 2022); ``log_sign_step``, log of the relative change of the last point of the stream by
        a step ``-rate sign(g)``, per rate; ``correlation_slope``, change of the correlation of two inputs at the end per change of
        it at the start of the stream.
    """
    data = fashion_mnist(data_root)
    stack = run.stack(torch.float64)
    shown = pixels_of(run, data)["validation"][:inputs].double()
    x = shown.expand(run.seeds, -1, -1)
    labels = data.validation.labels[: len(shown)].expand(run.seeds, -1)
    curvature = Curvature(stack, x, labels)
    scale = curvature.gradient.abs().add(ADAM_EPSILON).rsqrt()
    return {
        "log_apjn": log_apjn(stack, x),
        "log_sharpness": np.log(curvature.largest(iterations)),
        "log_adam_sharpness": np.log(curvature.largest(iterations, scale)),
        "log_sign_step": np.log(sign_step(stack, x, curvature.gradient)),
        "correlation_slope": correlation_slope(stack, x),
    }


class Curvature:
    """The Hessian of every run's loss, by central differences of gradients.

    Args:
        stack: networks, in float64.
        x, labels: ``(runs, inputs, pixels)`` and ``(runs, inputs)``.

    Attributes:
        gradient: of the losses, flat.
    """

    def __init__(self, stack: Stack, x: Tensor, labels: Tensor):
        self.stack, self._x, self._labels = stack, x, labels
        owner = torch.empty_like(stack.flat, dtype=torch.int64)
        for view in stack.views_of(owner).values():
            view.copy_(torch.arange(stack.shape.runs).view(-1, 1, 1).expand(view.shape))
        self._owner = owner
        self.gradient = self._gradient_at(stack.flat.clone())

    def by_run(self, values: Tensor) -> Tensor:
        """Sums over the parameters of each run, ``(runs,)``."""
        return torch.zeros(self.stack.shape.runs, dtype=values.dtype).index_add_(0, self._owner, values)

    def product(self, direction: Tensor) -> Tensor:
        """``H direction`` of every run at once."""
        norm = self.by_run(direction.square()).sqrt().clamp_min(1e-300)[self._owner]
        step = _DIFFERENCE * direction / norm
        here = self.stack.flat.clone()
        return (self._gradient_at(here + step) - self._gradient_at(here - step)) * (norm / (2 * _DIFFERENCE))

    def largest(self, iterations: int, scale: Tensor | None = None) -> np.ndarray:
        """Largest absolute eigenvalue of ``H``, or of ``diag(scale) H diag(scale)``, by the power method, ``(runs,)``."""
        draw = torch.Generator().manual_seed(7)
        vector = torch.randn(self.stack.flat.shape, generator=draw, dtype=self.stack.flat.dtype)
        found = torch.zeros(self.stack.shape.runs, dtype=vector.dtype)
        for _ in range(iterations):
            vector = vector / self.by_run(vector.square()).sqrt().clamp_min(1e-300)[self._owner]
            image = self.product(vector if scale is None else vector * scale)
            vector = image if scale is None else image * scale
            found = self.by_run(vector.square()).sqrt()
        return np.asarray(found.clamp_min(1e-300).numpy())

    def _gradient_at(self, parameters: Tensor) -> Tensor:
        """Of the losses at other parameters; the stack is left as it was."""
        before = self.stack.flat.clone()
        self.stack.flat.copy_(parameters)
        self.stack.loss_and_gradient(self._x, self._labels)
        self.stack.flat.copy_(before)
        return self.stack.gradient.clone()


def log_apjn(stack: Stack, x: Tensor) -> np.ndarray:
    """``log J(0 -> L)`` of every run, one probe for each input."""
    last = stack.stream(x, keep=True)[-1]
    probe = torch.randn(last.shape[1:], generator=torch.Generator().manual_seed(2024), dtype=last.dtype)
    first = stack.back_to_start(probe.expand_as(last))[0]
    return _numpy(first.square().mean((1, 2)).log())


def sign_step(stack: Stack, x: Tensor, gradient: Tensor, rate: float = 1e-6) -> np.ndarray:
    """Relative change of the last point of the stream by ``-rate sign(gradient)``, over ``rate``."""
    before, kept = stack.stream(x)[-1], stack.flat.clone()
    stack.flat.sub_(rate * gradient.sign())
    after = stack.stream(x)[-1]
    stack.flat.copy_(kept)
    return _numpy((after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1) / rate)


def correlation_slope(stack: Stack, x: Tensor, nearer: float = 0.02) -> np.ndarray:
    """``d rho_L / d rho_0`` over pairs of neighbouring inputs, one of which is turned a little towards the other."""
    other = x.roll(1, 1)
    length = x.norm(dim=-1, keepdim=True)
    turned = x + nearer * other * (length / other.norm(dim=-1, keepdim=True))
    turned = turned * (length / turned.norm(dim=-1, keepdim=True))
    points = [stack.stream(inputs) for inputs in (x, turned, other)]
    cosine: Callable[[Tensor, Tensor], Tensor] = torch.nn.CosineSimilarity(dim=-1)
    first, last = (
        (cosine(points[1][at], points[2][at]) - cosine(points[0][at], points[2][at])).mean(1) for at in (0, -1)
    )
    return _numpy(last / first)


def _numpy(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.numpy()
    return found
