"""Swap the norms of a model for pointwise functions (or back), in place, keeping what can be kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from criticality.arguments import checked
from criticality.errors import ArgumentError
from criticality.extras import require
from criticality.models.behaviour import Behaviour
from criticality.models.normalizers import DynamicPointwise
from criticality.models.pretrained import RECORD, config_of, record_of
from criticality.models.scope import Kept, Scope, affine
from criticality.models.sites import alphas_of_names, open_by_shape
from criticality.models.survey import survey
from criticality.schema import whole_or_absent
from criticality.stream.find import original
from criticality.stream.untouched import require_numbers
from criticality.theory.edits import OtherNorm
from criticality.theory.norms import LAYER_NORMS, RMS_NORMS, make_norm, takes_alpha

_OPEN = "whether it acts on queries or keys is seen with inputs"

Alpha = float | Mapping[str, float] | None
"""Of all norms, or by pattern, the first that matches; see ``replace_norms``."""


class AlphasByPattern(dict[str, float]):
    """A mapping in a description, which has a hash; nobody changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


@dataclass(frozen=True)
class Replacement:
    """One norm that was replaced.

    Attributes:
        name: in the model.
        before, after: what it was and what it is now.
        note: what of it could not be kept as it was, for people.
    """

    name: str
    before: nn.Module
    after: nn.Module
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.name}: {type(self.before).__name__} -> {self.after}{note}"


@dataclass(frozen=True)
class Around:
    """An attribute of something around new norms that must change with them; ``before`` is ``_ABSENT`` where there was none."""

    owner: Any
    attribute: str
    before: Any
    after: Any

    def undo(self) -> None:
        """As it was before."""
        if self.before is _ABSENT:
            delattr(self.owner, self.attribute)
        else:
            setattr(self.owner, self.attribute, self.before)


_ABSENT = object()


@dataclass(frozen=True)
class Conversion:
    """What ``replace_norms`` did, in the order of the model; ``undo`` puts everything back.

    Printed, it is a line for each replacement; ``report`` also has what was kept.
    """

    model: nn.Module
    replacements: tuple[Replacement, ...]
    kept: tuple[Kept, ...] = ()
    edits: tuple[OtherNorm, ...] = ()
    """The same to be kept (``write_edits``) and made elsewhere: one for each alpha."""
    _around: tuple[Around, ...] = ()

    def undo(self) -> None:
        """Put the modules that were there before back in their places."""
        for replacement in self.replacements:
            _assign(self.model, replacement.name, replacement.before)
        for one in self._around:
            one.undo()

    def __str__(self) -> str:
        return "\n".join(str(replacement) for replacement in self.replacements)

    def report(self) -> str:
        """What was replaced and what was kept, with counts."""
        counts = f"{len(self.replacements)} norms replaced, {len(self.kept)} kept"
        return "\n".join([str(self), counts, *map(str, self.kept)])


def check_norm(norm: str | None, alpha: Alpha) -> Alpha:
    """Refuse an unknown norm, an ``alpha`` that is not allowed, and an ``alpha`` without a norm.

    Returns:
        ``alpha`` as a frozen dataclass can hold it.

    Raises:
        ValueError: naming the argument and the value.
    """
    if norm is not None:
        for value in alpha.values() if isinstance(alpha, Mapping) else [alpha]:
            make_norm(norm, value)
    elif alpha is not None:
        raise ArgumentError(f"alpha={alpha!r} must come with a pointwise norm, and no norm was given")
    return AlphasByPattern(alpha) if isinstance(alpha, Mapping) else alpha


