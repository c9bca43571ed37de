"""Studies that use theory and measurement together."""

from criticality.studies.compare import Comparison, compare, steps_per_case, summary

__all__ = ["Comparison", "compare", "steps_per_case", "summary"]
