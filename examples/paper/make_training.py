"""Write studies/training.md, its figures and the two claims from the packed studies: ``python examples/paper/make_training.py``.

It reads whatever is there and says of how many cells it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

import draw_training
import pictures
from claim import CLAIMS
from claim.evidence import AT_16, AT_32, HELD, LONG, PLAN, TASK, converged, table_of
from claims import claim_record, write_page
from criticality import __version__
from criticality.errors import ArgumentError
from criticality.reports import save_figure
from criticality.studies.association import LEAST, Estimate, Table, correlation, held_out
from criticality.studies.endings import ENDINGS, endings
from criticality.studies.predictors import PREDICTORS
from criticality.studies.training import Choice, Trainings
from criticality.sweeps import packed_dataset
from kept import DATA, kept_trainings
from plane import kept_panels

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "studies"
TARGETS = {"quality": "quality", "log_stable": "largest stable rate", "speed": "loss after 100 steps at 3e-4"}
WORDS = (
    "**Words** (of [the plan](plan.md), committed before the data). *Quality*: test accuracy at the rate of best mean"
    " validation accuracy, mean over three seeds. *Stable rate*: the largest rate of the grid of half decades at which every"
    " seed's validation accuracy is within 5 per cent of the best rate's mean; 1 is the end of the grid. *Speed*: training loss"
    " in steps 90 to 100 at rate 3e-4. Intervals are 95 per cent, from resampled choices and, within each, seeds. Only choices"
    " whose search for rates has ended are read."
)


def initial_studies(names: tuple[str, ...] = ("initial_16", "initial_32", "initial_64")) -> dict[str, xr.Dataset]:
    """What was measured before the first step, by the name of the study of trainings that it belongs to."""
    found: dict[str, xr.Dataset] = {}
    for name in names:
        path = DATA / f"{name}.zarr.zip"
        if path.exists():
            data = packed_dataset(path)
            depth = name.removeprefix("initial_")
            found |= dict.fromkeys((f"factorial_{depth}", f"families_{depth}", f"long_{depth}"), data)
    return {name: data for name, data in found.items() if "log_sharpness" in data}


def shown(found: Estimate) -> str:
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def if_enough(compute: Callable[..., Estimate], *given: Any) -> str:
    """The estimate, or how many choices there are: too few is said by the library."""
    try:
        return shown(compute(*given))
    except ArgumentError:
        return "too few"


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of_progress(studies: dict[str, Trainings]) -> list[str]:
    lines = ["| Study | cells |", "|---|---|"]
    return lines + [f"| `{name}` | {studies[name].progress if name in studies else PLAN[name]} |" for name in PLAN]


def table_of_choices(study: Trainings) -> list[str]:
    lines = [
        "| Choice | σ_w, or the MLPs' gain | log J | quality | best rate | stable rate | speed | diverged | spike |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for choice in sorted(study.choices, key=lambda choice: (choice.label, weights_of(choice))):
        r = choice.result()
        log_apjn = study.log_apjn(choice)
        lines.append(
            f"| {choice.label} | {weights_of(choice):.3g} | {log_apjn:.2f} | {r.quality:.4f} | {r.best_rate:.0e} |"
            f" {10**r.log_stable:.0e} | {r.speed:.3f} | {100 * r.diverged:.0f} % | {r.spike:.2f} |"
        )
    return lines


def weights_of(choice: Choice) -> float:
    """Scale of the weights: ``sigma_w`` of the recursion, the gain of a ViT's MLPs."""
    return float(choice.settings.get("sigma_w", choice.settings.get("mlp_gain", 1.0)))


def table_of_correlations(table: Table) -> list[str]:
    lines = ["| Predictor | " + " | ".join(TARGETS.values()) + " | choices |", "|---|---|---|---|---|"]
    for name, words in PREDICTORS.items():
        cells = [if_enough(correlation, table, name, target) for target in TARGETS]
        count = len(table.defined([name, "quality"]))
        lines.append(f"| {words} | " + " | ".join(cells) + f" | {count} |")
    return lines


PARTIALS = {
    "log J at equal α": ("log_apjn", "log_alpha"),
    "α at equal log J": ("log_alpha", "log_apjn"),
    "log J at equal share of the branches": ("log_apjn", "branch_share"),
    "ρ_L at equal log J": ("correlation", "log_apjn"),
}
"""Rows of the page's table of partial correlations: predictor, and what is held equal."""