@checked
def replace_norms(
    model: nn.Module,
    norm: str,
    alpha: Alpha = None,
    *,
    inputs: Any = None,
    keep: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    strict: bool = False,
) -> Conversion:
    """Replace the norms of a model in place: whatever acts as LayerNorm, RMSNorm or a pointwise norm, whatever it is called.

    What a module does is found by running a copy of it on random numbers (``behaviour``).  Device, dtype, training mode and the
    parameters that scale and shift are kept: the new module holds the same parameter objects, so that tied and optimizer
    references stay valid; of a norm that scales by ``1 + w`` or by one number it gets a new one with the values that act.
    A norm without affine parameters gets a module without them.  The config of a transformers model says what was done, so that
    ``load_pretrained`` gives a converted model back from what ``save_pretrained`` wrote.

    Norms over several axes, those that are called with more than one tensor (gated norms), and those of queries and keys are
    kept, and listed in the result with the reason.

    Patterns are whole names (``blocks.0.norm1``), last parts (``norm1``), globs (``blocks.0.*``), regular expressions
    (``re:blocks\\.[0-3]\\..*``) or kinds of site: ``qk-norm`` and, if there are inputs, the others of ``SITE_KINDS``, and
    ``attention``, ``mlp`` and ``final``, by the branch that a norm of the stream is before or after (``BRANCH_KINDS``).

    Args:
        model: any module, also on the meta device or without weights.
        norm: ``dyt``, ``derf``, any built-in function, ``ln``, ``rms`` or ``none``.
        alpha: of a pointwise function (default 1), or a mapping from patterns to alphas of which the first that matches counts.
        inputs: as for ``measure``, to see in the data flow which norms are on the stream; without them norms of queries and keys
            are known by their shape, which does not tell those that are as wide as all heads together (noted in the result).
        keep: patterns of norms that are left as they are. An empty list replaces norms of queries and keys, too.
        only: patterns of norms that are replaced; norms of queries and keys among them when they match.
        strict: refuse a model with norms that cannot be replaced, instead of keeping them.

    Raises:
        ValueError: norms over the batch that are not kept, or norms that cannot be replaced when ``strict``; a pattern without
            a match; nothing to replace; an unknown norm or an alpha that is not allowed. The model is then as it was.
    """
    for value in alpha.values() if isinstance(alpha, Mapping) else [alpha]:
        make_norm(norm, value)
    model = original(model)
    require_numbers(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError(
            f"model {type(model).__name__} must be the one that torch.jit made it of: it is fixed as it is"
        )
    with torch.inference_mode(False):  # what is made inside could not be trained
        return _converted(model, norm, alpha, inputs, keep, only, strict)


def _converted(
    model: nn.Module,
    norm: str,
    alpha: Alpha,
    inputs: Any,
    keep: Sequence[str] | None,
    only: Sequence[str] | None,
    strict: bool,
) -> Conversion:
    found = survey(model)
    if "" in found.norms:
        raise ArgumentError("model must contain its norms, but is a norm itself")
    scope = Scope(model, found, inputs, keep, only)
    chosen, kept = scope.split(strict)
    alphas: Mapping[str, float | None] = (
        alphas_of_names(alpha, list(chosen), scope.fits) if isinstance(alpha, Mapping) else dict.fromkeys(chosen, alpha)
    )
    made: dict[tuple[int, float | None], tuple[nn.Module, str]] = {}
    replacements = []
    for name, (module, seen) in chosen.items():
        key = id(module), alphas[name]
        if key not in made:
            made[key] = _replacement(model, name, module, seen, norm, alphas[name])
        after, note = made[key]
        note = note or (_OPEN if inputs is None and keep is None and open_by_shape(model, name) else "")
        replacements.append(Replacement(name, module, after, note))
    names: dict[float | None, list[str]] = {}
    for name in chosen:
        names.setdefault(alphas[name], []).append(name)
    edits = tuple(OtherNorm(norm, value, tuple(those)) for value, those in names.items())
    conversion = Conversion(model, tuple(replacements), tuple(kept), edits, tuple(_around(model, replacements)))
    try:
        for replacement in replacements:
            _assign(model, replacement.name, replacement.after)
        for one in conversion._around:
            setattr(one.owner, one.attribute, one.after)
    except BaseException:
        conversion.undo()
        raise
    return conversion


@checked
def write_weights(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a model's state dict as safetensors, whole or not at all; tensors that are shared are written once each.

    Those that are sharded are gathered: every process of the group must call it.
    """
    require("safetensors")
    from safetensors.torch import save_file

    tensors = {name: _whole(tensor).detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    with whole_or_absent(path) as file:
        save_file(tensors, file)
    return Path(path)


def _whole(tensor: Any) -> torch.Tensor:
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def _replacement(
    model: nn.Module, name: str, module: nn.Module, seen: Behaviour, norm: str, alpha: float | None
) -> tuple[nn.Module, str]:
    """The new module, and what of the old one could not be kept."""
    gain, key = seen.gain, norm.lower()
    after = _build(name, norm, alpha, seen, _where(model, name, module))
    notes = []
    if gain.parameter is not None or gain.factor != 1.0:
        weight = None if gain.parameter is None else module.get_parameter(gain.parameter)
        if hasattr(after, "weight"):
            kept = gain.plain and weight is not None and tuple(weight.shape) == (seen.width,)
            after.weight = weight if kept else _effective(after.weight, weight, seen)  # type: ignore[assignment]
            notes += [] if kept else [f"its weight has the values of {gain}"]
    if seen.bias is not None and hasattr(after, "bias"):
        bias = module.get_parameter(seen.bias)
        fits = tuple(bias.shape) == (seen.width,)
        after.bias = bias if fits else nn.Parameter(bias.detach().reshape(-1).clone())
    elif seen.bias is not None and key != "none":
        notes.append(f"without its bias {seen.bias!r}")
    return after.train(module.training), "; ".join(notes)


def _effective(new: Any, weight: torch.Tensor | None, seen: Behaviour) -> nn.Parameter:
    """A weight with the values that act."""
    with torch.no_grad():
        if weight is None:
            return nn.Parameter(torch.full_like(new, seen.gain.factor))
        values = seen.gain.factor * (seen.gain.offset + weight.detach()).reshape(-1)
        return nn.Parameter(values.expand(new.shape).clone(), requires_grad=weight.requires_grad)


def _where(model: nn.Module, name: str, module: nn.Module) -> dict[str, Any]:
    """Device and dtype of a norm: its own, else those of what is nearest to it."""
    while True:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return {"device": tensor.device, "dtype": tensor.dtype}
        if module is model:
            return {}
        name = name.rpartition(".")[0]
        module = model.get_submodule(name)


def _build(name: str, norm: str, alpha: float | None, seen: Behaviour, where: dict[str, Any]) -> nn.Module:
    key, first = norm.lower(), seen.axis == 1
    if takes_alpha(norm):
        width, size = seen.width or 1, 1.0 if alpha is None else alpha
        return DynamicPointwise(width, norm, size, affine=affine(seen), channels_first=first, **where)
    if key == "none":
        return nn.Identity()
    if first or seen.width is None:
        what = "acts on axis 1" if first else "has no width of its own"
        raise ArgumentError(f"norm={norm!r} must act on the last axis of a known width, and '{name}' {what}")
    epsilon = 1e-6 if seen.kind == "pointwise" else seen.epsilon
    kind = nn.RMSNorm if key in RMS_NORMS else nn.LayerNorm
    assert key in RMS_NORMS or key in LAYER_NORMS
    return kind(seen.width, eps=epsilon, elementwise_affine=affine(seen), **where)


_FUSING = ((nn.TransformerEncoder, "use_nested_tensor"), (nn.TransformerEncoderLayer, "activation_relu_or_gelu"))
"""What lets torch's encoder run a fused kernel in evaluation mode, which would take any norm for a LayerNorm."""


def _around(model: nn.Module, replacements: Sequence[Replacement]) -> Iterator[Around]:
    """The switches of torch's encoders around norms that are no LayerNorm, and what a config of transformers says of its norms."""
    names = [one.name for one in replacements if not isinstance(one.after, nn.LayerNorm)]
    for name, module in model.named_modules():
        for kind, switch in _FUSING:
            if isinstance(module, kind) and any(norm.startswith(f"{name}." if name else "") for norm in names):
                yield Around(module, switch, getattr(module, switch), False)
    config = config_of(model)
    if config is not None:
        record = record_of(config, [(one.name, one.after) for one in replacements])
        yield Around(config, RECORD, getattr(config, RECORD, _ABSENT), record)


def _assign(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
