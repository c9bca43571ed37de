"""Small models of each family whose exact network is known, and the profile by which networks are compared."""

from itertools import product

import numpy as np

from criticality.models import model_spec
from criticality.theory import Network, TokenKernel, propagate

_TEXT = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "bert")
_IMAGES = (
    "timm:vit_tiny_patch16_224",
    "timm:deit_tiny_patch16_224",
    "timm:deit_tiny_distilled_patch16_224",
    "timm:deit3_small_patch16_224",
    "timm:eva02_tiny_patch14_224",
    "timm:vit_small_patch16_rope_224",
    "hf:vit",
)
FAMILIES = [
    *product([f"hf:{kind}" for kind in _TEXT], [None, "derf"]),
    *product(_IMAGES[:1], [None, "rms", "dyt", "derf", "none"]),
    *product(_IMAGES[1:], [None, "derf"]),
]


def description(name, norm):
    """A model of two blocks."""
    sizes = {"depth": 2, "width": 128, "heads": 4, "norm": norm, "alpha": 0.7 if norm in ("dyt", "derf") else None}
    if name.startswith("hf:") and name != "hf:vit":
        return model_spec(name, **sizes, tokens=24)
    return model_spec(name, **sizes, image_size=56 if "patch14" in name else 64)


def profile(network: Network) -> dict:
    """``log J``, ``q`` and ``p`` at every boundary, from a kernel without zero eigenvalues, of as many tokens as the model has."""
    positions = getattr(getattr(network.sublayers[0].branch, "rotary", None), "positions", None)
    tokens = 24 if positions is None else len(positions)
    normals = np.random.default_rng(0).standard_normal((tokens, 8 * tokens))
    found = propagate(network, TokenKernel.of(normals @ normals.T / normals.shape[1]), samples=4)
    return {name: found[name].values.tolist() for name in ("log_apjn", "q", "p")}
