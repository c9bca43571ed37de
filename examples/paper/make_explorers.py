"""Write tables and still pictures of the article's interactive figures: ``python examples/paper/make_explorers.py [NAME ...]``.

Tables are scripts, ``_static/explorer/NAME.js``, so that pages opened from a disk can read them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from criticality.phases import critical_line
from criticality.pointwise import get_function
from criticality.reports import COLOURS, DASHES, NORM_NAMES, STYLE, save_figure
from criticality.schema import write_text
from explorer import block_explorer, mlp_explorer, residual_explorer, window_explorer

DOCS = Path(__file__).parents[2] / "docs"
DIGITS = 5
"""Significant digits of the tables' numbers: a relative error of at most 5e-5."""


def rounded(values: np.ndarray) -> list[Any]:
    """Flat, with ``DIGITS`` significant digits; ``None`` for what is not finite."""
    flat = values.ravel().tolist()
    if values.dtype.kind in "USi":
        return flat
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in flat]


def record(table: xr.Dataset) -> dict[str, Any]:
    """Axes, and each array flat in C order with the names of its axes."""
    return {
        "axes": {name: rounded(table[name].values) for name in table.coords},
        "arrays": {
            name: {"over": list(array.dims), "values": rounded(array.values)} for name, array in table.data_vars.items()
        },
    }


def write(name: str, table: xr.Dataset) -> None:
    text = json.dumps(record(table), separators=(",", ":"))
    write_text(
        f'(window.criticalityTables = window.criticalityTables || {{}})["{name}"] = {text};\n',
        DOCS / "_static" / "explorer" / f"{name}.js",
    )


def with_line(table: xr.Dataset) -> xr.Dataset:
    """The critical line beside the map: ``sigma_w`` at each ``sigma_b``."""
    biases = np.maximum(table.sigma_b.values, 1e-4)
    return table.assign(line=("sigma_b", critical_line(get_function("tanh"), biases)))


def picture_of_residual(table: xr.Dataset) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for style, norm in enumerate(table.norm.values):
            one = table.sel(norm=norm, sigma_w=1.0).sel(alpha=1.0, method="nearest")
            marks = {"color": COLOURS[style], "dashes": DASHES[style], "label": NORM_NAMES[str(norm)]}
            left.plot(one.depth[1:], one.log_apjn[1:], **marks)
            right.plot(one.depth[1:], one.rho.sel(rho0=0.6)[1:], **marks)
        left.set(xscale="log", xlabel="depth $l$", ylabel=r"$\log\,J(0 \to l)$")
        right.set(xscale="log", xlabel="depth $l$", ylabel=r"correlation $\rho_l$", ylim=(0, 1))
        left.legend(title=r"$\alpha = 1$, $\sigma_w = 1$")
    return figure


def picture_of_mlp(table: xr.Dataset) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.grid(False)
        image = left.pcolormesh(
            table.sigma_w, table.sigma_b, np.log(table.chi).T, cmap="PuOr_r", vmin=-1, vmax=1, shading="nearest"
        )
        left.plot(table.line, table.sigma_b, color="black")
        left.set(xlabel=r"$\sigma_w$", ylabel=r"$\sigma_b$")
        figure.colorbar(image, ax=left, label=r"$\log\,\chi$", extend="both")
        for style, sigma_w in enumerate((0.9, 1.4, 1.8)):
            one = table.sel(sigma_b=0.3, rho0=0.6, method="nearest").sel(sigma_w=sigma_w, method="nearest")
            right.plot(one.depth, one.rho, color=COLOURS[style], dashes=DASHES[style], label=rf"$\sigma_w = {sigma_w}$")
        right.set(xlabel="layer $l$", ylabel=r"correlation $\rho_l$", ylim=(0, 1.03), xlim=(0, 40))
        right.legend()
    return figure


def picture_of_window(table: xr.Dataset) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        one = table.sel(norm="dyt", deviation=4.0)
        left.plot(one.u, one.slope, color=COLOURS[0], dashes=DASHES[0], label=r"$\tanh'(u)^2$")
        left.plot(one.u, one.density, color=COLOURS[1], dashes=DASHES[1], label=r"density of $u = \alpha x$")
        left.fill_between(one.u, one.passed, color=COLOURS[0], alpha=0.35, lw=0, label="their product")
        left.set(xlabel=r"$u$", title=r"$\alpha\sqrt{K} = 4$")
        left.legend(fontsize=7.5)
        for style, norm in enumerate(table.norm.values):
            marks = {"color": COLOURS[style], "label": NORM_NAMES[str(norm)]}
            right.plot(table.deviation, table.moment.sel(norm=norm), dashes=DASHES[style], **marks)
            right.plot(table.deviation, table.asymptote.sel(norm=norm), color=COLOURS[style], lw=0.8)
        right.plot(table.deviation, table.deviation**-2.0, color=COLOURS[2], dashes=DASHES[2], label="LayerNorm")
        right.set(xscale="log", yscale="log", xlabel=r"$\alpha\sqrt{K}$", ylabel=r"$E\,\phi'^2$", ylim=(3e-4, 3))
        right.legend()
    return figure


def picture_of_block(table: xr.Dataset) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for style, norm in enumerate(table.norm.values):
            one = table.sel(norm=norm, gain=1.0, alpha=1.0, tokens=197)
            marks = {"color": COLOURS[style], "dashes": DASHES[style], "label": NORM_NAMES[str(norm)]}
            left.plot(one.depth[1:], one.log_apjn[1:], **marks)
            right.plot(one.depth[1:], one.rho[1:], **marks)
        left.set(xscale="log", xlabel="block $l$", ylabel=r"$\log\,J(0 \to l)$")
        right.set(xscale="log", xlabel="block $l$", ylabel=r"correlation of tokens", ylim=(0, 1))
        left.legend(title=r"$\alpha = 1$, $T = 197$")
    return figure


PICTURES: dict[str, tuple[Callable[[], xr.Dataset], Callable[[xr.Dataset], Figure]]] = {
    "residual": (residual_explorer, picture_of_residual),
    "mlp": (lambda: with_line(mlp_explorer()), picture_of_mlp),
    "window": (window_explorer, picture_of_window),
    "block": (block_explorer, picture_of_block),
}


def main() -> None:
    for name in sys.argv[1:] or PICTURES:
        table_of, picture_of = PICTURES[name]
        table = table_of()
        write(name, table)
        save_figure(picture_of(table), DOCS / "figures" / "article" / f"explorer_{name}")[1].unlink()


if __name__ == "__main__":
    main()
