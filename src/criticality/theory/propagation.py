"""The engine: kernels forward through a network, backward kernels back, and what is read off them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from criticality.arguments import LARGEST_VARIANCE, Samples, Seed, checked
from criticality.errors import ArgumentError, CriticalityError, NotFiniteError
from criticality.lazy import lazy_module
from criticality.probes import Probe, probe_kernel, probe_name
from criticality.schema import SCHEMA, ProfileArrays
from criticality.shapes import Float
from criticality.theory.attention import ScoreSampling
from criticality.theory.collapse import collapse_exponents
from criticality.theory.kernels import Kernel, Numbers, SymmetricKernel, TokenKernel
from criticality.theory.network import Network, Sublayer
from criticality.theory.norms import K
from criticality.threads import one_thread

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_module("xarray")


@checked
def propagate(
    network: Network,
    inputs: Kernel | Sequence[Kernel],
    *,
    samples: Samples = 8,
    seed: Seed = 0,
    keep_kernels: bool = False,
    probe: Probe = "normal",
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
        probe: where the backward pass starts (``criticality.probes``), a name or the kernel of the gradient at the end of the
            stream, ``(tokens, tokens)``, or ``(inputs, tokens, tokens)``; ``log_apjn`` is then ``log tr G^l / tr G^L``.

    Returns:
        Dataset of ``criticality.schema`` over ``block`` (``0 .. depth``, sub-layer boundaries included); attribute
        ``collapse_exponents``: ``lambda_a`` and ``lambda_g`` of the last block at its mean variance, where tokens are equivalent.

    Raises:
        ValueError: inputs of different kinds or sizes, or kernels that stop being finite; as ``probe_kernel``.
    """
    (found,) = propagated(network, inputs, [seed], samples=samples, keep_kernels=keep_kernels, probe=probe)
    return found.dataset()


