"""Made-up images of the size of FashionMNIST's, in its four files."""

import gzip

import numpy as np

from criticality.laboratory.data import VALIDATION

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def made_up_fashion(folder):
    """Ten classes that differ in which rows are bright."""
    rng = np.random.default_rng(0)
    for images, labels, count in ((*NAMES[:2], VALIDATION + 400), (*NAMES[2:], 300)):
        names = rng.integers(0, 10, count)
        pictures = rng.integers(0, 60, (count, 28, 28))
        pictures[np.arange(count), 2 * names] += 150
        (folder / f"{images}.gz").write_bytes(gzip.compress(idx(pictures), 1))
        (folder / labels).write_bytes(idx(names))
    return folder
