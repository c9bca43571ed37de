"""What the monitor costs: AdamW steps of a ViT with and without it, side by side, ``python benchmarks/monitor.py``."""

from __future__ import annotations

import torch
from torch import nn

from criticality.models import ViTSpec
from criticality.prescription import Monitor
from side_by_side import machine, seconds


def main() -> None:
    torch.manual_seed(0)
    description = ViTSpec("vit_small_patch16_224", norm="dyt", alpha=0.5, image_size=96)
    model = description.build()
    images, labels = torch.randn(32, 3, 96, 96), torch.randint(0, 1000, (32,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    monitor = Monitor(model, images[:2])

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    taken = seconds({"training step": step, "record": lambda: monitor.record(0)}, rounds=15)
    share = taken["record"] / (monitor.every * taken["training step"])
    print(machine())
    print(
        f"ViT-S, 96 pixels, batch 32, DyT: step {taken['training step']:.3f} s, record of two images {taken['record']:.3f} s"
    )
    print(
        f"at the default interval of {monitor.every} steps the monitor takes {100 * share:.2f} per cent of training time"
    )


if __name__ == "__main__":
    main()