def table_of_partials(
    table: Table,
    rows: Mapping[str, tuple[str, str | None]],
    heads: tuple[str, ...] = ("Rank correlation", *TARGETS.values()),
) -> list[str]:
    """Rank correlations with quality, stable rate and speed, each predictor at equal ranks of what is given, if anything."""
    lines = ["| " + " | ".join(heads) + " |", "|---|---|---|---|"]
    for words, (predictor, given) in rows.items():
        cells = [if_enough(correlation, table, predictor, target, given) for target in TARGETS]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return lines


def table_of_errors(fitted: Table, held: Table) -> list[str]:
    lines = ["| Predictor | " + " | ".join(TARGETS.values()) + " |", "|---|---|---|---|"]
    for name, words in PREDICTORS.items():
        cells = [if_enough(held_out, fitted, held, name, target) for target in TARGETS]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return lines


def table_of_rates(fitted: list[Trainings], held: Mapping[str, list[Trainings]], measured: dict) -> list[str]:
    """How near a line in one number known before the first step comes to the largest stable rate, where it was not fitted."""
    here, there = _with_kind(fitted, measured), {name: _with_kind(studies, measured) for name, studies in held.items()}
    heads = [f"{name}: within a factor 2 | median factor" for name in held]
    lines = ["| Known before the first step | " + " | ".join(heads) + " |", "|---|" + "---|---|" * len(held)]
    for name, words in {
        "nothing": "nothing, the mean rate",
        "kind": "LayerNorm and RMSNorm, or pointwise",
        **PREDICTORS,
    }.items():
        design = {
            key: np.column_stack([np.ones_like(d["kind"]), d.get(name, 0 * d["kind"])]) for key, d in there.items()
        }
        mine = np.column_stack([np.ones_like(here["kind"]), here.get(name, 0 * here["kind"])])
        known = np.isfinite(mine).all(1)
        line = np.linalg.lstsq(mine[known], here["log_stable"][known], rcond=None)[0]
        cells = []
        for key, values in design.items():
            asked = np.isfinite(values).all(1)
            error = np.abs(values[asked] @ line - there[key]["log_stable"][asked])
            near = f"{100 * np.mean(error <= np.log10(2)):.0f} %" if asked.any() else "not measured"
            cells += [near, f"{10 ** np.median(error):.1f}" if asked.any() else ""]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return lines


def _with_kind(studies: list[Trainings], measured: dict) -> dict[str, np.ndarray]:
    norms = [choice.settings["norm"] in ("ln", "rms") for study in studies for choice in study.choices]
    return {**table_of(studies, measured).whole, "kind": np.array(norms, float)}


def table_of_endings(studies: dict[str, Trainings]) -> list[str]:
    """Runs by how they end, and of each kind how many are as good as the best rate of their choice."""
    lines = ["| Study | norm | " + " | ".join(ENDINGS) + " |", "|---|---|" + "---|" * len(ENDINGS)]
    for name, study in studies.items():
        kind = endings(study.data)
        for norm in dict.fromkeys(choice.settings["norm"] for choice in study.begun):
            counts = dict.fromkeys(ENDINGS, (0, 0))
            for choice in (choice for choice in study.begun if choice.settings["norm"] == norm):
                good = choice.validation >= 0.95 * choice.validation.mean(1).max()
                for ending, fine in zip(kind[choice.cells].ravel(), good.ravel(), strict=True):
                    counts[ending] = counts[ending][0] + 1, counts[ending][1] + int(fine)
            cells = [f"{total} ({fine})" if total else "0" for total, fine in counts.values()]
            lines.append(f"| `{name}` | {norm} | " + " | ".join(cells) + " |")
    return lines


class Result(NamedTuple):
    """One choice: what it is, its log J at initialization, and how good it came to be."""

    name: str
    log_apjn: float
    quality: float

    def __str__(self) -> str:
        return f"{self.quality:.4f} ({self.name}, log J = {self.log_apjn:.1f})"


def layer_norm_against(study: Trainings) -> str:
    """H5: LayerNorm's quality, and the best pointwise choice's, over all and at about the same log J."""
    found: dict[bool, list[Result]] = {True: [], False: []}
    for choice in study.choices:
        normed = choice.settings["norm"] in ("ln", "rms")
        name = f"σ_w = {choice.settings['sigma_w']:g}" if normed else name_of(choice)
        found[normed].append(Result(name, study.log_apjn(choice), choice.result().quality))
    norms, others = found[True], found[False]
    if not norms or not others:
        return "LayerNorm and pointwise choices are not both there yet."
    best_norm, best_other = max(norms, key=lambda one: one.quality), max(others, key=lambda one: one.quality)
    near = [one for one in others if abs(one.log_apjn - best_norm.log_apjn) < 0.5]
    said = f"Best with LayerNorm: {best_norm}; best pointwise: {best_other}"
    if not near:
        return said + "; no pointwise choice of the same log J within 0.5."
    return f"{said}; best pointwise of the same log J within 0.5: {max(near, key=lambda one: one.quality)}."


