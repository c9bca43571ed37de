"""The table of docs/comparison.md: this library and the source's recursions on ViTs that were measured here.

python examples/paper/make_recursions.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import deep
import folds
from criticality.schema import write_text
from draw_initial import THEORIES, gmfe, in_theory, noise, over_seeds
from recursions import paper, post
from stored import ROOT, curves_of
from vision import SIGMA

PAGE = ROOT / "docs" / "comparison.md"
BEGIN, END = "<!-- recursions: examples/paper/make_recursions.py -->", "<!-- end of recursions -->"

Profiles = Mapping[str, np.ndarray]


def of_equivalent_tokens() -> dict[str, Profiles]:
    """The 128 blocks, at the blocks that are kept."""
    curves = [(c["settings"], c["values"]) for c in curves_of("deep")]
    kept = list(deep.KEPT)
    found: dict[str, Profiles] = {}
    s, m, start = SIGMA**4, 4 * SIGMA**4, (1.0, deep.CORRELATION)
    for alpha in deep.CASES:
        mean, error = over_seeds(curves, alpha)["log_apjn"]
        found["LayerNorm" if alpha is None else f"Derf, α = {alpha:g}"] = {
            "measured": mean,
            "measured_se": error,
            "equivalent": in_theory(curves, alpha)["log_apjn"],
            "paper": paper(alpha, s, m, deep.DEPTH, deep.TOKENS, start)[kept],
            "post": post(alpha, s, m, deep.DEPTH, deep.TOKENS, start, SIGMA**4)[kept],
        }
    return found


def of_photographs(sigma: str) -> dict[str, Profiles]:
    """The 24 inputs: ``J`` averaged over them, of measurement and of each theory."""
    inputs = [c["values"] for c in curves_of("folds") if c["settings"]["sigma"] == sigma]
    return {name: averaged([values[name] for values in inputs]) for name in folds.CASES}


def averaged(profiles: Sequence[Mapping[str, Any]]) -> Profiles:
    """``log`` of the mean of ``J``; the standard error is that over inputs, each of which has weights of its own."""
    found: dict[str, np.ndarray] = {}
    for name in ("measured", *THEORIES):
        logs = np.array([one[name] for one in profiles])
        found[name] = np.log(np.exp(logs).mean(axis=0))
    shares = np.array([np.exp(np.subtract(one["measured"], one["tokens"])) for one in profiles])
    found["measured_se"] = shares.std(axis=0, ddof=1) / shares.mean(axis=0) / np.sqrt(len(profiles))
    return found


def table(cases: Mapping[str, Profiles], theories: Sequence[str], starts: Sequence[int]) -> Iterator[str]:
    """A row for each case: fold errors from each of ``starts`` to the end."""
    yield f"| | {' | '.join(THEORIES[theory] for theory in theories)} | noise alone |"
    yield f"|---|{'---|' * (len(theories) + 1)}"
    for name, profiles in cases.items():
        cells = [" / ".join(f"{gmfe(profiles, theory, first):.3f}" for first in starts) for theory in theories]
        level = " / ".join(f"{noise(profiles, first):.3f}" for first in starts)
        yield f"| {name} | {' | '.join(cells)} | {level} |"


def written() -> str:
    """The part of the page between its marks."""
    lines = [
        f"{deep.DEPTH} blocks, width {deep.WIDTH}, {deep.TOKENS} equivalent tokens, weights of σ = {SIGMA}, {deep.SEEDS} seeds;"
        f" every {deep.KEPT.step}th block:",
        "",
        *table(of_equivalent_tokens(), ("equivalent", "paper", "post"), (0,)),
    ]
    for sigma, value in folds.STRENGTHS.items():
        lines += [
            "",
            f"{folds.DEPTH} blocks, width {folds.WIDTH}, {folds.INPUTS[sigma]} parts of two photographs with timm's class token"
            f" and positions, weights of σ = {value:.2f}, {folds.SEEDS} seeds for each input,"
            " J averaged over inputs; all blocks / from block 4 on:",
            "",
            *table(of_photographs(sigma), tuple(THEORIES), (0, 4)),
        ]
    return "\n".join(lines)


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    write_text(f"{before}{BEGIN}\n{written()}\n{END}{rest.partition(END)[2]}", PAGE)


if __name__ == "__main__":
    main()
