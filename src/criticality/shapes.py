"""Annotations of arrays with dtype and shape: jaxtyping's, whose import costs as much as numpy's, where something checks them."""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped
else:

    class Shaped:
        """``Shaped[np.ndarray, "rows columns"]`` is an array, and nothing more is known of it."""

        def __class_getitem__(cls, _: Any) -> type:
            return np.ndarray

    Bool = Float = Float32 = Float64 = Int = Shaped

__all__ = ["Bool", "Float", "Float32", "Float64", "Int", "Shaped"]
