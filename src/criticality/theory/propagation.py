"""The engine: kernels forward through a network, backward kernels back, and what is read off them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from criticality.arguments import LARGEST_VARIANCE, Samples, Seed, checked
from criticality.schema import profile_dataset
from criticality.theory.attention import ScoreSampling
from criticality.theory.kernels import Kernel, SymmetricKernel, TokenKernel
from criticality.theory.network import Network, Sublayer
from criticality.theory.norms import K


@checked
def propagate(
    network: Network,
    inputs: Kernel | Sequence[Kernel],
    *,
    samples: Samples = 8,
    seed: Seed = 0,
    keep_kernels: bool = False,
) -> xr.Dataset:
    """Mean-field prediction of a network at initialization (docs/theory, sections 3 to 5).

    Args:
        network: the architecture.
        inputs: kernel of the residual stream at its start; several of one size for several inputs, over which
            ``J`` is averaged (its logarithm is taken last) and so are ``q``, ``p`` and the correlation.
        samples: score matrices per attention layer for token kernels (even); symmetric kernels do not sample.
        seed: of those samples.
        keep_kernels: also store ``kernel`` and ``backward_kernel``, ``(block, token, other_token)``, of token
            kernels, averaged over inputs; ``backward_kernel`` is divided by its mean diagonal, ``J``.

    Returns:
        Dataset of ``criticality.schema`` over ``block`` (``0 .. depth``, sub-layer boundaries included).

    Raises:
        ValueError: inputs of different kinds or sizes, or kernels that stop being finite.
    """
    kernels = [inputs] if isinstance(inputs, Kernel) else list(inputs)
    if not kernels or len({(type(kernel), kernel.tokens) for kernel in kernels}) != 1:
        raise ValueError("inputs must be one kernel or several of one kind and number of tokens")
    sampling = ScoreSampling(samples, seed)
    forwards: list[list[Kernel]] = []
    profiles: list[np.ndarray] = []
    backwards: list[list[TokenKernel]] = []
    for kernel in kernels:
        if isinstance(kernel, SymmetricKernel):
            symmetric = _forward(network, kernel, sampling)
            forwards.append([*symmetric])
            profiles.append(_symmetric_log_apjn(network, symmetric, sampling))
        elif isinstance(kernel, TokenKernel):
            tokens = _forward(network, kernel, sampling)
            profile, backward = _token_backward(network, tokens, sampling)
            forwards.append([*tokens])
            profiles.append(profile)
            backwards.append(backward)
    q, p, correlation = (
        np.mean([[getattr(kernel, f"mean_{part}")() for kernel in run] for run in forwards], axis=0)
        for part in ("diagonal", "off_diagonal", "correlation")
    )
    log_apjn = np.array(profiles)
    peak = log_apjn.max(axis=0)
    averaged = peak + np.log(np.mean(np.exp(log_apjn - peak), axis=0))
    kept = {}
    if keep_kernels and backwards:
        kept = {
            "kernel": _mean_entries(forwards),
            "backward_kernel": _mean_entries(backwards),
        }
    return profile_dataset(
        block=network.block_of_boundary,
        log_apjn=averaged,
        q=q,
        p=p,
        correlation=correlation,
        source="theory",
        attrs={"network": network.name, "tokens": kernels[0].tokens, "inputs": len(kernels), "seed": seed},
        **kept,
    )


def _mean_entries(runs: Sequence[Sequence[Kernel]]) -> Float[np.ndarray, "boundaries tokens tokens"]:
    return np.mean([[kernel.entries for kernel in run if isinstance(kernel, TokenKernel)] for run in runs], axis=0)


def _forward(network: Network, kernel: K, sampling: ScoreSampling) -> list[K]:
    """Kernels at every boundary."""
    kernels = [kernel]
    for layer, sublayer in enumerate(network.sublayers):
        kernel = sublayer.forward(kernel, sampling.at(layer))
        if not kernel.mean_diagonal() <= LARGEST_VARIANCE:
            raise ValueError(
                f"network {network.name!r} must keep a finite kernel, but its variance overflows in sub-layer {layer}"
            )
        kernels.append(kernel)
    return kernels


def _token_backward(
    network: Network, forward: list[TokenKernel], sampling: ScoreSampling
) -> tuple[Float[np.ndarray, " boundaries"], list[TokenKernel]]:
    """Log APJN to the end, and backward kernels scaled to unit mean diagonal, at every boundary."""
    log_apjn = np.zeros(len(forward))
    gradient = forward[-1].isotropic()
    backward = [gradient]
    for layer in reversed(range(len(network.sublayers))):
        gradient = network.sublayers[layer].backward(forward[layer], gradient, sampling.at(layer))
        trace = gradient.mean_diagonal()
        log_apjn[layer] = log_apjn[layer + 1] + math.log(trace)
        gradient = gradient.affine(1 / trace)
        backward.append(gradient)
    return log_apjn, backward[::-1]


def _symmetric_log_apjn(
    network: Network, forward: list[SymmetricKernel], sampling: ScoreSampling
) -> Float[np.ndarray, " boundaries"]:
    """The backward map of symmetric tokens is linear in ``(u, v)``: its matrices are found for all layers that are
    one object at once, from its action on ``(1, 0)`` and ``(0, 1)``."""
    matrices = np.empty((len(network.sublayers), 2, 2))
    groups: dict[int, tuple[Sublayer, list[int]]] = {}
    for layer, sublayer in enumerate(network.sublayers):
        groups.setdefault(id(sublayer), (sublayer, []))[1].append(layer)
    for sublayer, layers in groups.values():
        stacked = SymmetricKernel.stack([forward[layer] for layer in layers])
        one, zero = np.ones(len(layers)), np.zeros(len(layers))
        for column, unit in enumerate(((one, zero), (zero, one))):
            image = sublayer.backward(stacked, stacked.with_entries(*unit), sampling)
            matrices[layers, 0, column], matrices[layers, 1, column] = image.q, image.p
    (aa, ab), (ba, bb) = np.moveaxis(matrices, 0, -1).tolist()
    u, v, log_scale = 1.0, 0.0, 0.0
    scales, us = [0.0], [1.0]
    for layer in reversed(range(len(network.sublayers))):
        u, v = aa[layer] * u + ab[layer] * v, ba[layer] * u + bb[layer] * v
        if not 1e-100 < u < 1e100:
            log_scale += float(np.log(u))
            u, v = 1.0, v / u
        scales.append(log_scale)
        us.append(u)
    return (np.array(scales) + np.log(us))[::-1]
