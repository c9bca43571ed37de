"""Which norms of a model are replaced: by pattern, by kind of site, and by what can be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from criticality.errors import ArgumentError
from criticality.models.behaviour import Behaviour
from criticality.models.patterns import Patterns, check_patterns, matches
from criticality.models.sites import (
    QK_NORM,
    FoundNorms,
    fits_word_or_name,
    is_kind,
    norms_by_flow,
    on_heads_by_shape,
)
from criticality.models.survey import Survey


@dataclass(frozen=True)
class Kept:
    """One norm that was left as it is: name, class and reason."""

    name: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} kept, {self.reason}"


class Scope:
    """Which norms are replaced.

    Raises:
        CriticalityError: a pattern without a match, or a kind of site that is not known without inputs.
    """

    def __init__(
        self, model: nn.Module, found: Survey, inputs: Any, keep: Sequence[str] | None, only: Sequence[str] | None
    ):
        self.model, self.found, self.keep, self.only = model, found, keep, only
        names = [*found.norms, *found.others]
        self.by_flow: FoundNorms | None = None if inputs is None else norms_by_flow(model, inputs, names)
        self._calls = [] if self.by_flow is None else self.by_flow.nameless
        for argument, patterns in (("keep", keep), ("only", only)):
            check_patterns(argument, patterns or (), names, "a norm of the model", self.fits)
        self._patterns = Patterns(keep or (), ("*",) if only is None else only, self.fits)

    def split(self, strict: bool) -> tuple[dict[str, tuple[nn.Module, Behaviour]], list[Kept]]:
        """Those that are replaced, and those that are kept.

        Raises:
            CriticalityError: nothing to replace; norms that cannot be.
        """
        chosen: dict[str, tuple[nn.Module, Behaviour]] = {}
        kept: list[Kept] = []
        for name, (module, seen) in self.found.norms.items():
            reason = self._reason(name, seen.width)
            if not reason and seen.width is None and affine(seen):
                reason = "as one number scales it and its width is not known"
                if strict:
                    raise ArgumentError(f"norm '{name}' must be kept, {reason}")
            if reason:
                kept.append(Kept(name, type(module).__name__, reason))
            else:
                chosen[name] = module, seen
        beyond = {name: entry for name, entry in self.found.others.items() if not self._patterns.left_out(name)}
        kept += [
            Kept(
                name,
                type(module).__name__,
                f"as it must {other.reason}" if name in beyond else self._patterns.left_out(name),
            )
            for name, (module, other) in self.found.others.items()
        ]
        calls = [] if self.only is not None else [Kept(*call, "as it is a call and no module") for call in self._calls]
        kept += calls
        if strict and calls:
            raise ArgumentError(f"norm at {calls[0].name} must be a module, and is a call of {calls[0].kind}")
        for name, (_, other) in beyond.items():
            if strict or not chosen or (other.kind == "batch" and not self._outside(name)):
                raise ArgumentError(f"norm '{name}' must {other.reason}")
        if not chosen:
            left = f"; {kept[0]}" if kept else ""
            raise ArgumentError(
                f"model {type(self.model).__name__} must have a LayerNorm or RMSNorm to replace, and has none{left}"
            )
        return chosen, kept

    def _reason(self, name: str, width: int | None) -> str:
        left_out = self._patterns.left_out(name)
        if left_out:
            return left_out
        asked = self.only is not None or (self.keep is not None and not self.keep)
        return "" if asked or not self._on_heads(name, width) else "as it acts on the heads of queries or keys"

    def _on_heads(self, name: str, width: int | None) -> bool:
        if self.by_flow is not None:
            return self.by_flow.kinds[name] == QK_NORM
        return on_heads_by_shape(self.model, name, width)

    def _outside(self, name: str) -> bool:
        return self.by_flow is not None and self.by_flow.kinds[name] == "outside"

    def fits(self, pattern: str, name: str) -> bool:
        """Whether a pattern, or a kind of site or of branch, is of a norm.

        Raises:
            ArgumentError: a kind that is seen in the data flow only, without inputs.
        """
        if self.by_flow is not None:
            return fits_word_or_name(self.by_flow, pattern, name)
        if not is_kind(pattern, (*self.found.norms, *self.found.others)):
            return matches(pattern, name)
        if pattern != QK_NORM:
            raise ArgumentError(
                f"pattern {pattern!r} is a kind of site that is seen in the data flow: give inputs=..., as for measure"
            )
        seen = self.found.norms.get(name)
        return on_heads_by_shape(self.model, name, seen[1].width if seen else None)


def affine(seen: Behaviour) -> bool:
    """Whether a norm scales or shifts its output."""
    return seen.gain.parameter is not None or seen.bias is not None or seen.gain.factor != 1.0
