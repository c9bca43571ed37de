"""Criticality of deep transformers: predict, measure and compare gradient amplification at initialization.

Theory (no torch): ``Pointwise``, ``propagate`` on a ``Network`` built by ``resnet``, ``transformer`` or by hand.
Any model: ``predict`` (needs torch).
Measurement: ``measure``, ``measure_ensemble``, ``measure_between``, ``measure_forward`` in ``criticality.measurement``.
Models: ``criticality.models``.  Studies: ``criticality.studies``.
"""

import sys
from typing import TYPE_CHECKING

from criticality.lazy import lazy_names
from criticality.moved import MovedModules

if TYPE_CHECKING:
    from criticality.pointwise import FUNCTIONS, Pointwise, PointwiseFunction, get_function, pointwise_function
    from criticality.schema import read_dataset, write_dataset
    from criticality.studies.predict import predict
    from criticality.theory import (
        MLP,
        Attention,
        GatedMLP,
        HeadNorm,
        LayerNorm,
        Linear,
        Network,
        NoNorm,
        Normed,
        Parallel,
        PointwiseNorm,
        RMSNorm,
        Rotary,
        Sublayer,
        SymmetricKernel,
        TokenKernel,
        make_norm,
        propagate,
        resnet,
        transformer,
    )
    from criticality.version import __version__

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "pointwise": ("FUNCTIONS", "Pointwise", "PointwiseFunction", "get_function", "pointwise_function"),
        "schema": ("read_dataset", "write_dataset"),
        "studies.predict": ("predict",),
        "theory": (
            "MLP",
            "Attention",
            "GatedMLP",
            "HeadNorm",
            "LayerNorm",
            "Linear",
            "Network",
            "NoNorm",
            "Normed",
            "Parallel",
            "PointwiseNorm",
            "RMSNorm",
            "Rotary",
            "Sublayer",
            "SymmetricKernel",
            "TokenKernel",
            "make_norm",
            "propagate",
            "resnet",
            "transformer",
        ),
        "version": ("__version__",),
    },
)

sys.meta_path.append(MovedModules)

__all__ = [
    "FUNCTIONS",
    "MLP",
    "Attention",
    "GatedMLP",
    "HeadNorm",
    "LayerNorm",
    "Linear",
    "Network",
    "NoNorm",
    "Normed",
    "Parallel",
    "Pointwise",
    "PointwiseFunction",
    "PointwiseNorm",
    "RMSNorm",
    "Rotary",
    "Sublayer",
    "SymmetricKernel",
    "TokenKernel",
    "__version__",
    "get_function",
    "make_norm",
    "pointwise_function",
    "predict",
    "propagate",
    "read_dataset",
    "resnet",
    "transformer",
    "write_dataset",
]
