"""Phases of deep networks: how log J grows with depth, for any depth, and why."""

from criticality.phases.classification import Classification, classify
from criticality.phases.depth import ResidualStep, amplification
from criticality.phases.maps import amplification_map, critical_line
from criticality.phases.tails import Tail, tail_of
from criticality.phases.zoo import ZOO, zoo_function, zoo_table

__all__ = [
    "ZOO",
    "Classification",
    "ResidualStep",
    "Tail",
    "amplification",
    "amplification_map",
    "classify",
    "critical_line",
    "tail_of",
    "zoo_function",
    "zoo_table",
]
