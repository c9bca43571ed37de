"""How log J grows with depth: by the exact theory where it describes a network, else by running its block to any depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from criticality.arguments import Variance, checked
from criticality.errors import InputsError, NotFiniteError, UndescribedError
from criticality.models import ModelSpec
from criticality.phases import Classification, classify
from criticality.phases.noisy import GEOMETRIC, SampledClassification, classify_profiles
from criticality.studies.predict import Way
from criticality.theory import SymmetricKernel
from criticality.weightless.deep import Deep, Mode, run_deep
from criticality.weightless.initializing import Initializer
from criticality.weightless.prepared import Factory, prepared, seeds_of

__all__ = [
    "SHALLOWEST",
    "RepeatedClassification",
    "classify_description",
    "classify_sampled",
]

SHALLOWEST = 24
"""Least depth in blocks at which a class can be read."""


@dataclass(frozen=True)
class RepeatedClassification:
    """A classification with the blocks that were repeated.

    Attributes:
        found: the classification.
        blocks: names of the modules, in order.
        period: calls after which the same kind of block comes again.
        tied: whether the model gives all of them the same weights, in the place of the fresh ones that each repeat has here.
        mode: ``forward`` or ``backward``, of the derivatives.
    """

    found: SampledClassification
    blocks: tuple[str, ...]
    period: int
    tied: bool
    mode: str

    def record(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {
            **self.found.record(),
            "blocks": self.blocks,
            "period": self.period,
            "tied": self.tied,
            "mode": self.mode,
        }


@checked
def classify_sampled(
    model: nn.Module | Factory,
    inputs: Any,
    seeds: int | Iterable[int] = 4,
    *,
    depth: int = 1000,
    chain: str | None = None,
    init: str | Initializer = "own",
    mode: Mode = "auto",
    q0: Variance | None = None,
    progress: Callable[[int], None] | None = None,
) -> RepeatedClassification:
    """Classify any model by repeating its blocks with fresh weights, from the value that its own stream has before them.

    Args:
        model: a function that builds it, or itself, whose weights then stand for their laws.
        inputs, chain, init: as for ``predict_sampled``.
        seeds: how many, or which; standard errors are over them.
        depth: in blocks, to which it is run; less where the stream stops being finite.
        mode, q0: see ``run_deep``.
        progress: called with the number of blocks that were run since the last call, ``depth`` for each seed.

    Raises:
        InputsError: no seeds, or a depth below 24.
        StreamNotFoundError: no stream, or no module that takes it and returns it in the same shape.
        NotFiniteError: a stream that is not finite after a few blocks.
        ValueError: as ``predict_sampled``.
    """
    chosen = seeds_of(seeds)
    if depth < SHALLOWEST:
        raise InputsError(f"depth={depth!r} must be a whole number, {SHALLOWEST} or above, for a class to be seen")
    depths = [one for one in GEOMETRIC if one < 0.9 * depth] + [int(depth)]
    runs: list[Deep] = []
    for seed in chosen:
        ready = prepared(
            model, inputs, seed, init=init, at_least=2
        )  # small weights, too, are to be fresh at every repeat
        runs.append(run_deep(ready, depths, chain=chain, mode=mode, q0=q0, progress=progress))
    common = [one for one in depths if all(one in run.depths for run in runs)]
    if len(common) < 5:
        raise NotFiniteError(
            f"stream of {runs[0].run.names[0]!r} must be finite over {depths[4]} repeats, and is for {max(common, default=0)} only"
        )
    log_apjn = np.array([run.log_apjn[[run.depths.index(one) for one in common]] for run in runs])
    found = classify_profiles(common, log_apjn, steps=all(run.mode == "forward" for run in runs))
    first = runs[0]
    return RepeatedClassification(found, first.run.names, first.run.period, first.run.tied, first.mode)


@checked
def classify_description(
    description: ModelSpec,
    *,
    way: Way = "auto",
    seeds: int = 4,
    depth: int = 1000,
    q0: float | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[Classification | RepeatedClassification, dict[str, float]]:
    """Classify a model by name.

    Args:
        description: as ``model_spec`` makes it.
        way: ``exact``, ``sampled`` or ``auto``: exact where the theory describes the network and its tokens are equivalent.
        seeds, depth, progress: of ``classify_sampled``.
        q0: variance of the input; by default its own.
        seed: the first, and of the inputs.

    Returns:
        The classification, and of the exact way ``q0``, ``rho0`` and ``tokens`` of the input.

    Raises:
        ValueError: another ``way``; ``exact`` for a network that is not described.
    """
    if way != "sampled":
        try:
            network, inputs = description.read(seed)
            mean = SymmetricKernel.mean_of(inputs)
            start, rho = float(mean.q) if q0 is None else q0, float(mean.p / mean.q)
            found = classify(network, start, rho0=rho, tokens=mean.tokens)
        except UndescribedError:  # or one that tells tokens apart
            if way == "exact":
                raise
        else:
            return found, {"q0": start, "rho0": rho, "tokens": mean.tokens}
    sampled = classify_sampled(
        description.create,
        description.inputs(seed),
        range(seed, seed + seeds),
        depth=depth,
        init=description.init,
        q0=q0,
        progress=progress,
    )
    return sampled, {}
