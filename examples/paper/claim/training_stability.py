"""Whether log J at initialization decides the largest stable learning rate."""

from __future__ import annotations

from claim.evidence import (
    AT_16,
    AT_32,
    HELD,
    Studies,
    borne_out,
    decided,
    draw_estimates,
    evidence_of,
    progress_of,
    undecided,
)
from claim.outcome import Breaker, Claim, Outcome
from kept import kept_trainings
from made_up import plan_in_which


def decide(seed: int, studies: Studies | None = None) -> Outcome:
    """H1: the largest stable rate falls with ``log J`` at initialization.

    *fails* where the interval of the correlation at depth 32 reaches 0. *holds* where in addition those at depth 16 and of the
    held-out task do not, and a line fitted at depths 16 and 32 is better at depth 64 than the mean; else it *holds with limits*.
    """
    studies = kept_trainings() if studies is None else studies
    open_ = progress_of(studies, (*AT_32, *AT_16, *HELD))
    asked = (
        "Spearman's correlation of log J(0→L) at initialization and the largest rate at which all seeds end within 5 per cent of"
        " the best, over all choices of norm, α and weights, LayerNorm among them"
    )
    if not open_.complete:
        return undecided(asked, open_, studies, "log_stable")
    found = evidence_of(studies, "log_stable", seed)
    return decided(asked, open_, found, borne_out(found))


CLAIM = Claim(
    key="training-stability",
    statement="Criticality at initialization determines training stability.",
    decide=decide,
    verdict="fails",
    breakers=(
        Breaker(
            "trainings in which every choice has the same largest stable rate",
            lambda seed: decide(seed, plan_in_which(log_stable=lambda alpha, log_apjn: -2.0)),
        ),
        Breaker("trainings in which it falls with log J", lambda seed: decide(seed, plan_in_which()), "holds"),
    ),
    draw=draw_estimates,
    trainings=True,
)
