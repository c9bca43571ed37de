"""Bridges from real models to the theory: construction, reading of variances, real inputs.

Names are imported when they are first used: a Hugging Face model does not wait for timm, nor the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticality.lazy import lazy_names

if TYPE_CHECKING:
    from criticality.models.conversion import Conversion, Kept, Replacement, replace_norms, write_weights
    from criticality.models.description import ModelDescription, OwnDescription, describe_model
    from criticality.models.huggingface import HuggingFaceDescription
    from criticality.models.images import photographs
    from criticality.models.initialization import INITS, initialize, initialize_branches
    from criticality.models.normalizers import DynamicPointwise
    from criticality.models.pretrained import load_pretrained
    from criticality.models.residual import ResidualNetwork, gaussian_inputs
    from criticality.models.text import random_tokens, source_bytes
    from criticality.models.timm_vit import ViTDescription

_MODULES = {
    "conversion": ("Conversion", "Kept", "Replacement", "replace_norms", "write_weights"),
    "description": ("ModelDescription", "OwnDescription", "describe_model"),
    "huggingface": ("HuggingFaceDescription",),
    "images": ("photographs",),
    "initialization": ("INITS", "initialize", "initialize_branches"),
    "normalizers": ("DynamicPointwise",),
    "pretrained": ("load_pretrained",),
    "residual": ("ResidualNetwork", "gaussian_inputs"),
    "text": ("random_tokens", "source_bytes"),
    "timm_vit": ("ViTDescription",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

__all__ = [
    "INITS",
    "Conversion",
    "DynamicPointwise",
    "HuggingFaceDescription",
    "Kept",
    "ModelDescription",
    "OwnDescription",
    "Replacement",
    "ResidualNetwork",
    "ViTDescription",
    "describe_model",
    "gaussian_inputs",
    "initialize",
    "initialize_branches",
    "load_pretrained",
    "photographs",
    "random_tokens",
    "replace_norms",
    "source_bytes",
    "write_weights",
]
