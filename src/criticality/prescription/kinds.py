"""What a prescription sets."""

from __future__ import annotations

from typing import Literal

Kind = Literal["constant", "alpha-scale", "schedule", "branch-scale", "gain"]

KINDS: tuple[Kind, ...] = ("constant", "alpha-scale", "schedule", "branch-scale", "gain")
