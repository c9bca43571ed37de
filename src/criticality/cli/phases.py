"""``criticality phases``: phase diagrams, with the critical line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from criticality.arguments import check_choice
from criticality.cli.options import DEPTH, POINTS, OneOf, common, left_out
from criticality.cli.output import emit, save_json, table
from criticality.errors import ArgumentError
from criticality.lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np

    from criticality import phases as maps
    from criticality.pointwise import PointwiseFunction
    from criticality.theory import LayerNorm, norms
else:
    np = lazy_module("numpy")
    maps = lazy_module("criticality.phases")
    norms = lazy_module("criticality.theory.norms")


@dataclass(frozen=True)
class Map:
    """A map, as it is drawn and written."""

    x_name: str
    y_name: str
    value_name: str
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    line: np.ndarray | None = None
    log_x: bool = False
    log_y: bool = False
    error: float | None = None
    beside: dict[str, np.ndarray] = field(default_factory=dict)


_LABELS = {
    "alpha": r"$\alpha$",
    "sigma_w": r"$\sigma_w$",
    "sigma_b": r"$\sigma_b$",
    "skip": r"skip scale $s$",
    "scale": r"branch scale $\lambda$",
    "depth": r"block $l$",
    "gain": r"gain of all weights",
    "log_chi": r"$\log\,\chi$",
    "weight": r"weight $a = b$ of the branches",
    "gradient_exponent": r"$\lambda_g$ per block",
}


_SHORT = {"angle_exponent": "lambda_a", "gradient_exponent": "lambda_g"}

_TITLES = {
    "mlp": r"MLP of {0}, layer {1}: ordered and chaotic",
    "resnet": r"residual network of {0}, depth {1}",
    "block": r"LayerNorm blocks of attention and an MLP of {0}: exponent of gradients",
    "transformer": r"pre-norm transformer of {0}, {1} blocks",
}


def _mlp(function: PointwiseFunction | LayerNorm, depth: int, points: int) -> Map:
    if isinstance(function, norms.LayerNorm):
        raise ArgumentError("function='ln' of mlp must be a pointwise function: with LayerNorm chi is 1 everywhere")
    x, y = np.linspace(0.3, 3.0, points), np.linspace(0.02, 1.5, points)
    plane = maps.amplification_map(
        function, depth, weight_variance=x[None, :] ** 2, bias_variance=y[:, None] ** 2, skip=0.0
    )
    line = maps.critical_line(function, y)
    return Map("sigma_w", "sigma_b", "log_chi", x, y, plane.log_chi, line=line, error=plane.error)


def _resnet_alpha(function: PointwiseFunction | LayerNorm, depth: int, points: int) -> Map:
    x, y = np.logspace(-1.5, 0.7, points), np.linspace(0.1, 3.0, points)
    plane = maps.amplification_map(function, depth, weight_variance=y[:, None] ** 2, alpha=x[None, :])
    return Map("alpha", "sigma_w", "log_apjn", x, y, plane.log_apjn, log_x=True, error=plane.error)


def _resnet_skip(function: PointwiseFunction | LayerNorm, depth: int, points: int) -> Map:
    x, y = np.linspace(0.1, 3.0, points), np.linspace(0.5, 1.0, points)
    plane = maps.amplification_map(function, depth, weight_variance=x[None, :] ** 2, skip=y[:, None])
    return Map("sigma_w", "skip", "log_apjn", x, y, plane.log_apjn, error=plane.error)


def _resnet_scale(function: PointwiseFunction | LayerNorm, depth: int, points: int) -> Map:
    x, y = np.linspace(0.1, 3.0, points), np.logspace(-2, 0, points)
    plane = maps.amplification_map(function, depth, weight_variance=(x[None, :] * y[:, None]) ** 2)
    return Map("sigma_w", "scale", "log_apjn", x, y, plane.log_apjn, log_y=True, error=plane.error)


def _transformer(function: PointwiseFunction | LayerNorm, depth: int, points: int, over_gain: bool) -> Map:
    if isinstance(function, norms.LayerNorm):
        raise ArgumentError("function='ln' of transformer must be a pointwise function, which has an alpha")
    from criticality.pointwise import Pointwise
    from criticality.theory import MLP, Attention, Linear, PointwiseNorm, transformer

    norm = PointwiseNorm(Pointwise(function))
    network = transformer(norm, Attention(), MLP(Pointwise("gelu"), down=Linear(2.0)), depth)
    x = np.logspace(-1.3, 0.5, points)
    gain = np.geomspace(0.5, 1.5, points) if over_gain else None
    values, error = maps.transformer_map(network, depth, alpha=x, gain=gain, tokens=197, rho0=0.3)
    if gain is not None:
        return Map("alpha", "gain", "log_apjn", x, gain, values, log_x=True, log_y=True, error=error)
    angle, gradient = maps.exponents_map(network, depth, alpha=x, tokens=197, rho0=0.3)
    beside = {"angle_exponent": angle, "gradient_exponent": gradient}
    depths = np.arange(1.0, depth + 1)
    return Map("alpha", "depth", "log_apjn", x, depths, values, log_x=True, log_y=True, beside=beside)


def _block(function: PointwiseFunction | LayerNorm, depth: int, points: int) -> Map:
    if isinstance(function, norms.LayerNorm):
        raise ArgumentError("function='ln' of block must be the activation of the MLP, whose norms are LayerNorms")
    x, y = np.linspace(0.2, 4.0, points), np.linspace(0.05, 0.95, points)
    angle, gradient = maps.collapse_map(function, x[None, :], attention_weight=y[:, None], mlp_weight=y[:, None])
    return Map("sigma_w", "weight", "gradient_exponent", x, y, gradient, beside={"angle_exponent": angle})


_MAPS: dict[str, dict[str, Callable[[PointwiseFunction | LayerNorm, int, int], Map]]] = {
    "mlp": {"sigma_w,sigma_b": _mlp},
    "resnet": {"alpha,sigma_w": _resnet_alpha, "sigma_w,skip": _resnet_skip, "sigma_w,scale": _resnet_scale},
    "block": {"sigma_w,weight": _block},
    "transformer": {
        "alpha,depth": lambda function, depth, points: _transformer(function, depth, points, False),
        "alpha,gain": lambda function, depth, points: _transformer(function, depth, points, True),
    },
}


def _table(drawn: Map) -> str:
    """A dozen rows: the critical line, or the value at a few heights of the map."""
    if drawn.line is not None:
        rows, heads = [[a, b] for a, b in zip(drawn.y, drawn.line, strict=True)], ["sigma_b", "critical sigma_w"]
    else:
        some = sorted({len(drawn.y) // 4, len(drawn.y) // 2, len(drawn.y) - 1})
        beside = some if drawn.y_name != "depth" else some[-1:]
        rows = [
            [a, *drawn.values[some, i], *(values[j, i] for values in drawn.beside.values() for j in beside)]
            for i, a in enumerate(drawn.x)
        ]
        at = [f"{drawn.y_name}={drawn.y[i]:.3g}" for i in some]
        heads = [drawn.x_name, *(f"{_SHORT.get(drawn.value_name, '')} {one}".strip() for one in at)]
        heads += [f"{_SHORT[name]} {one}" for name in drawn.beside for one in at[-len(beside) :]]
    return table(rows[:: max(1, len(rows) // 12)], heads)


@click.command()
@click.argument("network", type=OneOf([*_MAPS]))
@click.option("--over", help="What the map is over: " + "; ".join(f"{n}: {' | '.join(m)}" for n, m in _MAPS.items()))
@click.option("--function", "name", default="tanh", show_default=True, help="ln, built-in, or one of the zoo.")
@click.option("--depth", type=DEPTH, default=100, show_default=True, help="Layers, or blocks of a transformer.")
@click.option(
    "--points",
    type=POINTS,
    default=128,
    show_default=True,
    help="To each side of the map.",
)
@common
def phases(
    network: str, over: str | None, name: str, depth: int, points: int, as_json: bool, seed: int, out: Path | None
) -> None:
    """Map the phases of plain MLPs, or log J(0 -> L) of residual nets and transformers.

    mlp: log chi after --depth layers and the correlation length 1/abs(log chi), with the critical line chi = 1, traced by root
    finding. resnet: x <- s x + lambda W phi(alpha x). transformer: pre-norm blocks of attention and GELU MLP with fan-in
    weights, 197 tokens of correlation 0.3, over depth with lambda_g and lambda_a (see block) of each block. block: exponents per
    block of gradients (lambda_g) and of angles (lambda_a) of tokens that are nearly alike, x <- sqrt(1-a^2) x + a branch(LN x),
    --function being the MLP's. --out DIR gets phases.json, phases.png and phases.svg. Nothing here is random: --seed changes
    nothing.
    """
    if network == "block":
        left_out("phases block")
    kinds = _MAPS[network]
    if over is not None:
        check_choice(f"--over of {network}, --over", over, [*kinds])
    if name.lower() in (*norms.LAYER_NORMS, *norms.RMS_NORMS):
        function: PointwiseFunction | LayerNorm = norms.LayerNorm(epsilon=0.0)
    else:
        function = maps.zoo_function(name)
    over = over or next(iter(kinds))
    drawn = kinds[over](function, depth, points)
    record: dict[str, Any] = {"network": network, "over": over, "function": name, "depth": depth}
    record |= {drawn.x_name: drawn.x, drawn.y_name: drawn.y, drawn.value_name: drawn.values}
    record |= drawn.beside
    if drawn.error is not None:
        record["interpolation_error"] = drawn.error
    if drawn.line is not None:
        with np.errstate(divide="ignore"):
            record |= {"critical_sigma_w": drawn.line, "correlation_length": 1 / np.abs(drawn.values)}
    label = _LABELS.get(drawn.value_name, rf"$\log\,J(0 \to {'l' if drawn.y_name == 'depth' else depth})$")
    if out is not None:
        from criticality.reports.figures import map_figure, save_figure

        figure = map_figure(
            drawn.x,
            drawn.y,
            drawn.values,
            _LABELS[drawn.x_name],
            _LABELS[drawn.y_name],
            label,
            title=_TITLES[network].format(name, depth),
            line=drawn.line,
            contours=drawn.value_name == "log_apjn" and drawn.y_name == "depth",
            log_x=drawn.log_x,
            log_y=drawn.log_y,
        )
        save_json(record, out / "phases.json")
        save_figure(figure, out / "phases")
    emit(record, as_json, _table(drawn))
