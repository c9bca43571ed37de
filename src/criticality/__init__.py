"""Criticality of deep transformers: predict, measure and compare gradient amplification at initialization.

Theory (no torch): ``Pointwise``, ``propagate`` on a ``Network`` built by ``resnet``, ``transformer`` or by hand.
Any model: ``predict`` (needs torch, which is imported when it is asked for).
Measurement: ``measure``, ``measure_ensemble``, ``measure_between``, ``measure_forward`` in ``criticality.measurement``.
Models: ``criticality.models``.  Studies: ``criticality.studies``.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from criticality.lazy import lazy_names
from criticality.moved import MovedModules

if TYPE_CHECKING:
    from criticality.studies.predict import predict

try:
    __version__ = version("criticality")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

from criticality.pointwise import FUNCTIONS, Pointwise, PointwiseFunction, get_function, pointwise_function
from criticality.schema import read_dataset, write_dataset
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

sys.meta_path.append(MovedModules)

__getattr__, __dir__ = lazy_names(__name__, {"studies.predict": ("predict",)})

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
