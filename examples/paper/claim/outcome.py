"""What a claim is, what breaks it, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from matplotlib.axes import Axes

from criticality.theory import Norm, make_norm

Verdict = Literal["holds", "holds with limits", "fails", "not decided yet"]
Draw = Callable[[Sequence[Axes], Mapping[str, Any]], None]
NormOf = Callable[[float], Norm]


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
class Breaker:
    """What the same computation, fed with it, gives another verdict for.

    Attributes:
        what: in the place of what the claim is about.
        decide: from a seed.
        verdict: that comes out then.
    """

    what: str
    decide: Callable[[int], Outcome]
    verdict: Verdict = "fails"


@dataclass(frozen=True)
class Claim:
    """A claim of the article's plan, and the computation that decides it.

    Attributes:
        key, statement: its name and what it says.
        decide: from a seed.
        verdict: that came out with seed 0; the tests decide again with another.
        breakers: what would break it; the tests see that it does.
        draw: its figure, of so many ``panels``, from the data of its outcome.
        trainings: whether it is read off the trainings that the article keeps, which may have gone on since.
    """

    key: str
    statement: str
    decide: Callable[[int], Outcome]
    verdict: Verdict
    breakers: tuple[Breaker, ...]
    draw: Draw
    panels: int = 1
    trainings: bool = False


def dyt(alpha: float) -> Norm:
    """``tanh(alpha x)``, what the claims on alpha are about."""
    return make_norm("dyt", alpha)
