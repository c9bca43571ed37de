"""The residual stream of any model, found in the data flow of one forward pass; knows no names and no theory.

``criticality.stream(model, inputs)`` is ``criticality.stream.stream``: the package can be called by its verb.
"""

import sys
from types import ModuleType
from typing import Any

from criticality.stream.diamonds import Branch, Diamond, Reader, Site
from criticality.stream.find import Chain, Trace, trace
from criticality.stream.points import Point, Step, named_points
from criticality.stream.record import Call
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


class _Verb(ModuleType):
    """A package that is called like the function that it is named after."""

    def __call__(self, *arguments: Any, **named: Any) -> Stream:
        return stream(*arguments, **named)


sys.modules[__name__].__class__ = _Verb
