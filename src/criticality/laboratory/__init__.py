"""The training laboratory: small transformers on data that ships with packages, with what criticality is about logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticality.lazy import lazy_names

if TYPE_CHECKING:
    from criticality.laboratory.data import FashionMNIST, Images, fashion_mnist
    from criticality.laboratory.records import geometric_steps
    from criticality.laboratory.residual_run import ResidualRun
    from criticality.laboratory.stacked import train_stacked, train_together

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "data": ("FashionMNIST", "Images", "fashion_mnist"),
        "records": ("geometric_steps",),
        "residual_run": ("ResidualRun",),
        "stacked": ("train_stacked", "train_together"),
    },
)

__all__ = [
    "FashionMNIST",
    "Images",
    "ResidualRun",
    "fashion_mnist",
    "geometric_steps",
    "train_stacked",
    "train_together",
]
