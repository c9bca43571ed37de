"""Pointwise functions and their Gaussian moments; knows nothing of networks."""

from criticality.pointwise.function import PointwiseFunction, pointwise_function
from criticality.pointwise.library import ALIASES, FUNCTIONS, get_function
from criticality.pointwise.moments import Pointwise

__all__ = ["ALIASES", "FUNCTIONS", "Pointwise", "PointwiseFunction", "get_function", "pointwise_function"]
