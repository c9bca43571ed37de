"""Are DyT and Derf as cheap as LayerNorm on a card?  Eager, compiled, and by the kernels of ``criticality.models.triton_dynamic``.

Forward and backward of one norm at widths of transformers, parameters' gradients included.  The yardstick is LayerNorm's memory
traffic: ``x`` is read and ``y`` written, then ``x`` and the gradient are read and that of ``x`` is written, five times the size of
``x``.  Printed: microseconds, the rate at which those bytes were moved, and the time over LayerNorm's.

    python examples/gpu/normalizers.py --out gpu                                       # one CUDA card, about a minute
    python examples/gpu/normalizers.py --device cpu --tokens 4 --widths 8 --no-compile  # without the kernels: times mean nothing
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from criticality.models import DynamicPointwise
from criticality.schema import whole_or_absent

TRAFFIC = 5
"""Tensors of the size of ``x`` that a norm must read or write, forward and backward."""

Norms = dict[str, Callable[[Tensor], Tensor]]


def norms(width: int, device: str, dtype: torch.dtype, compiled: bool) -> Norms:
    """By name; LayerNorm first."""

    def dynamic(name: str, triton: bool) -> nn.Module:
        return DynamicPointwise(width, name, triton=triton, device=device, dtype=dtype)

    found: Norms = {"LayerNorm": nn.LayerNorm(width, device=device, dtype=dtype)}
    found["RMSNorm"] = nn.RMSNorm(width, device=device, dtype=dtype)
    for name in ("dyt", "derf"):
        found[f"{name}, eager"] = dynamic(name, False)
        if device.startswith("cuda"):
            found[f"{name}, Triton"] = dynamic(name, True)
    if compiled:
        found["LayerNorm, compiled"] = torch.compile(found["LayerNorm"])
        found |= {f"{name}, compiled": torch.compile(dynamic(name, False)) for name in ("dyt", "derf")}
    return found


def seconds(call: Callable[[], object], device: str, rounds: int) -> float:
    """Median of batches of calls that are waited for together, as a launch takes as long as a small kernel."""
    together = 20 if device.startswith("cuda") else 1
    taken = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        for _ in range(together):
            call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - began) / together)
    return statistics.median(taken[2:])


def rows(width: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One for each norm at this width."""
    dtype = getattr(torch, given.dtype)
    x = torch.randn(given.tokens, width, device=given.device, dtype=dtype, requires_grad=True)
    g = torch.randn_like(x)
    found = []
    for name, norm in norms(width, given.device, dtype, not given.no_compile).items():
        parameters = [x, *(norm.parameters() if isinstance(norm, nn.Module) else ())]

        def step(norm: Callable[[Tensor], Tensor] = norm, parameters: list[Tensor] = parameters) -> object:
            return torch.autograd.grad(norm(x), parameters, g)

        taken = seconds(step, given.device, given.rounds)
        rate = TRAFFIC * x.numel() * x.element_size() / taken / 1e9
        found.append({"width": width, "norm": name, "microseconds": 1e6 * taken, "GB/s": rate})
    return [{**row, "over LayerNorm": row["microseconds"] / found[0]["microseconds"]} for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=32 * 1024)
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for normalizers.json")
    given = parser.parse_args()
    card = torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device
    print(f"{card}, {given.tokens} tokens, {given.dtype}, torch {torch.__version__}")
    results = []
    for width in given.widths:
        for row in rows(width, given):
            results.append(row)
            print(
                f"{width:6d} {row['norm']:20s}{row['microseconds']:10.1f} us{row['GB/s']:9.1f} GB/s{row['over LayerNorm']:7.2f}"
            )
    if given.out is not None:
        with whole_or_absent(given.out / "normalizers.json") as file:
            Path(file).write_text(json.dumps({"device": card, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
