"""``criticality prescribe``: what makes a model critical, set on its weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from criticality.cli.options import (
    NAMES,
    SAMPLES,
    SEEDS,
    VERIFICATIONS,
    WAY,
    WRITTEN,
    OneOf,
    Way,
    common,
    left_out,
    model_changes,
    model_norm,
)
from criticality.cli.output import emit, save_json, table, with_error
from criticality.cli.progress import bar, working
from criticality.errors import ArgumentError, UndescribedError
from criticality.prescription.kinds import KINDS, Kind
from criticality.randomness import forked, seed_everything

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from criticality.models import ModelSpec
    from criticality.prescription.apply import Applied
    from criticality.prescription.sampled import SampledPrescription
    from criticality.prescription.solve import Prescription


@click.command()
@click.argument("model")
@model_norm
@click.option(
    "--target",
    default="preln",
    show_default=True,
    help="log J(0->L), preln, preln-tokens, or share=0.9 (least log J at it).",
)
@click.option("--kind", type=OneOf([*KINDS]), default="schedule", show_default=True)
@click.option(
    "--from-data", is_flag=True, help="Set the schedule by one forward pass on real inputs, not by the theory."
)
@click.option(
    "--keep", type=NAMES, default=(), help="Patterns of norms, branches or weights that stay: names, globs, re:..."
)
@click.option("--only", type=NAMES, default=(), help="Patterns of those that are set. With either the way is sampled.")
@click.option("--strict", is_flag=True, help="Refuse a model of which something else would be left as it is.")
@click.option("--apply", "weights", type=WRITTEN, help="Write the model's weights, prescription set.")
@click.option(
    "--verify",
    type=VERIFICATIONS,
    default=0,
    help="Weight seeds to measure the prescribed model with.",
)
@click.option(
    "--way",
    type=WAY,
    default="auto",
    show_default=True,
    help="exact (theory of the network), sampled (the model is run without its weights) or auto.",
)
@click.option("--seeds", type=SEEDS, default=4, show_default=True, help="Of the sampled way, and as many fresh ones.")
@SAMPLES
@model_changes
@common
def prescribe(
    model: str,
    target: str,
    kind: Kind,
    from_data: bool,
    keep: tuple[str, ...],
    only: tuple[str, ...],
    strict: bool,
    weights: Path | None,
    verify: int,
    way: Way,
    seeds: int,
    samples: int,
    as_json: bool,
    seed: int,
    out: Path | None,
    **changes: Any,
) -> None:
    """Solve for what gives MODEL (see predict) a log J at initialization, and list what it changes.

    constant: one alpha for all norms. alpha-scale: every alpha times one number, so that those of --alpha keep their ratio.
    schedule: alpha_l = c / sqrt(K_l). branch-scale: output weights of every branch. gain: all weights of the blocks. Nothing is
    written without --apply (safetensors; the weights are random, from --seed) or --out (the prescription as JSON).
    """

    with working("load torch"):
        from criticality.models import model_spec, write_weights

    if from_data and kind != "schedule":
        raise ArgumentError(f"kind={kind!r} must be 'schedule' with --from-data")
    scope: dict[str, Any] = {"keep": keep, "only": only or ("*",)}
    if keep or only:
        way = _sampled_way(way, target)
    if way != "auto":
        left_out(f"--way {way}")
    description = model_spec(model, **changes)
    found, curve = _solved(description, target, kind, way=way, seeds=seeds, samples=samples, seed=seed, scope=scope)

    def build(number: int) -> torch.nn.Module:
        seed_everything(number)
        built = description.build()
        batch = description.inputs(number if from_data else seed)
        applied.append(_set(found, built, batch, from_data, strict=strict, **scope))
        return built

    applied: list[Applied] = []
    measured = _measured(description, build, verify, seed) if verify else {}
    if weights is not None:
        with forked():
            click.echo(f"wrote {write_weights(build(seed), weights)}", err=True)
    if not applied:
        with working("what changes"), forked():
            build(seed)
    rows = [{"name": c.name, "what": c.what, "before": c.before, "after": c.after} for c in applied[0].changes]
    left = [{"name": one.name, "reason": one.reason} for one in applied[0].untouched]
    record = {"model": model, **{k: changes[k] for k in ("norm", "init", "depth")}, **found.record(), **measured}
    record |= {"changes": rows, "left": left, "trade_off": curve}
    save_json(record, out)
    emit(record, as_json, _text(found, rows, [*map(str, applied[0].untouched)], curve, measured))


def _solved(
    description: ModelSpec,
    target: str,
    kind: Kind,
    *,
    way: Way,
    seeds: int,
    samples: int,
    seed: int,
    scope: dict[str, Any],
) -> tuple[Prescription, list[dict[str, float]]]:
    """What meets the target, by the theory of the network where it can be described, and what other values would give."""
    from criticality.prescription.solve import least_amplification, prescribe, trade_off

    try:
        with working("read the model"):
            described = None if way == "sampled" else description.read(seed)
    except UndescribedError:
        if way == "exact":
            raise
        described = None
    if described is None:
        with working("solve"):
            sampled = _sampled(description, target, kind, seeds, seed, scope)
        return sampled, [{"value": value, "log_apjn": log_apjn} for value, log_apjn in sampled.tried]
    network, inputs = described
    with working("solve"):
        if target.startswith("share="):
            found = least_amplification(network, inputs, _share(target), samples=samples, seed=seed)
        else:
            found = prescribe(network, inputs, target, kind, samples=samples, seed=seed)
    with working("trade-off"):
        around = [found.value * factor for factor in (0.25, 0.5, 0.71, 1, 1.41, 2, 4)]
        return found, trade_off(network, inputs, found.kind, around)


def _measured(
    description: ModelSpec, build: Callable[[int], torch.nn.Module], count: int, seed: int
) -> dict[str, float]:
    """``log J`` of prescribed models of so many weight seeds."""
    from criticality.measurement import measure_ensemble

    with bar(count, "verify") as advance:
        profile = measure_ensemble(
            build,
            description.inputs(seed),
            range(seed, seed + count),
            points=description.points,
            progress=lambda number: advance(f"seed {number}", 1),
        )
    return {
        "log_apjn_measured": float(profile.log_apjn[0]),
        "log_apjn_measured_se": float(profile.log_apjn_se[0]),
    }


def _sampled_way(way: Way, target: str) -> Way:
    """The way that knows norms and branches by name.

    Raises:
        ArgumentError: another was asked for, or a target that is met by all of them together.
    """
    if way == "exact" or target.startswith("share="):
        what = f"--way {way}" if way == "exact" else f"--target {target}"
        raise ArgumentError(f"{what} must be left out with --keep and --only, which the sampled way meets a log J with")
    return "sampled"


def _share(target: str) -> float:
    try:
        share = float(target.removeprefix("share="))
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ArgumentError(f"target={target!r} must be share= and a number between 0 and 1")
    return share


def _sampled(
    description: ModelSpec, target: str, kind: Kind, seeds: int, seed: int, scope: dict[str, Any]
) -> SampledPrescription:
    """Without weights; the target ``preln`` is the same model with LayerNorm, its tokens as they are."""
    from criticality.prescription.sampled import least_amplification_sampled, prescribe_sampled
    from criticality.prescription.solve import PRE_LAYER_NORM, PRE_LAYER_NORM_TOKENS
    from criticality.weightless import predict_sampled

    batch = description.inputs(seed)
    settings: dict[str, Any] = {"points": description.points, "init": description.init}
    if target.startswith("share="):
        return least_amplification_sampled(description.create, batch, _share(target), seeds, seed=seed, **settings)
    if target in (PRE_LAYER_NORM, PRE_LAYER_NORM_TOKENS):
        normed: Any = replace(description, norm="ln", alpha=None)  # type: ignore[type-var]
        wanted = float(predict_sampled(normed.create, batch, range(seed, seed + seeds), **settings).log_apjn[0])
    else:
        try:
            wanted = float(target)
        except ValueError:
            raise ArgumentError(f"target={target!r} must be a log J, 'preln', 'preln-tokens' or share=0.9") from None
    return prescribe_sampled(description.create, batch, wanted, kind, seeds, seed=seed, **settings, **scope)


def _set(found: Prescription, model: torch.nn.Module, batch: Any, from_data: bool, **scope: Any) -> Applied:
    """Set it, by the batch where that is asked for."""
    from criticality.prescription.apply import apply_prescription, schedule_from_data

    if from_data:
        return schedule_from_data(model, batch, found.value, **scope)
    return apply_prescription(found, model, batch, **scope)


def _text(
    found: Prescription,
    rows: list[dict[str, Any]],
    left: list[str],
    curve: list[dict[str, float]],
    measured: dict[str, float],
) -> str:
    import numpy as np

    from criticality.prescription.sampled import SampledPrescription

    shown = (
        rows if len(rows) <= 12 else [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, 12).round().astype(int))]
    )
    error = f" of fresh seeds{with_error(found.log_apjn_se, '.3f')}" if isinstance(found, SampledPrescription) else ""
    parts = [
        f"{found.kind}: {found.value:.4f}. {found.why}.",
        f"log J(0->L) = {found.log_apjn:.3f}{error} (before: {found.log_apjn_before:.3f}), branch share {found.branch_share:.3f}",
        table([list(row.values()) for row in shown], ["module", "what", "before", "after"])
        + f"\n({len(rows)} changes{f', {len(left)} left as they were)' if left else ')'}"
        + "".join(f"\n  {one}" for one in left),
        table(
            [list(row.values()) for row in curve],
            [found.kind, "log J (quick theory)" if not error else "log J (tried)", "branch share"],
        ),
    ]
    if measured:
        parts.insert(
            2, f"measured: {measured['log_apjn_measured']:.3f}{with_error(measured['log_apjn_measured_se'], '.3f')}"
        )
    return "\n\n".join(parts)
