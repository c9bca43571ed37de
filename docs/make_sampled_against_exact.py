"""Write sampled_against_exact.md from ``data/sampled_against_exact.jsonl``, ``python docs/make_sampled_against_exact.py``.

``benchmarks/sampled_against_exact.py`` makes the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import erfc, sqrt
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
BEYOND = 2.0
NORMS = {None: "own", "dyt": "DyT, α 0.7", "derf": "Derf, α 0.7"}

Row = dict[str, Any]


def rows(store: Path) -> list[Row]:
    """What was compared, by the order of the store."""
    return [json.loads(line) for line in store.read_text().splitlines()]


def deviations(row: Row) -> list[float]:
    """Sampled minus exact in standard errors, at every point but the last."""
    return [(a - b) / e for a, b, e in zip(row["sampled"], row["exact"], row["error"], strict=True)]


def missed(row: Row) -> list[int]:
    """Points at which the two differ by more than 2 standard errors."""
    return [point for point, value in enumerate(deviations(row)) if abs(value) > BEYOND]


def page(store: Sequence[Row]) -> str:
    """The whole page."""
    first, *_ = [row["width"] for row in store]
    wide = [row for row in store if row["width"] == first and "exact" in row]
    narrow = {(row["model"], row["norm"]): row for row in store if row["width"] != first and "exact" in row}
    parts = [_opening(wide, first), _summary(wide), _table(wide), _misses(wide, narrow, first)]
    return "\n".join(line for part in parts for line in part) + "\n"


def _opening(wide: Sequence[Row], width: int) -> Iterator[str]:
    yield "# The two ways of prediction against each other"
    yield ""
    yield (
        f"Four blocks at width {width} of {len(wide)} networks that the exact theory describes, each with its own initialization"
        " (or with a function in the place of its norms), on one sequence of 16 bytes of text or one photograph of 16 patches."
        " *Exact*: the theory at infinite width. *Sampled*: the model run without its weights at its own width (and its own number"
        f" of heads), {wide[0]['seeds']} seeds, log of the mean of J with its standard error. The seeds of all networks are the"
        " same, but not what they stand for: draws are by weight and shape."
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
        f" The mean of all deviations is {sum(every) / len(every):+.2f} standard errors; the median difference in log J"
        f" {relative[len(relative) // 2]:.4f}, the largest {relative[-1]:.3f}."
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
            f"| {row['model']} | {NORMS[row['norm']]} | {row['exact'][0]:.4f} | {row['sampled'][0]:.4f} ± {row['error'][0]:.4f} |"
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
    yield from _READING


def _difference(row: Row, point: int) -> str:
    return f"{row['sampled'][point] - row['exact'][point]:+.4f} ± {row['error'][point]:.4f}"


_READING: tuple[str, ...] = ()


def main() -> None:
    (DOCS / "sampled_against_exact.md").write_text(page(rows(DOCS / "data" / "sampled_against_exact.jsonl")))


if __name__ == "__main__":
    main()
