"""``criticality train``: one run of the training laboratory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from criticality.cli.options import common
from criticality.cli.output import emit, save, table
from criticality.cli.progress import bar
from criticality.laboratory.names import TASKS
from criticality.prescription.kinds import KINDS


@click.command()
@click.argument("task", type=click.Choice(TASKS))
@click.option("--norm", default="dyt", show_default=True)
@click.option("--alpha", type=float, help="Of a pointwise norm [default: 1].")
@click.option("--alpha-attention", type=float, help="Of the norms before attention [default: that of --alpha].")
@click.option("--prescription", type=click.Choice([*KINDS]), help="Set one before training [default: none].")
@click.option("--target", default="preln", show_default=True, help="Of the prescription: log J, preln or preln-tokens.")
@click.option("--depth", type=int, default=12, show_default=True)
@click.option("--width", type=int, default=64, show_default=True)
@click.option("--mlp-gain", type=float, default=1.0, show_default=True, help="Factor of the MLPs' weights.")
@click.option("--optimizer", type=click.Choice(["adamw", "muon"]), default="adamw", show_default=True)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True)
@click.option("--decay", type=click.Choice(["constant", "cosine"]), default="constant", show_default=True)
@click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Of AdamW, on matrices.")
@click.option("--beta2", type=float, default=0.999, show_default=True, help="Of AdamW.")
@click.option("--warm-up", type=int, default=0, show_default=True, help="Steps.")
@click.option("--steps", type=int, default=200, show_default=True)
@click.option("--batch", type=int, default=64, show_default=True)
@click.option("--clip", type=float, default=0.0, show_default=True, help="Largest gradient norm, 0 for none.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--every", type=int, default=50, show_default=True, help="Steps between records of the monitor.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="File to resume from, written every 100 steps.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder with FashionMNIST's four idx files.")
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
