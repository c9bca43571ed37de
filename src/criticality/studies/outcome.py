"""What comes out of a claim: verdict, sentences, numbers, data of its figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "holds with limits", "fails", "not tested", "not decided yet"]


@dataclass(frozen=True)
class Outcome:
    """What came out of one claim.

    Attributes:
        verdict: decided by the numbers.
        computed: what was computed, in a sentence.
        found: what came out, in a sentence or a few, with its numbers and limits.
        numbers: those on which the verdict rests.
        data: what the figure is drawn from.
    """

    verdict: Verdict
    computed: str
    found: str
    numbers: dict[str, float]
    data: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As it is written to files."""
        return asdict(self)


@dataclass(frozen=True)
class Claim:
    """A claim of the plan and the computation that decides it.

    Attributes:
        key, statement: its name and what it says.
        decide: from a seed.
        trainings: whether it is read off the trainings that the library holds, which may have gone on since.
    """

    key: str
    statement: str
    decide: Callable[[int], Outcome]
    trainings: bool = False
