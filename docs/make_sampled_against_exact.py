"""Write sampled_against_exact.md from ``data/sampled_against_exact.jsonl``, ``python docs/make_sampled_against_exact.py``.

``benchmarks/sampled_against_exact.py`` makes the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import erfc, hypot, sqrt
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parent
BEYOND = 2.0
NORMS = {None: "own", "dyt": "DyT, α 0.7", "derf": "Derf, α 0.7"}

Row = dict[str, Any]


def rows(store: Path) -> list[Row]:
    """What was compared, by the order of the store."""
    return [json.loads(line) for line in store.read_text().splitlines()]


def deviations(row: Row) -> list[float]:
    """Sampled minus exact in standard errors, those of both together, at every point but the last."""
    points = zip(row["sampled"], row["exact"], errors(row), strict=True)
    return [0.0 if a == b else (a - b) / e for a, b, e in points]


def errors(row: Row) -> list[float]:
    """Standard errors of both ways together."""
    return [hypot(*both) for both in zip(row["error"], row["exact_error"], strict=True)]


def missed(row: Row) -> list[int]:
    """Points at which the two differ by more than 2 standard errors."""
    return [point for point, value in enumerate(deviations(row)) if abs(value) > BEYOND]


def page(store: Sequence[Row]) -> str:
    """The whole page."""
    first, *_ = [row["width"] for row in store]
    wide = [row for row in store if row["width"] == first and "exact" in row]
    narrow = {(row["model"], row["norm"]): row for row in store if row["width"] != first and "exact" in row}
    parts = [_opening(wide, first), _summary(wide), _chance(wide), _table(wide), _misses(wide, narrow, first)]
    return "\n".join(line for part in parts for line in part) + "\n"


def _opening(wide: Sequence[Row], width: int) -> Iterator[str]:
    yield "# The two ways of prediction against each other"
    yield ""
    yield (
        f"Four blocks at width {width} of {len(wide)} networks that the exact theory describes, each with its own initialization"
        " (or with a function in the place of its norms), on one sequence of 16 bytes of text or one photograph of 16 patches."
        " *Exact*: the theory at infinite width, averaged over 3,072 scores of each attention, with what that leaves of noise."
        " *Sampled*: the model run without its weights at its own width (and its own number"
        f" of heads), {wide[0]['seeds']} seeds, log of the mean of J with its standard error."
    )
    yield ""
    yield "Made by `benchmarks/sampled_against_exact.py` and `docs/make_sampled_against_exact.py`."
    yield ""


def _summary(wide: Sequence[Row]) -> Iterator[str]:
    agree = sum(not missed(row) for row in wide)
    every = [value for row in wide for value in deviations(row)]
    beyond = sum(abs(value) > BEYOND for value in every)
    chance = erfc(BEYOND / sqrt(2))
    relative = sorted(abs(a - b) for row in wide for a, b in zip(row["sampled"], row["exact"], strict=True))
    yield (
        f"Aimed at: no difference beyond {BEYOND:g} standard errors. Reached: at every point by {agree} of {len(wide)} networks;"
        f" {beyond} of {len(every)} points are beyond, where chance alone puts {100 * chance:.0f} % ({chance * len(every):.0f}),"
        " in runs, as the points of one network share their seeds."
        f" {sum(max(map(abs, row['exact'])) < 1e-4 for row in wide)} of the networks have a log J of 0 to"
        " four digits (LayerScale), and test nothing."
        f" The mean of all deviations is {sum(every) / len(every):+.2f} standard errors; the median difference in log J"
        f" {relative[len(relative) // 2]:.4f}, the largest {relative[-1]:.3f}."
    )
    yield ""


def _chance(wide: Sequence[Row]) -> Iterator[str]:
    """Whether all deviations together are what chance makes, each a ``t`` of as many degrees of freedom as seeds less one."""
    tested = [row for row in wide if max(map(abs, row["exact"])) >= 1e-4]
    found = [np.array(deviations(row)) for row in tested]
    counts, freedom = [len(one) for one in found], wide[0]["seeds"] - 1
    square = float(np.mean(np.concatenate(found) ** 2))
    drawn = np.random.default_rng(0).standard_t(freedom, (100_000, sum(counts)))
    starts = np.cumsum([0, *counts[:-1]])
    together = np.average(drawn[:, starts] ** 2, axis=1, weights=counts)
    apart = np.mean(drawn**2, axis=1)
    means = np.array([one.mean() for one in found])
    shift, spread = means.mean(), means.std(ddof=1) / sqrt(len(means))
    low, high = sorted(float(np.mean(null >= square)) for null in (together, apart))
    yield (
        f"A test of all of them: the mean square of the {sum(counts)} deviations of the {len(tested)} networks that test something"
        f" is {square:.2f}, where chance alone gives {freedom}/{freedom - 2} = {freedom / (freedom - 2):.2f} (each is a t of"
        f" {freedom} degrees of freedom). One as large or larger has probability {low:.2f} to {high:.2f}: if the points"
        " of one network are independent, or if they always move together, as they share their seeds. The mean of a"
        " network's deviations is"
        f" {shift:+.2f} ± {spread:.2f} over networks (p = {erfc(abs(shift) / spread / sqrt(2)):.2f} for none)."
    )
    yield ""


def _table(wide: Sequence[Row]) -> Iterator[str]:
    yield "| network | norms | log J(0→L) exact | sampled | largest deviation, of its standard error | at point | seconds a seed |"
    yield "|---|---|---|---|---|---|---|"
    for row in wide:
        found = deviations(row)
        worst = max(range(len(found)), key=lambda point: abs(found[point]))
        bold = "**" if abs(found[worst]) > BEYOND else ""
        yield (
            f"| {row['model']} | {NORMS[row['norm']]} | {row['exact'][0]:.4f} ± {row['exact_error'][0]:.4f} |"
            f" {row['sampled'][0]:.4f} ± {row['error'][0]:.4f} |"
            f" {bold}{found[worst]:+.1f}{bold} | {worst} of {len(found)} | {row['seconds']:g} |"
        )
    yield ""


def _misses(wide: Sequence[Row], narrow: dict[Any, Row], width: int) -> Iterator[str]:
    found = [(row, narrow.get((row["model"], row["norm"]))) for row in wide if missed(row)]
    if not found:
        return
    other = next((again["width"] for _, again in found if again), None)
    yield "## Beyond two standard errors"
    yield ""
    yield (
        f"Each is run again at width {other} with fan-in · Var(W) of every branch kept: the exact network is the same, and what a"
        f" finite width adds is {width // other if other else 2} times as much. Sampled minus exact, with standard errors:"
    )
    yield ""
    yield f"| network | point | width {width} | width {other} |"
    yield "|---|---|---|---|"
    for row, again in found:
        for point in missed(row):
            cells = [_difference(one, point) if one else "–" for one in (row, again)]
            yield f"| {row['model']}, {NORMS[row['norm']]} | {point} | {cells[0]} | {cells[1]} |"
    yield ""
    repeated = [(again, point) for row, again in found if again for point in missed(row)]
    gone = sum(abs(deviations(again)[point]) <= BEYOND for again, point in repeated)
    yield (
        f"At {gone} of these {len(repeated)} points the narrower network is within {BEYOND:g} standard errors: there"
        " the difference is no effect of a finite width, which would have grown, but what chance makes of so many points."
    )


def _difference(row: Row, point: int) -> str:
    return f"{row['sampled'][point] - row['exact'][point]:+.4f} ± {errors(row)[point]:.4f}"


def main() -> None:
    (DOCS / "sampled_against_exact.md").write_text(page(rows(DOCS / "data" / "sampled_against_exact.jsonl")))


if __name__ == "__main__":
    main()
