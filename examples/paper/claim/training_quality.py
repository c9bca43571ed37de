"""Whether log J at initialization decides the quality of the trained network."""

from __future__ import annotations

from claim.evidence import (
    AT_16,
    AT_32,
    HELD,
    LONG,
    Studies,
    borne_out,
    converged,
    decided,
    draw_estimates,
    evidence_of,
    progress_of,
    table_of,
    undecided,
)
from claim.outcome import Breaker, Claim, Outcome
from criticality.studies.association import correlation
from kept import kept_trainings
from made_up import plan_in_which

CONVERGED = 0.9
"""Rank correlation of the quality of the same choices after twice the steps, from which on quality counts as converged."""


def decide(seed: int, studies: Studies | None = None) -> Outcome:
    """H2 and H3: quality at convergence falls with ``log J`` at initialization, and it is ``log J`` and not ``alpha``.

    *fails* where the interval of the correlation at depth 32 reaches 0. *holds* where what ``training_stability`` asks
    for is so of quality, at equal alpha the interval stays below 0 and the correlation is larger than that of alpha at
    equal ``log J``, and quality is ``CONVERGED``; else it *holds with limits*.
    """
    studies = kept_trainings() if studies is None else studies
    open_ = progress_of(studies, (*AT_32, *AT_16, *HELD, LONG))
    asked = (
        "Spearman's correlation of log J(0→L) at initialization and test accuracy at the rate of best validation accuracy, over"
        " all choices of norm, α and weights, LayerNorm among them, also at equal rank of α"
    )
    if not open_.complete:
        return undecided(asked, open_, studies, "quality")
    found = evidence_of(studies, "quality", seed)
    table = table_of([studies[name] for name in AT_32])
    mine = found["at equal α"] = correlation(table, "log_apjn", "quality", "log_alpha", seed=seed)
    other = found["of α at equal log J"] = correlation(table, "log_alpha", "quality", "log_apjn", seed=seed)
    same = converged(studies["factorial_32"], studies[LONG])
    good = borne_out(found) and mine.high < 0 and abs(mine.value) > abs(other.value) and same >= CONVERGED
    said = f" Rank correlation of quality with that after twice the steps: {same:+.2f}."
    return decided(asked, open_, found, good, said, {"converged": same})


CLAIM = Claim(
    key="training-quality",
    statement="Criticality at initialization predicts the quality of the trained network.",
    decide=decide,
    verdict="holds with limits",
    breakers=(
        Breaker(
            "trainings that end alike at any log J",
            lambda seed: decide(seed, plan_in_which(quality=lambda alpha, log_apjn: 0.8)),
        ),
        Breaker(
            "trainings whose quality falls with α alone",
            lambda seed: decide(seed, plan_in_which(quality=lambda alpha, log_apjn: 0.9 - 0.02 * alpha)),
        ),
    ),
    draw=draw_estimates,
    trainings=True,
)
