"""Bridges from real models to the theory: construction, reading of variances, real inputs."""

from criticality.models.conversion import Conversion, Replacement, replace_norms, write_weights
from criticality.models.description import ModelDescription, OwnDescription, describe_model
from criticality.models.huggingface import HuggingFaceDescription, huggingface_network
from criticality.models.images import photographs
from criticality.models.initialization import INITS, InitializationRecorder, initialize
from criticality.models.normalizers import DynamicPointwise
from criticality.models.text import random_tokens, source_bytes
from criticality.models.timm_vit import ViTDescription, embedding_kernels, vit_network

__all__ = [
    "INITS",
    "Conversion",
    "DynamicPointwise",
    "HuggingFaceDescription",
    "InitializationRecorder",
    "ModelDescription",
    "OwnDescription",
    "Replacement",
    "ViTDescription",
    "describe_model",
    "embedding_kernels",
    "huggingface_network",
    "initialize",
    "photographs",
    "random_tokens",
    "replace_norms",
    "source_bytes",
    "vit_network",
    "write_weights",
]
