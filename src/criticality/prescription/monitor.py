"""Keep watch on a model in training: APJN, alphas, branch shares and saturation every so many steps, training unchanged."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from criticality.errors import StreamNotFoundError
from criticality.measurement import measure
from criticality.measurement.points import Points
from criticality.pointwise import get_function
from criticality.prescription.apply import final_norms, find_blocks, stream_norms
from criticality.schema import SCHEMA, profile_dataset, write_dataset

Log = Callable[[dict[str, float], int], None]
"""Called with the scalars of a record and its step."""

_SAMPLED = 16_384  # elements of a stream that its saturation is estimated from
_SATURATED = 0.01
_COLLAPSE = 0.2


class CriticalityWarning(UserWarning):
    """An alarm of the monitor."""


class Monitor:
    """Measures a model on a fixed batch every ``every`` steps; call ``step`` after each optimizer step.

    Nothing of the training changes: parameters, their gradients, modes and random states are as before each record, so that
    losses are the same bit for bit (tested on CPU).  A record costs one forward and one backward pass to activations of the
    batch given: take a few samples.

    Alarms: ``chaos``, when ``log J(0 -> L)`` exceeds the budget; ``saturation``, when ``E phi'^2`` of a norm falls below a
    fifth of what it was at the first record, or below 0.01. Each is warned of once (``CriticalityWarning``) and listed in
    ``alarms``.

    Args:
        model: any module that ``measure`` takes.
        inputs: a small batch on the model's device.
        every: steps between records.
        budget: largest ``log J(0 -> L)`` without alarm [default: that of the first record plus 2].
        log: where scalars go, such as ``lambda scalars, step: ...``; see also ``to_tensorboard``.
        path: result file (NetCDF) that is rewritten whole after each record.
        points: of the stream, as for ``measure``.
        seed: of the probe, the same at every record.

    Raises:
        ValueError: ``every`` below 1, or a budget that is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        every: int = 100,
        budget: float | None = None,
        log: Log | None = None,
        path: str | os.PathLike[str] | None = None,
        points: Points = None,
        seed: int = 0,
    ):
        if isinstance(every, bool) or int(every) != every or every < 1:
            raise ValueError(f"every={every!r} must be a whole number of steps, 1 or above")
        if budget is not None and not math.isfinite(budget):
            raise ValueError(f"budget={budget!r} must be a finite log J")
        self.model, self.inputs, self.every, self.budget = model, inputs, int(every), budget
        self.log, self.path, self.points, self.seed = log, path, points, seed
        self.alarms: list[tuple[int, str]] = []
        self._profiles: list[xr.Dataset] = []
        self._steps: list[int] = []
        self._norms: list[dict[str, tuple[float, float]]] = []
        self._shares: list[list[float]] = []

    def step(self, step: int) -> dict[str, float] | None:
        """Record if ``step`` is a multiple of ``every``; returns the scalars then."""
        return self.record(step) if step % self.every == 0 else None

    def record(self, step: int) -> dict[str, float]:
        """Measure now.

        Raises:
            ValueError: as ``measure``, for a model that returns nan.
        """
        norms: dict[str, tuple[float, float]] = {}
        shares: list[float] = []
        with ExitStack() as stack:
            last = _final(self.model)
            for name, module in stream_norms(self.model):
                if name in last:
                    continue
                stack.callback(module.register_forward_pre_hook(_note_norm(name, norms)).remove)
            for block in self._blocks():
                stack.callback(block.register_forward_hook(_note_share(shares)).remove)
            profile = measure(self.model, self.inputs, points=self.points, seed=self.seed)
        self._profiles.append(profile)
        self._steps.append(int(step))
        self._norms.append(norms)
        self._shares.append(shares)
        scalars = self._scalars(profile, norms, shares)
        self._raise_alarms(step, scalars, norms)
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
            raise ValueError("monitor must have recorded a step, and has none")
        steps = xr.DataArray(self._steps, dims="step", name="step")
        result = xr.concat(self._profiles, steps, combine_attrs="override")
        names = list(self._norms[0])
        if names:
            table = np.array([[record[name] for name in names] for record in self._norms])
            result = result.assign_coords(norm=names)
            result["alpha"] = (("step", "norm"), table[:, :, 0], {"long_name": "alpha"})
            result["slope"] = (
                ("step", "norm"),
                table[:, :, 1],
                {"long_name": "E phi'(alpha x)^2, 1 where phi is linear"},
            )
        if self._shares[0]:
            long_name = "mean square of what the block adds, relative to the stream after it"
            result["branch_share"] = (("step", "branch"), np.array(self._shares), {"long_name": long_name})
        return result.assign_attrs(source="measurement", schema=SCHEMA, every=self.every)

    def state(self) -> dict[str, Any]:
        """What was recorded so far, as plain numbers, for a checkpoint."""
        return {
            "steps": list(self._steps),
            "profiles": [
                {name: values.values.tolist() for name, values in profile.data_vars.items()}
                for profile in self._profiles
            ],
            "norms": [{name: list(pair) for name, pair in record.items()} for record in self._norms],
            "shares": [list(shares) for shares in self._shares],
            "alarms": [list(alarm) for alarm in self.alarms],
            "budget": self.budget,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` returned."""
        self._steps = list(state["steps"])
        self._profiles = []
        for arrays in state["profiles"]:
            values = {name: np.array(entry) for name, entry in arrays.items() if name != "log_susceptibility"}
            self._profiles.append(
                profile_dataset(range(len(values["log_apjn"])), source="measurement", attrs={}, **values)
            )
        self._norms = [{name: (pair[0], pair[1]) for name, pair in record.items()} for record in state["norms"]]
        self._shares = [list(shares) for shares in state["shares"]]
        self.alarms = [(int(step), str(kind)) for step, kind in state["alarms"]]
        self.budget = state["budget"]

    def _blocks(self) -> list[nn.Module]:
        try:
            return list(find_blocks(self.model)[1])
        except ValueError:
            return []

    @staticmethod
    def _scalars(profile: xr.Dataset, norms: dict[str, tuple[float, float]], shares: list[float]) -> dict[str, float]:
        scalars = {
            "criticality/log_apjn": float(profile.log_apjn[0]),
            "criticality/largest_log_susceptibility": float(np.nanmax(profile.log_susceptibility.values)),
            "criticality/q_final": float(profile.q[-1]),
        }
        if norms:
            alphas, slopes = np.array(list(norms.values())).T
            scalars |= {
                "criticality/alpha_min": float(alphas.min()),
                "criticality/alpha_max": float(alphas.max()),
                "criticality/slope_min": float(slopes.min()),
            }
        if shares:
            scalars["criticality/branch_share_mean"] = float(np.mean(shares))
        return scalars

    def _raise_alarms(self, step: int, scalars: dict[str, float], norms: dict[str, tuple[float, float]]) -> None:
        log_apjn = scalars["criticality/log_apjn"]
        if self.budget is None:
            self.budget = log_apjn + 2
        found = []
        if log_apjn > self.budget:
            found.append(("chaos", f"log J(0->L) = {log_apjn:.2f} exceeds the budget of {self.budget:.2f}"))
        for name, (_, slope) in norms.items():
            first = self._norms[0][name][1]
            if slope < max(_SATURATED, _COLLAPSE * first):
                found.append(
                    (f"saturation of {name}", f"E phi'^2 of norm {name!r} fell to {slope:.3g} from {first:.3g}")
                )
        known = {kind for _, kind in self.alarms}
        for kind, message in found:
            if kind not in known:
                self.alarms.append((int(step), kind))
                warnings.warn(f"step {step}: {message}", CriticalityWarning, stacklevel=4)


def _final(model: nn.Module) -> set[str]:
    """Names of the norms after the blocks, which are not of the stream that is watched."""
    try:
        return {name for name, _ in final_norms(model)}
    except StreamNotFoundError:
        return set()


def to_tensorboard(writer: Any) -> Log:
    """A ``log`` for ``Monitor`` that writes to a ``torch.utils.tensorboard.SummaryWriter``."""

    def log(scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    return log


def _note_norm(name: str, norms: dict[str, tuple[float, float]]) -> Callable[..., None]:
    def hook(module: Any, args: tuple[Any, ...]) -> None:
        flat = args[0].detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLED)]
        if not torch.isfinite(sample).all():  # a pass of ``measure`` that puts nan in to see how far it goes
            return
        alpha = float(module.alpha.detach().mean())
        shift = 0.0 if module.shift is None else float(module.shift.detach().mean())
        slope = get_function(module.function).derivative(alpha * sample.double().cpu().numpy() + shift)
        at_zero = get_function(module.function).derivative(np.zeros(1))[0] or 1.0
        norms[name] = (alpha, float(np.mean((slope / at_zero) ** 2)))

    return hook


def _note_share(shares: list[float]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        after = output[0] if isinstance(output, (tuple, list)) else output
        if not args or not isinstance(after, Tensor) or after.shape != args[0].shape:
            return
        with torch.no_grad():
            added = (after - args[0]).double().square().mean()
            shares.append(float(added / after.double().square().mean()))

    return hook
