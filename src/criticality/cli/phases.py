"""``criticality phases``: phase diagrams, with the critical line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from criticality.cli.options import common
from criticality.cli.output import emit, save_json, table
from criticality.phases import amplification_map, critical_line, zoo_function
from criticality.reports.figures import map_figure, save_figure


@click.command()
@click.argument("network", type=click.Choice(["mlp", "resnet"]))
@click.option("--function", "name", default="tanh", show_default=True, help="A built-in function or one of the zoo.")
@click.option("--depth", type=int, default=100, show_default=True, help="Layers.")
@click.option("--points", type=click.IntRange(2, 2048), default=128, show_default=True, help="To each side of the map.")
@common
def phases(
    network: Literal["mlp", "resnet"], name: str, depth: int, points: int, as_json: bool, seed: int, out: Path | None
) -> None:
    """Map the phases of plain MLPs over (sigma_w, sigma_b), or log J of residual nets over (alpha, sigma_w).

    mlp: log chi after --depth layers, and the critical line chi = 1, traced by root finding. resnet: x + W phi(alpha x).
    --out DIR gets phases.json, phases.png and phases.svg. Nothing here is random: --seed changes nothing.
    """
    function = zoo_function(name)
    record: dict[str, Any] = {"network": network, "function": name, "depth": depth}
    if network == "mlp":
        x, y = np.linspace(0.3, 3.0, points), np.linspace(0.02, 1.5, points)
        _, _, values = amplification_map(
            function, depth, weight_variance=x[None, :] ** 2, bias_variance=y[:, None] ** 2, skip=0.0
        )
        line = critical_line(function, y)
        record |= {"sigma_w": x, "sigma_b": y, "log_chi": values, "critical_sigma_w": line}
        figure = map_figure(x, y, values, r"$\sigma_w$", r"$\sigma_b$", r"$\log\,\chi$", line=line)
        rows, heads = [[a, b] for a, b in zip(y, line, strict=True)], ["sigma_b", "critical sigma_w"]
    else:
        x, y = np.logspace(-1.5, 0.7, points), np.linspace(0.1, 3.0, points)
        values, _, _ = amplification_map(function, depth, weight_variance=y[:, None] ** 2, alpha=x[None, :])
        record |= {"alpha": x, "sigma_w": y, "log_apjn": values}
        label = rf"$\log\,J(0 \to {depth})$"
        figure = map_figure(x, y, values, r"$\alpha$", r"$\sigma_w$", label, log_x=True)
        rows = [[a, *values[[points // 4, points // 2, -1], i]] for i, a in enumerate(x)]
        heads = ["alpha", *(f"sigma_w={y[i]:.3g}" for i in (points // 4, points // 2, -1))]
    if out is not None:
        save_json(record, out / "phases.json")
        save_figure(figure, out / "phases")
    emit(record, as_json, table(rows[:: max(1, points // 12)], heads))
