"""Models without their weights: the laws of an initialization, and running a model with its weights integrated out."""

from criticality.weightless.building import build_without_weights
from criticality.weightless.law import Law
from criticality.weightless.laws import laws_of, unknown_laws
from criticality.weightless.predict import predict_sampled
from criticality.weightless.sampling import WeightsIntegratedOut

__all__ = ["Law", "WeightsIntegratedOut", "build_without_weights", "laws_of", "predict_sampled", "unknown_laws"]
