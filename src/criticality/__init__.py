"""Criticality of deep transformers: predict, measure and compare gradient amplification at initialization.

Everything is imported when it is first used.  What the verbs of the command line do: ``measure``, ``predict``, ``compare``,
``prescribe``, ``check``, ``classify``, ``stream``, ``replace_norms``, ``tune``, ``Monitor``.  Models by name: ``model_spec``.
Theory, without torch: ``propagate`` on a ``Network`` built by ``resnet``, ``transformer``, by hand, or read from a model
(``read_network``); kernels, norms, branches, edits.

Public is what ``__all__`` lists, in the packages below, in ``errors`` and ``schema``, and in those of their modules that have it;
what has none is internal, as are ``arguments``, ``devices``, ``extras`` and the other single files beside the packages.
"""

import sys
from typing import TYPE_CHECKING

from criticality.lazy import lazy_names
from criticality.moved import MovedModules

if TYPE_CHECKING:
    from criticality import stream as stream
    from criticality.measurement import measure, measure_ensemble
    from criticality.models import ModelSpec, model_spec, replace_norms
    from criticality.phases import classify
    from criticality.pointwise import FUNCTIONS, Pointwise, PointwiseFunction, get_function, pointwise_function
    from criticality.prescription import Monitor, apply_edits, apply_prescription, prescribe, tune
    from criticality.reader import read_network
    from criticality.schema import read_dataset, write_dataset
    from criticality.studies.check import check
    from criticality.studies.compare import Comparison, compare
    from criticality.studies.predict import predict
    from criticality.theory import (
        MLP,
        Attention,
        Edit,
        GatedMLP,
        HeadNorm,
        Layer,
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
        edited,
        make_norm,
        mean_network,
        propagate,
        read_edits,
        resnet,
        transformer,
        write_edits,
    )
    from criticality.version import __version__
    from criticality.weightless import predict_sampled

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "stream": (),
        "measurement": ("measure", "measure_ensemble"),
        "models": ("ModelSpec", "model_spec", "replace_norms"),
        "phases": ("classify",),
        "prescription": ("Monitor", "apply_edits", "apply_prescription", "prescribe", "tune"),
        "reader": ("read_network",),
        "studies.check": ("check",),
        "studies.compare": ("Comparison", "compare"),
        "weightless": ("predict_sampled",),
        "pointwise": ("FUNCTIONS", "Pointwise", "PointwiseFunction", "get_function", "pointwise_function"),
        "schema": ("read_dataset", "write_dataset"),
        "studies.predict": ("predict",),
        "theory": (
            "MLP",
            "Edit",
            "Layer",
            "edited",
            "read_edits",
            "write_edits",
            "mean_network",
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
    "Comparison",
    "Edit",
    "GatedMLP",
    "HeadNorm",
    "Layer",
    "LayerNorm",
    "Linear",
    "ModelSpec",
    "Monitor",
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
    "apply_edits",
    "apply_prescription",
    "check",
    "classify",
    "compare",
    "edited",
    "get_function",
    "make_norm",
    "mean_network",
    "measure",
    "measure_ensemble",
    "model_spec",
    "pointwise_function",
    "predict",
    "predict_sampled",
    "prescribe",
    "propagate",
    "read_dataset",
    "read_edits",
    "read_network",
    "replace_norms",
    "resnet",
    "stream",
    "transformer",
    "tune",
    "write_dataset",
    "write_edits",
]
