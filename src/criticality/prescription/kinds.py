"""What a prescription sets."""

from __future__ import annotations

from typing import Literal

Kind = Literal["constant", "schedule", "branch-scale", "gain"]

KINDS: tuple[Kind, ...] = ("constant", "schedule", "branch-scale", "gain")
