"""Measured and predicted profiles of one model, and whether they agree."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sources import Ready
from torch import Tensor

from criticality.errors import NotFiniteError
from criticality.measurement import measure_ensemble
from criticality.stream import stream
from criticality.weightless import predict_sampled

SEEDS = 3
MORE_SEEDS = 8
STANDARD_ERRORS = 3.0
TOLERANCE = 0.05


def compare(ready: Ready, say: Callable[..., None], seeds: int = SEEDS) -> bool:
    """Whether prediction and measurement agree; everything that becomes known is said at once.

    Raises:
        Exception: whatever the library, or the model, raises.
    """
    say(stage="stream")
    start = time.process_time()
    model = ready.build()
    found = stream(model, ready.inputs).record()["chains"]
    say(chains=[_summary(chain) for chain in found], time_stream=round(time.process_time() - start, 2))
    del model
    say(stage="measured")
    start = time.process_time()
    measured = measure_ensemble(lambda seed: ready.build(), ready.inputs, range(seeds))
    say(time_measured=round((time.process_time() - start) / seeds, 2), points=measured.points, chain=measured.chain)
    say(measured=_rounded(measured.log_apjn), measured_se=_rounded(measured.log_apjn_se))
    say(stage="predicted")
    start = time.process_time()
    predicted = predict_sampled(ready.build, ready.inputs, range(1000, 1000 + seeds))
    say(time_predicted=round((time.process_time() - start) / seeds, 2), seeds=seeds)
    say(predicted=_rounded(predicted.log_apjn), predicted_se=_rounded(predicted.log_apjn_se))
    say(stage="compared")
    if list(measured.points) != list(predicted.points):
        raise ValueError(f"prediction has the points {predicted.points}, the measurement {measured.points}")
    excess, worst = deviation(measured, predicted)
    say(excess=round(excess, 4), worst=worst)
    return excess <= 0


def deviation(measured: Any, predicted: Any) -> tuple[float, int]:
    """By how much the largest difference is above what is allowed, and at which point."""
    difference = np.abs(measured.log_apjn.values - predicted.log_apjn.values)
    error = np.hypot(measured.log_apjn_se.values, predicted.log_apjn_se.values)
    excess = difference - STANDARD_ERRORS * error - TOLERANCE
    worst = int(np.argmax(excess))
    return float(excess[worst]), worst


def tried(load: Callable[[int], Ready], say: Callable[..., None], widths: tuple[int, ...]) -> None:
    """Compare a model; one that misses again with more seeds, and then at larger widths."""
    warnings.filterwarnings("ignore")
    ready = load(widths[0])
    say(
        way=ready.way,
        parameters=ready.parameters,
        inputs={name: list(one.shape) for name, one in ready.named().items() if isinstance(one, Tensor)},
    )
    precise = False
    try:
        agrees = compare(ready, say)
    except NotFiniteError:  # gradients that single precision does not hold
        precise = True
        say(way=f"{ready.way}, double precision")
        agrees = compare(ready.doubled(), say)
    if agrees:
        say(result="agrees", width=widths[0])
        return
    for width in widths:
        if width != widths[0]:
            ready = load(width)
        if compare(ready.doubled() if precise else ready, say, MORE_SEEDS):
            say(result="agrees", width=width)
            return
    say(result="misses", width=widths[-1])


def _summary(chain: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for diamond in chain["diamonds"]:
        kinds[diamond["kind"]] = kinds.get(diamond["kind"], 0) + 1
    blocks = sum(float(point["block"]).is_integer() for point in chain["points"]) - 1
    return {"name": chain["name"], "blocks": blocks, "kinds": kinds, "side_inputs": chain["side_inputs"]}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
