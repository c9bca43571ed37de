"""Is a pointwise normalizer cheaper than LayerNorm, here and now?

Forward and backward time, and bytes saved for backward, of LayerNorm, RMSNorm, DyT and Derf, alone and inside a ViT block,
eager and compiled; ``plain`` is the formula in torch's own operations.  ``--device cuda`` runs the same on a GPU (not run
on one by us).  On the CPU one thread's processor time, which other work on the machine changes little.
Medians of interleaved rounds; ratios to LayerNorm of the same column.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from criticality.models import DynamicPointwise
from side_by_side import machine, saved_bytes


class Plain(DynamicPointwise):
    def forward(self, x: Tensor) -> Tensor:
        u = self.alpha * x
        u = u if self.shift is None else u + self.shift
        return {"tanh": torch.tanh, "erf": torch.erf}[self.function](u) * self.weight + self.bias


NORMS: dict[str, Callable[..., nn.Module]] = {
    "LayerNorm": nn.LayerNorm,
    "RMSNorm": nn.RMSNorm,
    "DyT": partial(DynamicPointwise, function="dyt"),
    "Derf": partial(DynamicPointwise, function="derf"),
    "plain DyT": partial(Plain, function="dyt"),
    "plain Derf": partial(Plain, function="derf"),
}


def norm_of(kind: str) -> Callable[..., nn.Module]:
    return lambda width, **_: NORMS[kind](width)


def medians(modules: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, float]:
    """Seconds of forward and backward; every module is preceded by LayerNorm as often as by another."""
    g = torch.randn_like(x)
    now = time.perf_counter if x.device.type == "cuda" else time.process_time
    taken: dict[str, list[float]] = {name: [] for name in modules}
    order = list(modules)
    generator = torch.Generator().manual_seed(0)
    for number in range(rounds + 3):
        for index in torch.randperm(len(order), generator=generator).tolist():
            module = modules[order[index]]
            for _ in range(2):  # the first brings memory and caches to this module's state
                x.grad = None
                start = now()
                module(x).backward(g)
                if x.device.type == "cuda":
                    torch.cuda.synchronize(x.device)
                elapsed = now() - start
            if number >= 3:
                taken[order[index]].append(elapsed)
    return {name: sorted(values)[len(values) // 2] for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(__doc__, machine(), sep="\n")
    x = torch.randn(8, 197, 768, device=arguments.device, requires_grad=True)
    for place, make, rounds in (
        ("alone", lambda kind: NORMS[kind](768), 60),
        ("in a ViT block", lambda kind: Block(768, 12, norm_layer=norm_of(kind)), 8),
    ):
        built = {kind: make(kind).to(arguments.device) for kind in NORMS}
        columns = {"eager": medians(built, x, rounds)}
        if not arguments.no_compile:
            columns["compiled"] = medians({kind: torch.compile(module) for kind, module in built.items()}, x, rounds)
        saved = {kind: saved_bytes(lambda m=module: m(x)) for kind, module in built.items()}
        print(
            f"\n{place:16s}"
            + "".join(f"{name + ' ms':>14s}{'ratio':>8s}" for name in columns)
            + f"{'saved MB':>12s}{'ratio':>8s}"
        )
        for kind in NORMS:
            cells = [f"{1e3 * c[kind]:14.3f}{c[kind] / c['LayerNorm']:8.2f}" for c in columns.values()]
            size = f"{saved[kind] / 2**20:12.2f}{saved[kind] / saved['LayerNorm']:8.2f}"
            print(f"{kind:16s}{''.join(cells)}{size}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
