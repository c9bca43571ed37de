"""What does a training step of the laboratory cost with each norm, in time and in memory, beside LayerNorm?

Whole steps (forward, backward, AdamW) of the ViT on digits, at the width of the stability study and at a larger one; norms take
turns, in processor time of one thread.  Memory: bytes of distinct tensors that autograd keeps for the backward pass.  ``--out
FILE`` writes the table as JSON, from which the article's last figure is drawn (``examples/paper/data/cost.json``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from criticality.laboratory.tasks import task
from criticality.laboratory.train import Run, Training
from side_by_side import machine, saved_bytes

NORMS = {"none": None, "rms": None, "ln": None, "dyt": 1.0, "derf": 1.0}
SETTINGS = ((32, 12, 16), (32, 48, 16), (256, 12, 64))


class Trainer:
    """One model of the laboratory, stepped on the same batch again and again."""

    def __init__(self, norm: str, width: int, depth: int, batch: int):
        run = Run(norm=norm, alpha=NORMS[norm], width=width, depth=depth, batch=batch)
        self.training = Training(run, task("digits"))
        self.batch = self.training.made.batch(batch, torch.Generator().manual_seed(0))

    def step(self) -> float:
        start = time.process_time()
        self.training.update(self.batch, 1e-5)
        return time.process_time() - start

    def saved_bytes(self) -> int:
        return saved_bytes(lambda: self.training.made.loss(self.training.model, self.batch))


def compare(width: int, depth: int, batch: int, rounds: int) -> list[dict[str, float | str]]:
    trainers = {norm: Trainer(norm, width, depth, batch) for norm in NORMS}
    for trainer in trainers.values():
        trainer.step()
    ratios: dict[str, list[float]] = {norm: [] for norm in NORMS}
    seconds: list[float] = []
    for _ in range(rounds):
        times = {norm: trainer.step() for norm, trainer in trainers.items()}
        seconds.append(times["ln"])
        for norm, taken in times.items():
            ratios[norm].append(taken / times["ln"])
    base = trainers["ln"].saved_bytes()
    rows: list[dict[str, float | str]] = []
    for norm, found in ratios.items():
        low, _, high = statistics.quantiles(found, n=4)
        rows.append(
            {
                "norm": norm,
                "width": width,
                "depth": depth,
                "batch": batch,
                "time": statistics.median(found),
                "time_low": low,
                "time_high": high,
                "memory": trainers[norm].saved_bytes() / base,
                "layer_norm_seconds": statistics.median(seconds),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    rows = [row for setting in SETTINGS for row in compare(*setting, options.rounds)]
    for row in rows:
        print(
            f"width {row['width']:4} depth {row['depth']:3} {row['norm']:5} time {row['time']:.2f}"
            f" ({row['time_low']:.2f} to {row['time_high']:.2f}) x LayerNorm's {row['layer_norm_seconds']:.3f} s,"
            f" memory {row['memory']:.3f} x"
        )
    if options.out is not None:
        options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
