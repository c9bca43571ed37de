"""What is compared: a model, and the grid of its norms, alphas and initializations."""

from __future__ import annotations

from dataclasses import dataclass

from criticality.arguments import Depth, Positive, Samples, Seed, Size, check_fields
from criticality.devices import torch_device
from criticality.errors import ArgumentError
from criticality.models import ModelSpec, model_spec
from criticality.probes import check_probe
from criticality.theory.norms import takes_alpha

OWN_NORM = "own"
"""The norms that a model has."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: one model, and the grid of norms, alphas and initializations.

    Attributes:
        model: as ``criticality.models.model_spec`` takes it.
        norms: names of norms; pointwise ones are crossed with ``alphas``, the others appear once.
        inits: ``own``, ``fan-in`` or both.
        depth, width, image_size, tokens, text: changes to the model; ``None`` keeps its own.
        seeds: how many weight seeds are averaged, from ``seed`` on.
        probes: backward passes for each seed.
        samples: score matrices per attention layer in the theory.
        probe: where the backward pass starts, in the theory and in the measurement: ``normal``, ``pooled``, ``class`` or ``loss``
            (``criticality.probes``).
        device: where the measurement runs.
    """

    model: str
    norms: tuple[str, ...] = ("ln", "dyt", "derf")
    alphas: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    inits: tuple[str, ...] = ("own",)
    depth: Depth | None = None
    width: Size | None = None
    image_size: Size | None = None
    tokens: Size | None = None
    text: str | None = None
    seeds: Size = 6
    seed: Seed = 0
    probes: Size = 1
    samples: Samples = 16
    probe: str = "normal"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("norms", "alphas", "inits"):
            if not getattr(self, name):
                raise ArgumentError(f"{name}=() must hold at least one value")
        check_probe(self.probe)
        torch_device(self.device)
        self.cases()

    def cases(self) -> list[ModelSpec]:
        """Every model of the comparison.

        Raises:
            ValueError: for a model, norm, alpha, init or size that is not allowed.
        """
        changes = {name: getattr(self, name) for name in ("depth", "width", "image_size", "tokens", "text")}
        return [
            model_spec(self.model, norm=None if norm == OWN_NORM else norm, alpha=alpha, init=init, **changes)
            for init in dict.fromkeys(self.inits)
            for norm in dict.fromkeys(self.norms)
            for alpha in (dict.fromkeys(self.alphas) if norm != OWN_NORM and takes_alpha(norm) else (None,))
        ]


def case_label(case: ModelSpec) -> str:
    """Short name of a case: ``dyt alpha=0.5 own``."""
    alpha = f" alpha={case.alpha:g}" if case.alpha is not None else ""
    return f"{case.norm or OWN_NORM}{alpha} {case.init}"
