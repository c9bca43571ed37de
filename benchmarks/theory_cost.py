"""What does the theory cost, beside the models it predicts and beside Gauss-Hermite?

``tokens``: full token kernels of ViT-B (197 tokens, 12 blocks, one photograph, the default number of sampled scores)
against forward passes of that model.  ``symmetric``: equivalent tokens at depth 1000.  ``resnet``: depth 4096.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from criticality.models import ViTSpec
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, SymmetricKernel, make_norm, propagate, resnet, transformer
from side_by_side import machine, seconds


def vit(norm: str, name: str, **changes: int) -> dict[str, Callable[[], object]]:
    """One photograph through a model, and the theory of the same photograph."""
    description = ViTSpec(name, norm=norm, alpha=None if norm == "ln" else 0.5, **changes)
    network, kernels = description.read()
    model, pixels = description.build().eval(), description.inputs()[:1]

    def forward() -> object:
        with torch.inference_mode():
            return model(pixels)

    return {"forward": forward, "theory": lambda: propagate(network, kernels[:1])}


def main() -> None:
    print(__doc__, machine(), sep="\n")
    print(f"\n{'ViT-B, T x T':16s}{'forward s':>12s}{'theory s':>12s}{'ratio':>8s}")
    for norm in ("ln", "dyt", "derf"):
        taken = seconds(vit(norm, "vit_base_patch16_224"), rounds=5)
        print(f"{norm:16s}{taken['forward']:12.3f}{taken['theory']:12.3f}{taken['theory'] / taken['forward']:8.1f}")
    print("(at most 1 wanted)")
    blocks = {
        norm: transformer(make_norm(norm), Attention(), MLP(Pointwise("gelu")), 1000) for norm in ("ln", "tanh", "erf")
    }
    start = SymmetricKernel.of(1.0, 0.3, 197)
    calls = {f"symmetric, {norm}": lambda n=network: propagate(n, start) for norm, network in blocks.items()}
    calls |= {
        f"resnet, {norm}": partial(propagate, resnet(make_norm(norm, 0.5), 4096), SymmetricKernel.of(1.0))
        for norm in ("ln", "tanh", "erf")
    }
    print(f"\n{'':22s}{'ms':>8s}")
    for name, value in seconds(calls, rounds=9).items():
        print(f"{name:22s}{1000 * value:8.1f}")
    print("(symmetric, depth 1000: below 50 wanted)")


if __name__ == "__main__":
    main()
