"""Real inputs that ship with packages."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import Image
from sklearn.datasets import load_sample_images

# Channel means and deviations of ImageNet, the normalization of timm's vision transformers.
_MEAN = np.array([0.485, 0.456, 0.406])
_DEVIATION = np.array([0.229, 0.224, 0.225])


def photographs(size: int = 224) -> Float[np.ndarray, "2 3 size size"]:
    """The two photographs of ``sklearn.datasets.load_sample_images`` (a temple and a flower), centre crop, resized to
    ``size`` pixels and normalized with ImageNet's channel statistics; float32."""
    if size < 1:
        raise ValueError(f"size={size!r} must be at least 1")
    images = []
    for picture in load_sample_images().images:
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = Image.fromarray(picture[top : top + side, left : left + side])
        pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=float) / 255
        images.append(((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1))
    return np.array(images, dtype=np.float32)
