"""Studies that use theory and measurement together."""

from criticality.studies.compare import Comparison, compare, summary

__all__ = ["Comparison", "compare", "summary"]
