"""Measurement on real PyTorch models; knows nothing of the theory or of the command line."""

from criticality.measurement.apjn import measure, measure_ensemble
from criticality.measurement.between import input_kernels, measure_between, measure_forward
from criticality.measurement.points import ResidualPoint, residual_points

__all__ = [
    "ResidualPoint",
    "input_kernels",
    "measure",
    "measure_between",
    "measure_ensemble",
    "measure_forward",
    "residual_points",
]
