"""What every benchmark shares: interleaved timing, peak memory in a fresh process, and the machine's name."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def machine() -> str:
    """Processor, threads and versions, for the head of a report."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{model}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"


def seconds(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    of: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Median time of each candidate; the candidates take turns, so that the machine's drift hits all alike.

    ``clock``: wall time, or ``time.process_time`` (of all threads), which other processes disturb less; ``of`` the rounds what,
    in the place of their median.
    """
    for call in candidates.values():
        for _ in range(warm_up):
            call()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = clock()
            call()
            taken[name].append(clock() - start)
    return {name: of(values) for name, values in taken.items()}


def saved_bytes(forward: Callable[[], object]) -> int:
    """Bytes of the distinct tensors that autograd keeps for the backward pass of a forward pass."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # kept until the hooks are gone: storages that are freed would be counted as one
    del result
    return sum(storages.values())


def peak_bytes(script: str, *arguments: str) -> int:
    """Run ``script arguments`` in a fresh process, and read the number of bytes that it prints last."""
    run = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return int(run.stdout.split()[-1])


_REPORTING = """
import atexit, os
def report():
    lines = open("/proc/self/status").read().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM")).split()[1]
    os.write(2, f" {sum(os.times()[:2])} {peak}".encode())
atexit.register(report)
"""


def process_costs(codes: Mapping[str, str], rounds: int = 3) -> dict[str, tuple[float, float]]:
    """Seconds of processor time and peak MB of resident memory of Python code, each in fresh processes that take turns (Linux);
    of the rounds the least, as other processes only add."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            run = subprocess.run([sys.executable, "-c", _REPORTING + code], check=True, capture_output=True, text=True)
            used, peak = run.stderr.split()[-2:]
            found[name].append((float(used), float(peak) / 1024))
    return {name: (min(one for one, _ in runs), min(peak for _, peak in runs)) for name, runs in found.items()}


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which the peak of resident memory exceeds what is resident before the call (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])
