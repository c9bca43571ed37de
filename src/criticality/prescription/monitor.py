"""Keep watch on a model in training: APJN, alphas, branch shares and saturation every so many steps, training unchanged."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from criticality.arguments import Count, Finite, checked
from criticality.errors import ArgumentError, NotFiniteError, ZeroGradientError
from criticality.measurement import measure
from criticality.measurement.points import Points
from criticality.prescription.watching import NormState, Seen, Watcher, unwrapped
from criticality.probes import Probe, check_probe
from criticality.schema import SCHEMA, check_can_be_made, profile_dataset, write_dataset

Log = Callable[[dict[str, float], int], None]
"""Called with the scalars of a record and its step."""

_SATURATED = 0.01
_COLLAPSE = 0.2
_UNKNOWN = NormState(math.nan, math.nan)


class CriticalityWarning(UserWarning):
    """An alarm of the monitor, or what kept it from recording."""


class Monitor:
    """Measures a model on a fixed batch every ``every`` steps; call ``step`` after each optimizer step.

    Nothing of the training changes: parameters, their gradients, modes and random states are as before each record, so that
    losses are the same bit for bit (tested on CPU), and nothing is hooked into the model.  A record costs two forward passes
    and one backward pass to activations of the batch given: take a few samples.  A model that ``fully_shard`` shards must be
    watched by every process, as all of them gather its parameters; of others one process is enough.  Call it in the thread that
    trains: during a record the weights take no gradient, and a step that another thread takes then raises a ``RuntimeError``.

    ``step`` never raises: a record that fails is warned of once, by its kind, and the training goes on.  A model that has
    diverged is recorded as it is, with nan and inf.

    Alarms: ``chaos``, when ``log J(0 -> L)`` exceeds the budget; ``saturation``, when ``E phi'^2`` of a norm falls below a
    fifth of what it was at the first record, or below 0.01; ``divergence``, when a value of the stream or a gradient is not
    finite, with the module in which that comes first; ``vanished``, when no gradient arrives at all.  Each is warned of once
    (``CriticalityWarning``) and listed in ``alarms``.

    Args:
        model: any module that ``measure`` takes; compiled, under DistributedDataParallel or with checkpoints, too.
        inputs: a small batch.
        every: steps between records.
        budget: largest ``log J(0 -> L)`` without alarm [default: that of the first record plus 2].
        log: where scalars go, such as ``lambda scalars, step: ...``; see also ``to_tensorboard``.
        path: result file (NetCDF) that is rewritten whole after each record.
        points: of the stream, as for ``measure``.
        seed: of the probe, the same at every record.
        probe: where the backward pass starts, as for ``measure``; ``loss`` sees what a gradient of the training does.

    Raises:
        ValueError: ``every`` below 1, a budget that is not finite, no probe, or a ``path`` that cannot be written.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        every: Count = 100,
        budget: Finite | None = None,
        log: Log | None = None,
        path: str | os.PathLike[str] | None = None,
        points: Points = None,
        seed: int = 0,
        probe: Probe = "normal",
    ):
        self.model, self.inputs, self.every, self.budget = model, inputs, int(every), budget
        self.log, self.path, self.points, self.seed = log, path, points, seed
        check_probe(probe)
        if path is not None:
            check_can_be_made(path)
        self.probe = probe
        self.alarms: list[tuple[int, str]] = []
        self._watcher = Watcher(unwrapped(model))
        self._failures: set[str] = set()
        self._profiles: list[xr.Dataset] = []
        self._steps: list[int] = []
        self._norms: list[dict[str, NormState]] = []
        self._shares: list[dict[str, float]] = []

    def step(self, step: int) -> dict[str, float] | None:
        """Record if ``step`` is a multiple of ``every``; returns the scalars then.  Never raises."""
        if step % self.every:
            return None
        try:
            return self.record(step)
        except Exception as error:  # a training is worth more than a record of it
            kind = type(error).__name__
            if kind not in self._failures:
                self._failures.add(kind)
                said = " ".join(str(error).split()) or kind
                warnings.warn(f"step {step}: nothing was recorded, and the training goes on: {said}",
                              CriticalityWarning, stacklevel=2)  # fmt: skip
            return None

    def record(self, step: int) -> dict[str, float]:
        """Measure now.  A model whose values or gradients are not finite is recorded with nan and inf.

        Raises:
            ValueError: as ``measure`` for anything else, such as a model without a stream.
        """
        seen = self._watcher.look(self.inputs)
        trouble: NotFiniteError | None = None
        try:
            profile = measure(self._watcher.model, self.inputs, points=self.points, seed=self.seed, probe=self.probe)
        except NotFiniteError as error:
            profile, trouble = _not_finite(seen), error
        self._profiles.append(profile)
        self._steps.append(int(step))
        self._norms.append(seen.norms)
        self._shares.append(seen.shares)
        scalars = self._scalars(profile, seen)
        self._raise_alarms(step, scalars, seen.norms, trouble)
        scalars["criticality/alarms"] = float(len(self.alarms))
        if self.log is not None:
            self.log(scalars, int(step))
        if self.path is not None:
            write_dataset(self.dataset(), self.path)
        return scalars

    def dataset(self) -> xr.Dataset:
        """Everything recorded: ``log_apjn``, ``q``, ... over ``(step, block)``, ``alpha`` and ``slope`` over ``(step, norm)``,
        ``branch_share`` over ``(step, branch)``.

        Raises:
            ValueError: nothing was recorded yet.
        """
        if not self._steps:
            raise ArgumentError("monitor must have recorded a step, and has none")
        steps = xr.DataArray(self._steps, dims="step", name="step")
        result = xr.concat(self._profiles, steps, combine_attrs="override", join="outer")
        names = list(dict.fromkeys(name for record in self._norms for name in record))
        if names:
            table = np.array([[record.get(name, _UNKNOWN) for name in names] for record in self._norms])
            result = result.assign_coords(norm=names)
            result["alpha"] = (("step", "norm"), table[:, :, 0], {"long_name": "alpha"})
            result["slope"] = (
                ("step", "norm"),
                table[:, :, 1],
                {"long_name": "E phi'(alpha x)^2, 1 where phi is linear"},
            )
        blocks = list(dict.fromkeys(name for record in self._shares for name in record))
        if blocks:
            table = np.array([[record.get(name, math.nan) for name in blocks] for record in self._shares])
            long_name = "mean square of what the block adds, relative to the stream after it"
            result["branch_share"] = (("step", "branch"), table, {"long_name": long_name})
        return result.assign_attrs(source="measurement", schema=SCHEMA, every=self.every)

    def state(self) -> dict[str, Any]:
        """What was recorded so far, as plain numbers, for a checkpoint."""
        return {
            "steps": list(self._steps),
            "blocks": [profile.block.values.tolist() for profile in self._profiles],
            "profiles": [
                {name: values.values.tolist() for name, values in profile.data_vars.items()}
                for profile in self._profiles
            ],
            "norms": [{name: list(pair) for name, pair in record.items()} for record in self._norms],
            "shares": [dict(shares) for shares in self._shares],
            "alarms": [list(alarm) for alarm in self.alarms],
            "budget": self.budget,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` returned."""
        self._steps = [int(step) for step in state["steps"]]
        self._profiles = []
        for number, arrays in enumerate(state["profiles"]):
            values = {name: np.array(entry) for name, entry in arrays.items() if name != "log_susceptibility"}
            blocks = state["blocks"][number] if "blocks" in state else range(len(values["log_apjn"]))
            self._profiles.append(profile_dataset(blocks, source="measurement", attrs={}, **values))
        self._norms = [{name: NormState(*pair) for name, pair in record.items()} for record in state["norms"]]
        self._shares = [
            dict(shares) if isinstance(shares, dict) else {str(number): share for number, share in enumerate(shares)}
            for shares in state["shares"]
        ]
        self.alarms = [(int(step), str(kind)) for step, kind in state["alarms"]]
        self.budget = state["budget"]

    @staticmethod
    def _scalars(profile: xr.Dataset, seen: Seen) -> dict[str, float]:
        steps = profile.log_susceptibility.values
        scalars = {
            "criticality/log_apjn": float(profile.log_apjn[0]),
            "criticality/largest_log_susceptibility": _largest(steps),
            "criticality/q_final": float(profile.q[-1]),
        }
        if seen.norms:
            alphas, slopes = np.array(list(seen.norms.values())).T
            scalars |= {
                "criticality/alpha_min": float(alphas.min()),
                "criticality/alpha_max": float(alphas.max()),
                "criticality/slope_min": float(slopes.min()),
            }
        if seen.shares:
            scalars["criticality/branch_share_mean"] = float(np.mean(list(seen.shares.values())))
        return scalars

    def _raise_alarms(
        self,
        step: int,
        scalars: dict[str, float],
        norms: dict[str, NormState],
        trouble: NotFiniteError | None,
    ) -> None:
        log_apjn = scalars["criticality/log_apjn"]
        found = []
        if isinstance(trouble, ZeroGradientError):
            found.append(("vanished", str(trouble)))
        elif trouble is not None:
            place = self._watcher.first_not_finite(self.inputs)
            found.append(("divergence", f"the model is not finite, first in {place}" if place else str(trouble)))
        elif self.budget is None:
            self.budget = log_apjn + 2
        if self.budget is not None and log_apjn > self.budget:
            found.append(("chaos", f"log J(0->L) = {log_apjn:.2f} exceeds the budget of {self.budget:.2f}"))
        for name, (_, slope) in (norms if trouble is None else {}).items():  # one that sees inf is saturated, of course
            first = self._norms[0].get(name, _UNKNOWN).slope
            if slope < max(_SATURATED, _COLLAPSE * first):
                found.append(
                    (f"saturation of {name}", f"E phi'^2 of norm {name!r} fell to {slope:.3g} from {first:.3g}")
                )
        known = {kind for _, kind in self.alarms}
        for kind, message in found:
            if kind not in known:
                self.alarms.append((int(step), kind))
                warnings.warn(f"step {step}: {message}", CriticalityWarning, stacklevel=4)


def _not_finite(seen: Seen) -> xr.Dataset:
    """A profile of which only ``q`` is known, nan and inf as they are."""
    q = np.array(seen.q or [math.nan, math.nan])
    unknown = np.full(len(q), math.nan)
    return profile_dataset(
        seen.positions or range(len(q)), unknown, "measurement", {"points": seen.points}, q=q, correlation=unknown
    )


def _largest(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else math.nan


@checked
def to_tensorboard(writer: Any) -> Log:
    """A ``log`` for ``Monitor`` that writes to a ``torch.utils.tensorboard.SummaryWriter``."""

    def log(scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    return log
