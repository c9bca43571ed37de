"""``criticality predict``: mean-field theory of an architecture, no weight allocated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from criticality.arguments import Correlation, Variance
from criticality.cli.options import (
    FROM,
    NOT_NEGATIVE,
    PROBE,
    SAMPLES,
    SEEDS,
    WAY,
    NumberOf,
    Way,
    common,
    left_out,
    model_changes,
    model_norm,
)
from criticality.cli.output import emit, forward_record, forward_text, profile_record, profile_text, save, with_error
from criticality.cli.progress import bar, working
from criticality.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from criticality.schema import ProfileArrays
    from criticality.theory import Network, SymmetricKernel
    from criticality.theory.kernels import Kernel


@click.command()
@click.argument("model")
@model_norm
@click.option(
    "--sigma-w", type=NOT_NEGATIVE, default=1.0, show_default=True, help="resnet: weights are N(0, sigma_w^2/n)."
)
@click.option(
    "--sigma-b", type=NOT_NEGATIVE, default=0.0, show_default=True, help="resnet: biases are N(0, sigma_b^2)."
)
@click.option("--q0", type=NumberOf(Variance), default=1.0, show_default=True, help="resnet: variance of the input.")
@click.option(
    "--rho0", type=NumberOf(Correlation), default=0.0, show_default=True, help="resnet: correlation of two inputs."
)
@click.option(
    "--way",
    type=WAY,
    default="auto",
    show_default=True,
    help="exact (theory of the network), sampled (the model is run without its weights) or auto: exact where it is described.",
)
@click.option("--seeds", type=SEEDS, default=4, show_default=True, help="Of the sampled way.")
@SAMPLES
@PROBE
@FROM
@model_changes
@common
def predict(
    model: str,
    as_json: bool,
    seed: int,
    out: Path | None,
    samples: int,
    way: Way,
    seeds: int,
    probe: str,
    source: int | None,
    **options: Any,
) -> None:
    """Kernels and log APJN of MODEL at initialization, no large weight allocated.

    MODEL is "resnet", the one-branch residual network x + W phi(alpha x) + b, or a real model, whose architecture and
    initial variances are read without allocating a weight: "timm:NAME", "hf:PATH/config.json", "hf:MODEL_TYPE" or
    "module:PATH.py:FACTORY". Its input are the kernels of two photographs or of two stretches of source code.
    """
    if source is not None:
        _forward(model, source, options, way=way, probe=probe, samples=samples, seed=seed, as_json=as_json, out=out)
        return
    if model == "resnet":
        left_out("predict resnet")
        if probe != "normal":
            raise ArgumentError(f"probe={probe!r} must be 'normal' for resnet, whose inputs do not mix")
        found: xr.Dataset | ProfileArrays = _resnet(**options)
    else:
        with working("load torch"):
            from criticality.models import model_spec
            from criticality.studies.predict import predict_description

        left_out("predict MODEL")
        if way != "auto":
            left_out(f"--way {way}")
        description = model_spec(model, **{key: options[key] for key in _CHANGES})
        with working(f"predict {model}"), bar(seeds, "seeds") as advance:
            found = predict_description(
                description,
                way=way,
                seeds=seeds,
                samples=samples,
                seed=seed,
                probe=probe,
                progress=lambda done: advance(f"seed {done}", 1),
            )
    record = {"model": model, "norm": options["norm"], "alpha": options["alpha"], **profile_record(found)}
    collapse = found.attrs.get("collapse_exponents")
    if collapse is not None:
        record |= dict(zip(("angle_exponent", "gradient_exponent"), map(float, collapse), strict=True))
    record |= {"way": found.attrs.get("way", "exact"), "probe": probe}
    save(found, out)
    error = with_error(record.get("log_apjn_se"), ".2g")
    text = profile_text(record, f"{model}: log J(0->L) = {record['log_apjn']:.4f}{error} ({record['way']})")
    if collapse is not None:
        text += "\n\nlast block, tokens nearly alike: lambda_a = {:.6g} (angles), lambda_g = {:.6g} (gradients)".format(
            *collapse
        )
    emit(record, as_json, text)


def _forward(
    model: str,
    source: int,
    options: dict[str, Any],
    *,
    way: str,
    probe: str,
    samples: int,
    seed: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """``log J(source -> m)`` of the exact theory for every later block."""
    from criticality.theory import propagate_between

    if way == "sampled" or probe != "normal":
        raise ArgumentError(
            f"from={source!r} must come with the exact way and --probe normal, got {way!r} and {probe!r}"
        )
    left_out("predict resnet" if model == "resnet" else "predict MODEL")
    inputs: Kernel | Sequence[Kernel]
    if model == "resnet":
        network, inputs = _resnet_of(**options)
    else:
        from criticality.models import model_spec

        description = model_spec(model, **{key: options[key] for key in _CHANGES})
        network, inputs = description.read(seed)
    dataset = propagate_between(network, inputs, start=source, samples=samples, seed=seed)
    record = {"model": model, "from": source, **forward_record(dataset)}
    save(dataset, out)
    title = f"{model}: log J({source}->L) = {record['log_apjn']:.4f}"
    emit(record, as_json, forward_text(record, title))


_CHANGES = ("norm", "alpha", "depth", "width", "image_size", "tokens", "text", "init", "embedding_scale")


def _resnet(**options: Any) -> ProfileArrays:
    from criticality.theory.propagation import propagated

    return propagated(*_resnet_of(**options), seeds=[0])[0]


def _resnet_of(
    norm: str | None,
    alpha: float | None,
    depth: int | None,
    sigma_w: float,
    sigma_b: float,
    q0: float,
    rho0: float,
    **others: Any,
) -> tuple[Network, SymmetricKernel]:
    from criticality.theory import SymmetricKernel, make_norm, resnet

    network = resnet(make_norm(norm or "dyt", alpha), 64 if depth is None else depth, sigma_w**2, sigma_b**2)
    return network, SymmetricKernel.of(q0, rho0 * q0)
