"""The residual stream of any model, found in the data flow of one forward pass; knows no names and no theory."""

from criticality.stream.diamonds import Branch, Diamond, Reader, Site
from criticality.stream.find import Chain, Trace, trace
from criticality.stream.points import Point, Step, named_points
from criticality.stream.recording import Call
from criticality.stream.show import Stream, stream

__all__ = [
    "Branch",
    "Call",
    "Chain",
    "Diamond",
    "Point",
    "Reader",
    "Site",
    "Step",
    "Stream",
    "Trace",
    "named_points",
    "stream",
    "trace",
]
