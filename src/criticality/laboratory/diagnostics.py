"""What is measured on a model in training at geometric steps, as ``records`` does on stacks: enough to say how a run ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from criticality.errors import ArgumentError, NotFiniteError
from criticality.laboratory.records import SATURATED, geometric_steps, pair_correlation
from criticality.measurement import measure
from criticality.models.normalizers import DynamicPointwise
from criticality.pointwise import get_function

_SAMPLED = 16_384


class Diagnostics:
    """Profiles and changes of single steps, on fixed inputs; a training's losses are the same without.

    Args:
        model: in training, one of the laboratory's (``blocks_of``).
        inputs: a small batch, a tensor or named arguments.
        steps: of the training; recorded at 0, 1, 3, 10, ... and at the end.
    """

    def __init__(self, model: nn.Module, inputs: Any, steps: int):
        self.model, self.inputs, self.steps = model, inputs, geometric_steps(steps)
        self.records: dict[int, dict[str, Any]] = {}

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Around the optimizer's step number ``step``: a record before it, and what it changes, where it is to be recorded."""
        if step not in self.steps:
            yield
            return
        before = self.record(step)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        weights = [p.detach().clone() for p in matrices]
        yield
        with torch.no_grad():
            changed = sum(float((p - w).square().sum()) for p, w in zip(matrices, weights, strict=True))
            size = sum(float(w.square().sum()) for w in weights)
        after = self._streams()[0][-1]
        self.records[step]["update"] = math.sqrt(changed / size) if size else math.nan
        self.records[step]["stream_change"] = float((after - before).norm() / before.norm())

    def record(self, step: int) -> Tensor:
        """Measure now; returns the last point of the stream.  Where stream or gradients are not finite, profiles are nan."""
        points, slopes, entropies = self._streams()
        try:
            profile = measure(self.model, self.inputs)
            log_apjn, q = profile.log_apjn.values, profile.q.values
        except NotFiniteError:
            log_apjn = q = np.full(len(points), math.nan)
        self.records[step] = {
            "log_apjn": [float(value) for value in log_apjn],
            "log_q": [float(value) for value in np.log(q)],
            "log_slope": [math.log(max(float(slope.mean()), 1e-30)) for slope in slopes],
            "saturated": [float(np.mean(slope < SATURATED)) for slope in slopes],
            "correlation": [float(pair_correlation(point.flatten(1)[None])[0]) for point in points],
            "attention_entropy": entropies,
        }
        return points[-1]

    def dataset(self) -> xr.Dataset:
        """Over ``record``: ``log_apjn`` and ``log_q`` over ``point``, ``log_slope`` (of ``E phi'^2 / phi'(0)^2``) and ``saturated``
        over ``site``, ``correlation`` of two inputs over ``block``, ``attention_entropy`` (over log of the tokens seen, nats per
        nat) over ``attention``; ``update`` and ``stream_change`` of the step that follows.  Names begin with ``recorded_``.
        """
        axes = {
            "log_apjn": "point",
            "log_q": "point",
            "log_slope": "site",
            "saturated": "site",
            "correlation": "block_input",
        }
        axes["attention_entropy"] = "attention"
        steps = sorted(self.records)
        found = xr.Dataset(coords={"record": steps})
        for name, axis in axes.items():
            rows = [self.records[step][name] for step in steps]
            if rows and rows[0]:
                found[f"recorded_{name}"] = (("record", f"recorded_{axis}"), np.array(rows))
        for name in ("update", "stream_change"):
            found[f"recorded_{name}"] = ("record", [self.records[step].get(name, math.nan) for step in steps])
        return found

    def state(self) -> list[list[Any]]:
        """For a checkpoint."""
        return [[step, record] for step, record in self.records.items()]

    def load_state(self, state: list[list[Any]]) -> None:
        """Take up what ``state`` returned."""
        self.records = {int(step): dict(record) for step, record in state}

    def _streams(self) -> tuple[list[Tensor], list[np.ndarray], list[float]]:
        """Inputs of the blocks and the output of the last, squared slopes of pointwise norms, entropies of attentions."""
        points: list[Tensor] = []
        slopes: list[np.ndarray] = []
        blocks = blocks_of(self.model)
        with ExitStack() as stack, torch.no_grad(), _Entropies() as entropies:
            for block in blocks:
                stack.callback(block.register_forward_pre_hook(lambda _, args: points.append(args[0].detach())).remove)
            last = blocks[-1].register_forward_hook(lambda _, args, output: points.append(_first(output).detach()))
            stack.callback(last.remove)
            for module in self.model.modules():
                if isinstance(module, DynamicPointwise):
                    stack.callback(module.register_forward_pre_hook(_note_slopes(slopes)).remove)
            self.model(**self.inputs) if isinstance(self.inputs, dict) else self.model(self.inputs)
        return points, slopes, entropies.found


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Of the laboratory's models: timm's ViT and GPT-2.

    Raises:
        ValueError: for another model.
    """
    for name in ("blocks", "transformer.h"):
        try:
            return list(model.get_submodule(name).children())
        except AttributeError:
            continue
    raise ArgumentError(
        f"model {type(model).__name__} must have its blocks in 'blocks' or 'transformer.h', and has not"
    )


class _Entropies(TorchFunctionMode):
    """Mean entropy of each softmax attention that passes, over the log of how many tokens each query sees."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            self.found.append(attention_entropy(*args, **(kwargs or {})))
        return function(*args, **(kwargs or {}))


def attention_entropy(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> float:
    """Mean of ``-sum A log A`` over ``log`` of the tokens seen, of queries that see two or more: 1 for uniform attention."""
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    if is_causal:
        seen = seen.tril()
    if attn_mask is not None:
        bias = (
            attn_mask if attn_mask.dtype != torch.bool else torch.zeros_like(scores).masked_fill(~attn_mask, -math.inf)
        )
        scores = scores + bias
        seen = torch.isfinite(bias.expand_as(scores)) & seen
    weights = torch.softmax(scores.masked_fill(~seen, -math.inf), -1)
    entropy = -torch.special.xlogy(weights, weights).sum(-1)
    count = seen.sum(-1).expand_as(entropy)
    several = count > 1
    return float((entropy[several] / count[several].log()).mean())


def _note_slopes(slopes: list[np.ndarray]) -> Any:
    def hook(module: Any, args: tuple[Any, ...]) -> None:
        flat = args[0].detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLED)].double().cpu().numpy()
        shift = 0.0 if module.shift is None else float(module.shift.detach().mean())
        derivative = get_function(module.function).derivative
        at_zero = float(derivative(np.zeros(1))[0]) or 1.0
        slopes.append((derivative(float(module.alpha.detach().mean()) * sample + shift) / at_zero) ** 2)

    return hook


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return found
