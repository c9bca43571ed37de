"""Studies that use theory and measurement together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticality.lazy import lazy_names

if TYPE_CHECKING:
    from criticality.studies.compare import Comparison, steps_per_case, summary

__getattr__, __dir__ = lazy_names(__name__, {"compare": ("Comparison", "steps_per_case", "summary")})

__all__ = ["Comparison", "steps_per_case", "summary"]
