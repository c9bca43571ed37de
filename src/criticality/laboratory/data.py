"""FashionMNIST from the four idx files that Debian's ``dataset-fashion-mnist`` installs, or that lie in any folder."""

from __future__ import annotations

import gzip
import math
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from criticality.arguments import checked
from criticality.errors import FileError

__all__ = [
    "DATA_ROOT",
    "DATA_VARIABLE",
    "VALIDATION",
    "FashionMNIST",
    "Images",
    "fashion_mnist",
]

DATA_ROOT = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""

DATA_VARIABLE = "CRITICALITY_DATA_ROOT"
"""Environment variable with another folder; ``data_root=`` and ``--data-root`` come before it."""

VALIDATION = 5_000
"""Training images, the last ones of the file, that no run trains on: rates are chosen on them, not on the test images."""

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_UNSIGNED_BYTE = 8


@dataclass(frozen=True)
class Images:
    """Images and labels of one part: ``pixels`` ``(count, 784)`` float32 in [0, 1], row by row, and ``labels`` ``(count,)``."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class FashionMNIST:
    """The three parts, and what standardizes their pixels.

    Attributes:
        train: 55,000 images.
        validation: ``VALIDATION`` images.
        test: 10,000 images.
        mean, deviation: of the training pixels, one number each.
    """

    train: Images
    validation: Images
    test: Images
    mean: float
    deviation: float

    def standardized(self, part: Images) -> Tensor:
        """Pixels of mean 0 and variance 1 over the training part."""
        return (part.pixels - self.mean) / self.deviation

    @cached_property
    def standard(self) -> dict[str, Tensor]:
        """Such pixels of all three, by their names; kept, as a study trains hundreds of runs in one process."""
        return {name: self.standardized(getattr(self, name)) for name in ("train", "validation", "test")}


@checked
def fashion_mnist(data_root: str | os.PathLike[str] | None = None) -> FashionMNIST:
    """Read FashionMNIST.

    Args:
        data_root: folder with the four idx files, gzipped or not [default: ``$CRITICALITY_DATA_ROOT``, else Debian's place].

    Raises:
        ValueError: a file that is missing or is not an idx file of that content.
    """
    return _read(Path(data_root or os.environ.get(DATA_VARIABLE) or DATA_ROOT))


@cache
def _read(root: Path) -> FashionMNIST:
    images, labels, test_images, test_labels = (_idx(root, name) for name in _FILES)
    for pictures, names in ((images, labels), (test_images, test_labels)):
        if pictures.shape != (len(names), 28, 28):
            raise FileError(
                f"data_root={str(root)!r} must hold 28 x 28 images and a label for each, but has images of shape"
                f" {pictures.shape} and {len(names)} labels"
            )
    if len(images) <= VALIDATION:
        raise FileError(f"data_root={str(root)!r} must hold more than {VALIDATION} training images, has {len(images)}")
    train, test = _images(images, labels), _images(test_images, test_labels)
    kept = Images(train.pixels[:-VALIDATION], train.labels[:-VALIDATION])
    held = Images(train.pixels[-VALIDATION:], train.labels[-VALIDATION:])
    return FashionMNIST(kept, held, test, float(kept.pixels.mean()), float(kept.pixels.std()))


def _images(pictures: np.ndarray, labels: np.ndarray) -> Images:
    pixels = torch.from_numpy(pictures.reshape(len(pictures), -1).astype(np.float32) / 255.0)
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)))


def _idx(root: Path, name: str) -> np.ndarray:
    """The array of an idx file of unsigned bytes: two zeros, type, number of axes, big-endian sizes, data."""
    packed, plain = root / f"{name}.gz", root / name
    if not (packed.is_file() or plain.is_file()):
        raise FileError(
            f"data_root={str(root)!r} must hold {name} (or {name}.gz) of FashionMNIST, and does not; install it with"
            " 'apt install dataset-fashion-mnist', or give a folder with the four idx files as --data-root"
        )
    what = f"file {name} in {str(root)!r} must be an idx file of unsigned bytes"
    try:
        content = gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
        axes = content[3]
        whole = content[:2] == b"\0\0" and content[2] == _UNSIGNED_BYTE and 1 <= axes <= 3
        shape = tuple(int(size) for size in np.frombuffer(content, ">i4", axes, 4)) if whole else ()
        data = np.frombuffer(content, np.uint8, offset=4 + 4 * axes) if whole else np.array(())
    except (ValueError, IndexError, OSError, EOFError) as error:
        raise FileError(f"{what}: {error}") from error
    if not whole:
        raise FileError(f"{what}: its header is another")
    if data.size != math.prod(shape):
        raise FileError(f"{what}: it holds {data.size} bytes for shape {shape}")
    return data.reshape(shape)
