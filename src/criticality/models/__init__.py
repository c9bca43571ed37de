"""Bridges from real models to the theory: construction, reading of variances, real inputs."""

from criticality.models.images import photographs
from criticality.models.initialization import INITS, InitializationRecorder, initialize
from criticality.models.normalizers import DynamicPointwise
from criticality.models.timm_vit import ViTDescription, embedding_kernels, timm_name, vit_network

__all__ = [
    "INITS",
    "DynamicPointwise",
    "InitializationRecorder",
    "ViTDescription",
    "embedding_kernels",
    "initialize",
    "photographs",
    "timm_name",
    "vit_network",
]
