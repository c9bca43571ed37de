"""Real pictures that ship with packages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from criticality.arguments import Whole, checked
from criticality.errors import ArgumentError
from criticality.extras import folder_of, require
from criticality.memory import require_memory
from criticality.shapes import Float

Pixels = Annotated[int, Whole(high=16384)]

# Channel means and deviations of ImageNet, the normalization of timm's vision transformers.
_MEAN = np.array([0.485, 0.456, 0.406])
_DEVIATION = np.array([0.229, 0.224, 0.225])


@checked
def photographs(size: Pixels | Sequence[Pixels] = 224) -> Float[np.ndarray, "2 3 height width"]:
    """The two photographs of ``sklearn.datasets.load_sample_images`` (a temple and a flower), centre crop, resized to
    ``size`` pixels (or ``(height, width)``, of a larger square its middle) and normalized with ImageNet's channel statistics;
    float32.

    Raises:
        ValueError: a size that is not a whole number of at least 1, or two of them.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2:
        raise ArgumentError(f"size={size!r} must be a whole number or two, (height, width)")
    height, width = sides
    size = max(sides)
    require_memory(2 * 3 * 8 * size**2, f"size={size!r}")
    require("PIL")
    from PIL import Image

    folder = folder_of("sklearn") / "datasets" / "images"  # importing scikit-learn takes longer than reading a model
    images = []
    for name in ("china.jpg", "flower.jpg"):
        picture = np.asarray(Image.open(folder / name))
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = Image.fromarray(picture[top : top + side, left : left + side])
        pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=float) / 255
        images.append(((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1))
    top, left = (size - height) // 2, (size - width) // 2
    return np.array(images, dtype=np.float32)[..., top : top + height, left : left + width]
