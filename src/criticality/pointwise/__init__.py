"""Pointwise functions and their Gaussian moments; knows nothing of networks."""

from criticality.pointwise.function import PointwiseFunction, pointwise_function
from criticality.pointwise.library import ALIASES, FUNCTIONS
from criticality.pointwise.moments import Pointwise
from criticality.pointwise.named import get_function
from criticality.pointwise.zoo import ZOO

__all__ = ["ALIASES", "FUNCTIONS", "ZOO", "Pointwise", "PointwiseFunction", "get_function", "pointwise_function"]
