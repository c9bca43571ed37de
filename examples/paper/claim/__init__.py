"""The claims of the article's plan, a file each: what is said, the computation that decides it, what would break it, its figure.

Every computation takes what it tests as arguments: with other functions, norms, theories or trainings in their place the same code
gives another verdict, and the tests see that it does.
"""

from claim import (
    alpha_amplifies,
    alpha_class,
    boundedness,
    classes,
    duality,
    finite_width,
    orthogonality,
    small_alpha,
    training_quality,
    training_stability,
    vit,
)
from claim.outcome import Breaker, Claim, Outcome, Verdict

CLAIMS: dict[str, Claim] = {
    file.CLAIM.key: file.CLAIM
    for file in (
        orthogonality,
        finite_width,
        duality,
        classes,
        boundedness,
        alpha_class,
        alpha_amplifies,
        small_alpha,
        vit,
        training_stability,
        training_quality,
    )
}
"""In the order of the page."""

__all__ = ["CLAIMS", "Breaker", "Claim", "Outcome", "Verdict"]
