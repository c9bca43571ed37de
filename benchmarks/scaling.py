"""How does the cost grow with depth, width, tokens and batch: of the token theory, of a measurement, of the model itself?

A ViT with DyT; one of the four sizes is doubled at a time.  Milliseconds of processor time, one thread; ``exponent`` is
that of the last doubling: 1 is linear.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from criticality.measurement import measure
from criticality.models import ViTSpec
from criticality.theory import propagate
from side_by_side import machine, seconds

BASE = {"depth": 4, "width": 192, "image_size": 112, "batch": 2}
SIZES = {
    "depth": (2, 4, 8, 16),
    "width": (96, 192, 384, 768),
    "image_size": (80, 112, 160, 224),  # 26, 50, 101 and 197 tokens
    "batch": (1, 2, 4, 8),
}


def calls(depth: int, width: int, image_size: int, batch: int) -> dict[str, Callable[[], object]]:
    description = ViTSpec("vit_tiny_patch16_224", norm="dyt", depth=depth, width=width, heads=3, image_size=image_size)
    network, kernels = description.read()
    model = description.build().eval()
    images = description.inputs().repeat((batch + 1) // 2, 1, 1, 1)[:batch]

    def forward() -> object:
        with torch.inference_mode():
            return model(images)

    return {
        "forward pass": forward,
        "profile": lambda: measure(model, images),
        "token theory": lambda: propagate(network, (kernels * batch)[:batch]),
    }


def main() -> None:
    torch.set_num_threads(1)
    print(__doc__, machine(), sep="\n")
    for name, sizes in SIZES.items():
        taken = [seconds(calls(**{**BASE, name: size}), rounds=3, clock=time.process_time) for size in sizes]
        print(f"\n{name:14s}" + "".join(f"{size:>10d}" for size in sizes) + f"{'exponent':>10s}")
        for row in taken[0]:
            doubling = math.log2(taken[-1][row] / taken[-2][row])
            print(f"{row:14s}" + "".join(f"{1000 * t[row]:10.1f}" for t in taken) + f"{doubling:10.2f}")


if __name__ == "__main__":
    main()
