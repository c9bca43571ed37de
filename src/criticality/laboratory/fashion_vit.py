"""A ViT on FashionMNIST, 16 tokens of 7 x 7 pixels: the source's trainings at a size for one core."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from criticality.laboratory.data import Images, fashion_mnist
from criticality.laboratory.tasks import Task, accuracy, small_vit, surprise
from criticality.theory import TokenKernel

PATCH = 7


def fashion_vit_task(data_root: str | os.PathLike[str] | None = None) -> Task:
    """Validation are 5,000 training images that no run trains on, test the 10,000 test images.

    Raises:
        ValueError: as ``fashion_mnist``.
    """
    from criticality.measurement import input_kernels
    from criticality.reader import read_network

    data = fashion_mnist(data_root)
    surprises = surprise(data.train.labels, 10)

    def shown(part: Images, chosen: slice | Tensor) -> tuple[Tensor, Tensor]:
        pixels = (part.pixels[chosen] - data.mean) / data.deviation
        return pixels.view(-1, 1, 28, 28), part.labels[chosen]

    def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return shown(data.train, torch.randint(0, len(data.train.labels), (size,), generator=generator))

    return Task(
        build=partial(small_vit, image_size=28, patch_size=PATCH),
        batch=batch,
        validation=lambda: shown(data.validation, slice(None)),
        loss=lambda model, images: functional.cross_entropy(model(images[0]), images[1]),
        constant_loss=lambda images: float(surprises[images[1]].mean()),
        score=score,
        read=lambda model, images: (
            read_network(model, images[0][:2]),
            [TokenKernel.of(np.mean(input_kernels(model, images[0][:16]), axis=0))],
        ),
        inputs=lambda images: images[0],
        test=lambda: shown(data.test, slice(None)),
    )


def score(model: nn.Module, images: tuple[Tensor, Tensor]) -> float:
    """Accuracy, a thousand images at a time."""
    parts = zip(images[0].split(1000), images[1].split(1000), strict=True)
    return sum(accuracy(model, part) * len(part[1]) for part in parts) / len(images[1])
