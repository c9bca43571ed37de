"""Real models by name: built, initialized, their norms replaced; real inputs for them.

Names are imported when they are first used: a Hugging Face model does not wait for timm, nor the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticality.lazy import lazy_names

if TYPE_CHECKING:
    from criticality.models.conversion import Conversion, Kept, Replacement, replace_norms, write_weights
    from criticality.models.description import ModelSpec, OwnSpec, model_spec
    from criticality.models.huggingface import HuggingFaceSpec
    from criticality.models.images import photographs
    from criticality.models.initialization import INITS, initialize, initialize_branches
    from criticality.models.normalizers import DynamicPointwise
    from criticality.models.pretrained import load_pretrained
    from criticality.models.residual import ResidualNetwork, gaussian_inputs
    from criticality.models.text import random_tokens, source_bytes
    from criticality.models.timm_vit import ViTSpec

_MODULES = {
    "conversion": ("Conversion", "Kept", "Replacement", "replace_norms", "write_weights"),
    "description": ("ModelSpec", "OwnSpec", "model_spec"),
    "huggingface": ("HuggingFaceSpec",),
    "images": ("photographs",),
    "initialization": ("INITS", "initialize", "initialize_branches"),
    "normalizers": ("DynamicPointwise",),
    "pretrained": ("load_pretrained",),
    "residual": ("ResidualNetwork", "gaussian_inputs"),
    "text": ("random_tokens", "source_bytes"),
    "timm_vit": ("ViTSpec",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

__all__ = [
    "INITS",
    "Conversion",
    "DynamicPointwise",
    "HuggingFaceSpec",
    "Kept",
    "ModelSpec",
    "OwnSpec",
    "Replacement",
    "ResidualNetwork",
    "ViTSpec",
    "gaussian_inputs",
    "initialize",
    "initialize_branches",
    "load_pretrained",
    "model_spec",
    "photographs",
    "random_tokens",
    "replace_norms",
    "source_bytes",
    "write_weights",
]
