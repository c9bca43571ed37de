"""Measurement on real PyTorch models; knows nothing of the theory or of the command line."""

from criticality.measurement.apjn import ensemble_dataset, ensemble_profiles, measure, measure_chains, measure_ensemble
from criticality.measurement.between import measure_between, measure_forward, measure_forward_ensemble
from criticality.measurement.ends import input_kernels, output_kernels
from criticality.measurement.points import Points
from criticality.measurement.profile import Profile, profile
from criticality.measurement.statistics import log_mean
from criticality.moved import renamed_names

__getattr__ = renamed_names(__name__)

__all__ = [
    "Points",
    "Profile",
    "ensemble_dataset",
    "ensemble_profiles",
    "input_kernels",
    "log_mean",
    "measure",
    "measure_between",
    "measure_chains",
    "measure_ensemble",
    "measure_forward",
    "measure_forward_ensemble",
    "output_kernels",
    "profile",
]