def propagated(
    network: Network,
    inputs: Kernel | Sequence[Kernel],
    seeds: Sequence[int],
    *,
    samples: int = 8,
    keep_kernels: bool = False,
    probe: Probe = "normal",
) -> list[ProfileArrays]:
    """What ``propagate`` returns, as arrays, from each of several seeds; in one pass where kernels are small."""
    kernels = _listed(inputs)
    sampling = ScoreSampling(samples, seeds[0], repeats=tuple(seeds[1:]))
    starts, shares = _starts(probe, len(kernels))
    symmetric = [kernel for kernel in kernels if isinstance(kernel, SymmetricKernel)]
    matrices = [kernel for kernel in kernels if isinstance(kernel, TokenKernel)]
    passes = [_symmetric_pass(network, *one, sampling) for one in zip(symmetric, starts, strict=False)]
    together = max(1, _TOGETHER // (len(seeds) * kernels[0].tokens ** 2))
    with one_thread() if matrices and kernels[0].tokens <= _SMALL else nullcontext():
        for first in range(0, len(matrices), together):
            group = slice(first, first + together)
            passes.append(_token_pass(network, matrices[group], starts[group], sampling, keep_kernels))
    arrays = {name: np.concatenate([one[name] for one in passes], axis=1) for name in passes[0]}
    about = {"network": network.name, "tokens": kernels[0].tokens, "inputs": len(kernels)}
    start = {"probe": probe_name(probe) if isinstance(probe, str) else "kernel"}
    return [
        _profile(
            network,
            {name: of[number % len(of)] for name, of in arrays.items()},
            shares,
            {**about, "seed": seed, **start},
        )
        for number, seed in enumerate(seeds)
    ]


def _listed(inputs: Kernel | Sequence[Kernel]) -> list[Kernel]:
    kernels = [inputs] if isinstance(inputs, Kernel) else list(inputs)
    if not kernels or len({(type(kernel), kernel.tokens) for kernel in kernels}) != 1:
        raise ArgumentError("inputs must be one kernel or several of one kind and number of tokens")
    return kernels


_TOGETHER = 1 << 12
"""Entries of the kernels, of several inputs and seeds, that go through a network at once: small matrices cost by the call."""

_SMALL = 512
"""Tokens up to which threads gain less on a quiet machine than they wait for each other on a busy one."""


def _profile(
    network: Network, arrays: dict[str, np.ndarray], shares: np.ndarray, about: dict[str, Any]
) -> ProfileArrays:
    """The mean over inputs, the first axis of the arrays."""
    log_apjn = arrays.pop("log_apjn")
    peak = log_apjn.max(axis=0)
    averaged = peak + np.log(np.average(np.exp(log_apjn - peak), axis=0, weights=shares))
    means = {name: values.mean(axis=0) for name, values in arrays.items()}
    collapse = _collapse(network, float(means["q"][-1 - network.sublayers_per_block]), about["tokens"])
    attrs = {"source": "theory", "schema": SCHEMA, **about, **collapse}
    return ProfileArrays(attrs, block=network.block_of_boundary, log_apjn=averaged, **means)


def _symmetric_pass(
    network: Network, kernel: SymmetricKernel, start: Probe, sampling: ScoreSampling
) -> dict[str, np.ndarray]:
    """Forward and back, ``(seeds, inputs, boundaries)``: nothing is sampled."""
    forward, kept = _forward(network, kernel, sampling)
    maps = _symmetric_matrices(network, forward, kept, sampling)
    log_apjn = _symmetric_log_apjn(maps, _equivalent_start(start, kernel.tokens))
    arrays = {"log_apjn": log_apjn, **_means(forward)}
    return {name: values[None, None] for name, values in arrays.items()}


def _token_pass(
    network: Network,
    kernels: Sequence[TokenKernel],
    starts: Sequence[Probe],
    sampling: ScoreSampling,
    keep_kernels: bool,
) -> dict[str, np.ndarray]:
    """Forward and back, ``(seeds, inputs, boundaries)``, with the kernels on request."""
    shape = (1 + len(sampling.repeats), len(kernels), *kernels[0].entries.shape)
    start = TokenKernel(np.broadcast_to(np.stack([kernel.entries for kernel in kernels]), shape))
    end = TokenKernel(np.broadcast_to(np.stack([probe_kernel(one, start.tokens) for one in starts]), shape))
    forward, kept = _forward(network, start, sampling)
    log_apjn, gradients = [], []
    for log_j, gradient in _token_backward(network, forward, kept, end, sampling):
        log_apjn.append(log_j)
        gradients += [gradient.entries] if keep_kernels else []
    arrays = {"log_apjn": np.stack(log_apjn[::-1], axis=2), **_means(forward)}
    if keep_kernels:
        arrays["kernel"] = np.stack([kernel.entries for kernel in forward], axis=2)
        arrays["backward_kernel"] = np.stack(gradients[::-1], axis=2)
    return arrays


def _means(forward: Sequence[Kernel]) -> dict[str, np.ndarray]:
    """Of the kernels at all boundaries, along the last axis."""
    parts = {"q": "mean_diagonal", "p": "mean_off_diagonal", "correlation": "mean_correlation"}
    return {name: np.stack([getattr(kernel, part)() for kernel in forward], axis=-1) for name, part in parts.items()}


def _collapse(network: Network, q: float, tokens: int) -> dict[str, list[float]]:
    try:
        return {"collapse_exponents": list(collapse_exponents(network.last_block, q, tokens))}
    except CriticalityError:  # it tells tokens apart, or is dead
        return {}


@checked
def propagate_between(
    network: Network,
    inputs: Kernel | Sequence[Kernel],
    *,
    start: float | None = None,
    targets: Sequence[float] | None = None,
    samples: Samples = 8,
    seed: Seed = 0,
) -> xr.Dataset:
    """``log J(l -> m)`` between sub-layer boundaries: *forward* from one of them, or for every pair (docs/theory, section 12).

    A backward pass from each ``m``, at which ``G = I``; what ``measure_forward`` and ``measure_between`` measure.

    Args:
        network, inputs, samples, seed: as for ``propagate``.
        start: source in blocks, ``0 .. depth``; every one by default.
        targets: in blocks, each of which costs a backward pass; every one by default.

    Returns:
        Dataset with ``log_apjn`` of shape ``(block, target_block)``, nan for ``l > m`` and where ``m`` is no target; with
        ``start`` of shape ``(target_block,)``.

    Raises:
        ValueError: as ``propagate``; a ``start`` or a target that is no boundary of the network.
    """
    kernels = _listed(inputs)
    boundaries = network.block_of_boundary
    for name, block in [("start", start), *(("targets", target) for target in targets or ())]:
        if block is not None and block not in boundaries:
            raise ArgumentError(
                f"{name}={block!r} must be a boundary of {network.name!r} in blocks, 0 to {network.depth}"
            )
    first = 0 if start is None else boundaries.index(start)
    numbers = range(first, len(boundaries)) if targets is None else [boundaries.index(target) for target in targets]
    sampling = ScoreSampling(samples, seed)
    total = np.full((len(kernels), len(boundaries), len(boundaries)), np.nan)
    for number, kernel in enumerate(kernels):
        profiles = _profiles_between(network, kernel, first, numbers, sampling)
        for target, profile in zip(numbers, profiles, strict=True):
            total[number, first : target + 1, target] = profile
    peak = total.max(axis=0)
    values = peak + np.log(np.mean(np.exp(total - peak), axis=0))
    data = {"log_apjn": (("block", "target_block"), values, {"long_name": "log J(l -> m)"})}
    attrs = {"source": "theory", "schema": SCHEMA, "network": network.name, "seed": seed}
    found = xr.Dataset(data, {"block": list(boundaries), "target_block": list(boundaries)}, attrs)
    return found if start is None else found.isel(block=first, drop=True)


def _profiles_between(
    network: Network, kernel: Kernel, first: int, targets: Sequence[int], sampling: ScoreSampling
) -> Iterator[Float[np.ndarray, " boundaries"]]:
    """``log J`` from the boundaries ``first .. m`` to ``m``, for every ``m`` of the targets; empty for one before ``first``."""
    if isinstance(kernel, SymmetricKernel):
        matrices = _symmetric_matrices(network, *_forward(network, kernel, sampling), sampling)
        for target in targets:
            yield _symmetric_log_apjn(matrices[first:target])
    elif isinstance(kernel, TokenKernel):
        forward, kept = _forward(network, kernel, sampling)
        end = TokenKernel(probe_kernel("normal", kernel.tokens))
        for target in targets:
            backward = _token_backward(network, forward[: target + 1], kept, end, sampling, first)
            yield np.array([log_apjn for log_apjn, _ in backward][::-1])


def _starts(probe: Probe, inputs: int) -> tuple[list[Probe], Float[np.ndarray, " inputs"]]:
    """The probe of each input, and how much of the squared gradients at the end is that input's."""
    if isinstance(probe, str) or np.ndim(probe) < 3:
        return [probe] * inputs, np.full(inputs, 1 / inputs)
    given = [*probe]
    if len(given) != inputs:
        raise ArgumentError(f"probe must be one kernel, or one for each of {inputs} inputs, got {len(given)}")
    traces = np.array([np.trace(one) for one in given])
    return [*given], traces / traces.sum()


def _equivalent_start(probe: Probe, tokens: int) -> float:
    """``v`` of equivalent tokens, with ``u = 1``: as ``tr G^l`` is linear in the start and does not change when tokens are put in
    another order, only the mean of the entries off the diagonal matters."""
    if isinstance(probe, str) and probe in ("normal", "class"):
        return 0.0
    if isinstance(probe, str) and probe == "pooled":
        return 1.0
    kernel = probe_kernel(probe, tokens)
    return float((kernel.sum() - tokens) / (tokens * (tokens - 1))) if tokens > 1 else 0.0


Kept = list[tuple[K, K | None]]
"""Kernels of the input of every branch, and of its output where the way back asks for it."""


def _forward(network: Network, kernel: K, sampling: ScoreSampling) -> tuple[list[K], Kept[K]]:
    """Kernels at every boundary, and what is kept of every branch."""
    kernels, kept = [kernel], []
    for layer, sublayer in enumerate(network.sublayers):
        entered, output = sublayer.passed(kernel, sampling.at(layer))
        kernel = sublayer.joined(kernel, output)
        if not np.all(kernel.mean_diagonal() <= LARGEST_VARIANCE):
            raise NotFiniteError(
                f"network {network.name!r} must keep a finite kernel, but its variance overflows in sub-layer {layer}"
            )
        kernels.append(kernel)
        kept.append((entered, None if sublayer.placement == "pre" else output))
    return kernels, kept


def _token_backward(
    network: Network,
    forward: list[TokenKernel],
    kept: Kept[TokenKernel],
    gradient: TokenKernel,
    sampling: ScoreSampling,
    first: int = 0,
) -> Iterator[tuple[Numbers, TokenKernel]]:
    """From the last of ``forward``, where the backward kernel is given, to the boundary ``first``: the log APJN to the end, and the
    backward kernel at unit mean diagonal."""
    log_apjn = 0 * gradient.mean_diagonal()
    yield log_apjn, gradient
    for layer in reversed(range(first, len(forward) - 1)):
        gradient = network.sublayers[layer].backward(forward[layer], gradient, sampling.at(layer), *kept[layer])
        trace = np.asarray(gradient.mean_diagonal())
        log_apjn = log_apjn + np.log(trace)
        gradient = TokenKernel(gradient.entries / trace[..., None, None])
        yield log_apjn, gradient


def _symmetric_matrices(
    network: Network, forward: list[SymmetricKernel], kept: Kept[SymmetricKernel], sampling: ScoreSampling
) -> Float[np.ndarray, "sublayers 2 2"]:
    """The backward map of symmetric tokens is linear in ``(u, v)``: its matrices are found for all layers that are
    one object at once, from its action on ``(1, 0)`` and ``(0, 1)``."""
    matrices = np.empty((len(network.sublayers), 2, 2))
    units = forward[0].with_entries(*np.eye(2)[:, :, None])
    groups: dict[int, tuple[Sublayer, list[int]]] = {}
    for layer, sublayer in enumerate(network.sublayers):
        groups.setdefault(id(sublayer), (sublayer, []))[1].append(layer)
    for sublayer, layers in groups.values():
        entered, output = (
            None if parts[0] is None else SymmetricKernel.stack(parts)
            for parts in zip(*(kept[i] for i in layers), strict=True)
        )
        image = sublayer.backward(SymmetricKernel.stack([forward[i] for i in layers]), units, sampling, entered, output)
        matrices[layers, 0], matrices[layers, 1] = np.asarray(image.q).T, np.asarray(image.p).T
    return matrices


def _symmetric_log_apjn(
    matrices: Float[np.ndarray, "sublayers 2 2"], v: float = 0.0
) -> Float[np.ndarray, " boundaries"]:
    """``log u`` at every boundary, from ``(1, v)`` at the last."""
    (aa, ab), (ba, bb) = np.moveaxis(matrices, 0, -1).tolist()
    u, log_scale = 1.0, 0.0
    scales, us = [0.0], [1.0]
    for layer in reversed(range(len(matrices))):
        u, v = aa[layer] * u + ab[layer] * v, ba[layer] * u + bb[layer] * v
        if not 1e-100 < u < 1e100:
            log_scale += float(np.log(u))
            u, v = 1.0, v / u
        scales.append(log_scale)
        us.append(u)
    return (np.array(scales) + np.log(us))[::-1]
