"""Write prescriptions.md, what each choice gives at depths 12 to 192: ``python docs/make_prescriptions.py``.

About ten minutes on two cores.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from criticality import __version__
from criticality.measurement import measure_ensemble
from criticality.models import ViTSpec
from criticality.prescription import Prescription, apply_prescription, prescribe
from criticality.prescription.solve import alpha_edits, changed_network, edits_of_kind
from criticality.reports.figures import COLOURS, DASHES, MARKERS, STYLE, save_figure
from criticality.theory import alphas_of, propagate

DOCS = Path(__file__).parent
DEPTHS = (12, 24, 48, 96, 192)
SEEDS = 6


def vit(depth: int, norm: str, alpha: float | None) -> ViTSpec:
    return ViTSpec("vit_base_patch16_224", norm=norm, alpha=alpha, depth=depth, width=256, image_size=64, init="fan-in")


def fixed(description: ViTSpec, kind: str, value: float) -> Prescription:
    """A prescription whose value is given, not solved for."""
    network, inputs = description.read(0)
    changed = changed_network(network, inputs, kind, value)
    profile = propagate(changed, inputs)
    share = float(1 - profile.q[0] / profile.q[-1])
    schedule = kind == "schedule"
    return Prescription(
        kind,
        value,
        alpha_edits(alphas_of(changed), value / math.sqrt(float(profile.q[-1])))
        if schedule
        else edits_of_kind(kind, value),
        float(profile.log_apjn[0]),
        math.nan,
        math.nan,
        share,
        "given",
    )


def choices(norm: str, depth: int) -> dict[str, tuple[ViTSpec, Prescription | None]]:
    found: dict[str, tuple[ViTSpec, Prescription | None]] = {
        f"constant α = {alpha:g}": (vit(depth, norm, alpha), None) for alpha in (0.25, 0.5, 1.0, 2.0)
    }
    one = vit(depth, norm, 1.0)
    found["schedule c/√K, c = 1"] = one, fixed(one, "schedule", 1.0)
    found["schedule, matched to pre-LN"] = one, prescribe(*one.read(0), "preln", "schedule")
    found["α = 1, branches × 1/√(2L)"] = one, fixed(one, "branch-scale", 1 / math.sqrt(2 * depth))
    return found


def row(name: str, norm: str, depth: int, description: ViTSpec, found: Prescription | None) -> dict:
    network, inputs = description.read(0)
    if found is None:
        profile = propagate(network, inputs)
        predicted, share = float(profile.log_apjn[0]), float(1 - profile.q[0] / profile.q[-1])
    else:
        predicted, share = found.log_apjn, found.branch_share

    def build(seed: int) -> torch.nn.Module:
        model = description.build()
        if found is not None:
            apply_prescription(found, model)
        return model

    measured = measure_ensemble(build, description.inputs(), range(SEEDS), probes=2)
    print(norm, name, depth, predicted, float(measured.log_apjn[0]), flush=True)
    return {
        "norm": norm,
        "choice": name,
        "depth": depth,
        "predicted": predicted,
        "measured": float(measured.log_apjn[0]),
        "measured_se": float(measured.log_apjn_se[0]),
        "branch_share": share,
    }


def main() -> None:
    rows = []
    for depth in DEPTHS:
        rows.append(row("LayerNorm", "ln", depth, vit(depth, "ln", None), None))
        for norm in ("dyt", "derf"):
            rows += [row(name, norm, depth, *choice) for name, choice in choices(norm, depth).items()]
    (DOCS / "data" / "prescriptions.json").write_text(json.dumps(rows, indent=1) + "\n")
    (DOCS / "prescriptions.md").write_text(page(rows))
    draw(rows)


def names_of(rows: list[dict]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["norm"], r["choice"]) for r in rows))


def page(rows: list[dict]) -> str:
    names = names_of(rows)
    lines = [
        "# What each choice of alpha gives",
        "",
        f"Made by `docs/make_prescriptions.py` (criticality {__version__}); do not edit. ViT, width 256, 64 pixels,"
        " fan-in weights, two"
        f" photographs: log J(0→L), theory / measured ± standard error ({SEEDS} seeds).",
        "",
        "| Norm | Choice | " + " | ".join(f"depth {depth}" for depth in DEPTHS) + " | branch share at 24 |",
        "|---|---|" + "---|" * (len(DEPTHS) + 1),
    ]
    for norm, choice in names:
        mine = {r["depth"]: r for r in rows if (r["norm"], r["choice"]) == (norm, choice)}
        cells = [f"{r['predicted']:.2f} / {r['measured']:.2f} ± {r['measured_se']:.2f}" for r in mine.values()]
        label = {"dyt": "DyT", "derf": "Derf", "ln": "LayerNorm"}[norm]
        lines.append(
            f"| {label} | {'' if norm == 'ln' else choice} | {' | '.join(cells)} | {mine[24]['branch_share']:.3f} |"
        )
    misses = [abs(r["predicted"] - r["measured"]) - 3 * r["measured_se"] for r in rows]
    lines += [
        "",
        f"Largest miss beyond three standard errors: {max(misses):.2f}. LayerNorm's class token, whose variance is"
        " small at the input,"
        " inflates its log J(0→L); the schedule is matched to LayerNorm with all tokens alike.",
        "",
        "![log J against depth for each choice](figures/prescriptions.png)",
        "",
    ]
    return "\n".join(lines)


def draw(rows: list[dict]) -> None:
    names = names_of(rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 3.6), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for panel, norm in zip(axes, ("dyt", "derf"), strict=True):
            shown = [("ln", "LayerNorm"), *(pair for pair in names if pair[0] == norm)]
            for style, (kind, choice) in enumerate(shown):
                mine = [r for r in rows if (r["norm"], r["choice"]) == (kind, choice)]
                colour = "#777777" if style == 0 else COLOURS[style - 1]
                depth = [r["depth"] for r in mine]
                label = choice
                panel.plot(
                    depth,
                    [r["predicted"] for r in mine],
                    color=colour,
                    dashes=DASHES[style - 1] if style else (),
                    lw=1.5,
                )
                panel.errorbar(
                    depth,
                    [r["measured"] for r in mine],
                    yerr=[r["measured_se"] for r in mine],
                    fmt=MARKERS[style - 1] if style else "*",
                    color=colour,
                    mfc="white",
                    ms=4.5,
                    capsize=2,
                    label=label,
                )
            panel.set(xscale="log", yscale="log", xlabel="depth $L$", title={"dyt": "DyT", "derf": "Derf"}[norm])
            panel.set_xticks(DEPTHS, [str(d) for d in DEPTHS])
            panel.minorticks_off()
        axes[0].set_ylabel(r"$\log\,J(0 \to L)$")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7.5)
    save_figure(figure, DOCS / "figures" / "prescriptions")
    (DOCS / "figures" / "prescriptions.svg").unlink()


if __name__ == "__main__":
    main()
