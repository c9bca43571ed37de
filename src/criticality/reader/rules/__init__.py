"""What each function of torch does to fields: a table from names to rules, without a rule for what is not in it."""

from criticality.reader.rules import arithmetic, attention, functions, norms, products, views  # noqa: F401
from criticality.reader.rules.table import RULES

__all__ = ["RULES"]
