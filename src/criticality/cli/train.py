"""``criticality train``: one run of the training laboratory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from criticality.cli.options import (
    COUNT,
    DEPTH,
    FILE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SIZE,
    WRITTEN,
    OneOf,
    common,
    left_out,
)
from criticality.cli.output import emit, save, table
from criticality.cli.progress import bar
from criticality.laboratory.names import TASKS
from criticality.prescription.kinds import KINDS


@click.command()
@click.argument("task", type=OneOf(TASKS))
@click.option("--norm", default="dyt", show_default=True)
@click.option("--alpha", type=POSITIVE, help="Of a pointwise norm [default: 1].")
@click.option("--alpha-attention", type=POSITIVE, help="Of the norms before attention [default: that of --alpha].")
@click.option("--prescription", type=OneOf([*KINDS]), help="Set one before training [default: none].")
@click.option("--target", default="preln", show_default=True, help="Of the prescription: log J, preln or preln-tokens.")
@click.option("--depth", type=DEPTH, default=12, show_default=True)
@click.option("--width", type=SIZE, default=64, show_default=True)
@click.option("--mlp-gain", type=POSITIVE, default=1.0, show_default=True, help="Factor of the MLPs' weights.")
@click.option("--optimizer", type=OneOf(["adamw", "muon"]), default="adamw", show_default=True)
@click.option("--learning-rate", type=POSITIVE, default=1e-3, show_default=True)
@click.option("--decay", type=OneOf(["constant", "cosine"]), default="constant", show_default=True)
@click.option("--weight-decay", type=NOT_NEGATIVE, default=0.0, show_default=True, help="Of AdamW, on matrices.")
@click.option("--beta2", type=POSITIVE, default=0.999, show_default=True, help="Of AdamW.")
@click.option("--warm-up", type=SEED, default=0, show_default=True, help="Steps.")
@click.option("--steps", type=COUNT, default=200, show_default=True)
@click.option("--batch", type=SIZE, default=64, show_default=True)
@click.option("--clip", type=NOT_NEGATIVE, default=0.0, show_default=True, help="Largest gradient norm, 0 for none.")
@click.option("--dtype", type=OneOf(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--every", type=COUNT, default=50, show_default=True, help="Steps between records of the monitor.")
@click.option("--checkpoint", type=WRITTEN, help="File to resume from, written every 100 steps.")
@click.option("--data-root", type=FILE, help="Folder with FashionMNIST's four idx files.")
@click.option("--device", default="cpu", show_default=True)
@common
def train(
    task: str,
    checkpoint: Path | None,
    device: str,
    data_root: Path | None,
    as_json: bool,
    seed: int,
    out: Path | None,
    **settings: Any,
) -> None:
    """Train a small ViT on digits or FashionMNIST, or a small GPT on Python's own source code, and record its criticality.

    --out FILE.nc gets losses, gradient norms, APJN profiles and alphas. An interrupted run goes on from its --checkpoint.
    """
    import numpy as np

    from criticality.laboratory.train import Run
    from criticality.laboratory.train import train as run_training

    if settings["prescription"] is None:
        left_out("train without --prescription")
    if task != "fashion-vit":
        left_out("train on a task with data of its own")
    run = Run(task=task, seed=seed, **settings)
    with bar(run.steps, f"train {task}") as advance:
        result = run_training(
            run,
            checkpoint=checkpoint,
            device=device,
            data_root=data_root,
            progress=lambda step, loss: advance(f"loss {loss:.3f}", 1),
        )
    save(result, out)
    losses = result.loss.values
    record = {
        "task": task,
        "norm": run.norm,
        "alpha": run.alpha,
        "prescription": run.prescription,
        "log_apjn_initial": float(result.log_apjn_initial),
        "log_apjn_final": float(result.log_apjn[-1, 0]),
        "first_loss": float(losses[0]),
        "last_loss": float(np.nanmean(losses[np.isfinite(losses)][-10:])),
        "score": float(result.score),
        **({"test_score": float(result.test_score)} if "test_score" in result else {}),
        "diverged": bool(result.diverged),
        "diverged_at": int(result.diverged_at),
        "step_seconds": float(np.nanmedian(result.step_seconds)),
    }
    emit(record, as_json, table([[key, value] for key, value in record.items()], ["", ""]))
