"""Has something become slower?  Ratios in under two minutes, beside those that were stored last (``quick.json``).

One thread, processor time, so that other work on the machine matters little.  ``--store`` replaces what is stored.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from apjn_profile import model_and_images, plain
from criticality.measurement import measure
from criticality.phases import amplification_map
from criticality.pointwise import FUNCTIONS
from side_by_side import machine, seconds
from theory_cost import vit

STORED = Path(__file__).with_suffix(".json")
SLOWER = 1.25
"""Beyond what the same code differs from run to run on a loaded machine."""


def phase_map() -> dict[str, Callable[[], object]]:
    """96 x 96 networks of 50 layers, beside as many tanh as 32 nodes of Gauss-Hermite would take in one of them."""
    alpha, weight = np.logspace(-1, 0.7, 96)[None, :], np.linspace(0.3, 3, 96)[:, None] ** 2
    points = np.random.default_rng(0).standard_normal((32, 96, 96))
    return {
        "map": lambda: amplification_map(FUNCTIONS["tanh"], 50, weight_variance=weight, alpha=alpha, threads=1),
        "hermite": lambda: np.tanh(points),
    }


def ratios() -> dict[str, float]:
    found = {}
    for norm in ("ln", "dyt", "derf"):
        taken = seconds(vit(norm, "vit_base_patch16_224", depth=6), rounds=5, clock=time.process_time)
        found[f"token theory of ViT-B, {norm}, over a forward pass"] = taken["theory"] / taken["forward"]
    model, images = model_and_images()
    calls = {"plain": lambda: plain(model, images), "profile": lambda: measure(model, images)}
    taken = seconds(calls, rounds=5, clock=time.process_time)
    found["profile of ViT-S over a forward and backward pass"] = taken["profile"] / taken["plain"]
    taken = seconds(phase_map(), rounds=5, clock=time.process_time)
    found["50 layers of a phase map over one of Gauss-Hermite"] = taken["map"] / taken["hermite"]
    return found


def main() -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    stored = json.loads(STORED.read_text())["ratios"] if STORED.exists() else {}
    now = ratios()
    print(machine(), f"\n\n{'':56s}{'now':>8s}{'stored':>8s}")
    for name, value in now.items():
        before = stored.get(name)
        remark = f"   {value / before:.2f} times as slow" if before and value > SLOWER * before else ""
        print(f"{name:56s}{value:8.2f}{'new' if before is None else f'{before:.2f}':>8s}{remark}")
    print(f"({time.perf_counter() - start:.0f} s)")
    if "--store" in sys.argv[1:]:
        STORED.write_text(json.dumps({"machine": machine(), "ratios": now}, indent=1) + "\n")


if __name__ == "__main__":
    main()