ARTICLE: dict[str, dict[str, tuple[str, str | None]]] = {
    "accuracy": {
        "log J": ("log_apjn", None),
        "log J at equal α": ("log_apjn", "log_alpha"),
        "α": ("log_alpha", None),
        "α at equal log J": ("log_alpha", "log_apjn"),
        "nearness to criticality, −L λ_a": ("near_critical", None),
        "log sharpness": ("log_sharpness", None),
    },
    "largest stable rate": {
        "log J": ("log_apjn", None),
        "nearness to criticality, −L λ_a": ("near_critical", None),
    },
    "loss after 100 steps": {"log J": ("log_apjn", None)},
}
"""Rows of the article's table of rank correlations: outcome, predictor, and what is held equal."""


def table_of_article(studies: dict[str, Trainings], measured: dict[str, xr.Dataset]) -> str:
    """What the article shows: results at depth 32 by norm, in the order of log J, and rank correlations at all depths."""
    lines = rows_by_norm([studies[name] for name in AT_32 if name in studies], "Norm, 32 layers")
    if TASK in studies:
        lines += ["", *rows_by_norm([studies[TASK]], "Norm, ViT")]
    named = {"32 layers": AT_32, "16 layers": AT_16, "64 layers": HELD, "ViT": (TASK,)}
    tables = {
        name: table for name, parts in named.items() if (table := table_or_none(studies, parts, measured)) is not None
    }
    heads = [f"{name} ({len(table)} choices)" for name, table in tables.items()]
    lines += ["", "Rank correlations with 95 per cent intervals:", ""]
    lines += ["| Outcome | At initialization | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    outcomes = {words: target for target, words in TARGETS.items()}
    outcomes |= {"accuracy": "quality", "loss after 100 steps": "speed"}
    for outcome, rows_of in ARTICLE.items():
        for words, (predictor, given) in rows_of.items():
            cells = [if_enough(correlation, table, predictor, outcomes[outcome], given) for table in tables.values()]
            lines.append(f"| {outcome} | {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rows_by_norm(studies: list[Trainings], head: str) -> list[str]:
    """A line for each kind of norm, its choices in the order of log J."""
    by_norm: dict[str, list[tuple[float, Any]]] = {}
    for study in studies:
        for choice in study.choices:
            by_norm.setdefault(kind_of(choice), []).append((study.log_apjn(choice), choice.result()))
    lines = [f"| {head} | log J at initialization | accuracy | largest stable rate |", "|---|---|---|---|"]
    for kind in sorted(by_norm):
        rows = sorted(by_norm[kind], key=lambda row: row[0])
        cells = [
            ", ".join(f"{log_apjn:.1f}" for log_apjn, _ in rows),
            ", ".join(f"{result.quality:.3f}" for _, result in rows),
            ", ".join(f"{10**result.log_stable:.2g}" for _, result in rows),
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines


def kind_of(choice: Choice) -> str:
    """As the article's table calls its norm."""
    norm = choice.settings["norm"]
    if norm in ("ln", "rms"):
        return {"ln": "LayerNorm", "rms": "RMSNorm"}[norm]
    if norm.startswith("power"):
        return f"power {norm.removeprefix('power-')}"
    if choice.settings.get("schedule") or choice.settings.get("prescription"):
        return "DyT, schedule"
    return name_of(choice).replace(" ", ", α = ", 1)


def name_of(choice: Choice) -> str:
    return choice.label.replace("dyt", "DyT").replace("derf", "Derf")


# --- the page ---------------------------------------------------------------------------------------------------------


def table_or_none(studies: dict[str, Trainings], names: tuple[str, ...], measured: dict) -> Table | None:
    found = [studies[name] for name in names if name in studies and studies[name].choices]
    return table_of(found, measured) if found else None


def page(studies: dict[str, Trainings], measured: dict[str, xr.Dataset]) -> str:
    at_32, at_16, held = (table_or_none(studies, names, measured) for names in (AT_32, AT_16, HELD))
    fitted = table_or_none(studies, (*AT_32, *AT_16), measured)
    sections = [
        "# Does criticality at initialization predict converged training?",
        f"Made by `examples/paper/make_training.py` (criticality {__version__}) from the studies `studies/training/*.yaml`; do not"
        " edit. Residual recursion x ← x + W n(x) + b of width 128 on FashionMNIST, AdamW, cosine, 1,500 steps of 128 images, three"
        " seeds, rates searched. What is there so far:",
        "\n".join(table_of_progress(studies)),
        WORDS,
    ]
    for words, table in (("32", at_32), ("16", at_16), ("64, held out", held)):
        if table is not None and len(table) >= LEAST:
            sections += [
                f"## Predictors at initialization, depth {words}",
                f"Spearman's ρ over {len(table)} choices, LayerNorm among them wherever the predictor is defined for it.",
                "\n".join(table_of_correlations(table)),
                "\n".join(table_of_partials(table, PARTIALS)),
            ]
    if fitted is not None and held is not None:
        sections += [
            "## Error on the held-out depth",
            "Root mean square error at depth 64 of a line fitted at depths 16 and 32, over that of their mean; below 1 it is worth"
            " something.",
            "\n".join(table_of_errors(fitted, held)),
        ]
        rates = {"depth 64": [studies[name] for name in HELD], "ViT": [studies[TASK]]} if TASK in studies else {}
        if rates:
            sections += [
                "## Could the largest stable rate be predicted?",
                "Lines fitted at depths 16 and 32 to the log of the rate. Rates are on a grid of half decades, and 1 is its end.",
                "\n".join(table_of_rates([studies[name] for name in (*AT_32, *AT_16)], rates, measured)),
            ]
    if TASK in studies:
        task = table_of([studies[TASK]], measured)
        sections += [
            "## The held-out task, a vision transformer",
            f"Spearman's ρ over {len(task)} choices of norm, α and the MLPs' gain (`vit_alpha`: 12 blocks of width 32, 16 tokens).",
            "\n".join(table_of_correlations(task)),
        ]
    if LONG in studies and "factorial_32" in studies:
        sections += ["## Is it converged?", convergence(studies)]
    if "factorial_32" in studies:
        sections += ["## LayerNorm", layer_norm_against(studies["factorial_32"])]
    sections += [
        "## How runs end",
        "Runs at all rates; in brackets those within 5 per cent of the best rate of their choice. Words as in the plan.",
        "\n".join(table_of_endings(studies)),
    ]
    sections += figures(studies) + plane() + pictures.section(FOLDER)
    for name, study in studies.items():
        sections += [f"## Choices of `{name}`: {study.progress}", "\n".join(table_of_choices(study))]
    return "\n\n".join(sections) + "\n"


def plane() -> list[str]:
    """Study A, where something of it is packed: its figure and a line for each panel."""
    begun, done = kept_panels()
    panels = [panel for panel in begun if np.isfinite(panel.accuracy).all()]
    if not panels:
        return ["## Doshi's plane", f"{done} cells; no panel is whole at any rate yet."]
    save_figure(draw_training.draw_plane(panels), FOLDER / "plane")[1].unlink()
    lines = ["| Network | rank correlation of accuracy and \\|log χ*\\| | range of log χ* |", "|---|---|---|"]
    for panel in panels:
        span = f"{panel.log_chi.min():+.3f} to {panel.log_chi.max():+.3f}"
        name = f"{panel.activation}, {'LayerNorm' if panel.norm == 'ln' else 'no norm'}, μ = {panel.mu:g}"
        lines.append(f"| {name} | {if_enough(panel.correlation)} | {span} |")
    words = "χ* of the last layer by theory, and test accuracy at the best of three rates, over (σ_w², σ_b²)"
    return ["## Doshi's plane", f"{done} cells.", "\n".join(lines), f"![{words}](plane.png)"]


def convergence(studies: dict[str, Trainings]) -> str:
    try:
        same = converged(studies["factorial_32"], studies[LONG])
    except ArgumentError as error:
        return f"Not read yet: {error}."
    return f"Rank correlation of quality after 1,500 and 3,000 steps: {same:+.2f}; of {studies[LONG].progress}."


def figures(studies: dict[str, Trainings]) -> list[str]:
    found = []
    for name, figure, words in draw_training.drawn(studies):
        save_figure(figure, FOLDER / name)[1].unlink()
        found.append(f"![{words}]({name}.png)")
    return found


def write_claims() -> None:
    """The two claims anew, the others as they are."""
    out = DOCS / "claims"
    records = [
        claim_record(claim, 0, out) if claim.trainings else json.loads((out / "data" / f"{key}.json").read_text())
        for key, claim in CLAIMS.items()
    ]
    write_page(records, 0, out)


def write() -> None:
    """The page and its figures from what is kept."""
    studies, measured = kept_trainings(), initial_studies()
    (FOLDER / "training.md").write_text(page(studies, measured))
    study_c = "\n".join(pictures.table_of_accuracies(pictures.kept_pictures()))
    (FOLDER / "training_table.md").write_text(f"{table_of_article(studies, measured)}\n{study_c}\n")


if __name__ == "__main__":
    np.seterr(all="ignore")
    write()
    write_claims()
