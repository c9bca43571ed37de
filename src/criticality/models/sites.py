"""Where in a model its norms are: on the stream, inside a branch, on the heads of attention, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from criticality.models.survey import survey
from criticality.stream import Chain, Reader, Trace, trace
from criticality.stream.diamonds import Site
from criticality.stream.points import Layout
from criticality.stream.untouched import placed, untouched
from criticality.weightless.prepared import prepared

if TYPE_CHECKING:
    from criticality.models.description import ModelSpec

SiteKind = Literal["pre-norm", "output-norm", "final-norm", "inner-norm", "qk-norm", "outside"]

QK_NORM: SiteKind = "qk-norm"
SITE_KINDS: tuple[SiteKind, ...] = ("pre-norm", "output-norm", "final-norm", "inner-norm", "qk-norm", "outside")
"""Before the first weight of a branch; after its last, or after the addition; after the last point of the stream; between
the weights of a branch; of queries and keys; anywhere else.  Without inputs only those of queries and keys are known."""

_SCORES = ("scaled_dot_product_attention", "softmax", "multi_head_attention_forward", "flex_attention")


_AVERAGING = ("layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "normalize", "rsqrt")
"""Calls that are, or are a part of, a norm that averages."""


def kinds_by_flow(
    model: nn.Module, inputs: Any, names: Iterable[str], under: AbstractContextManager[Any] | None = None
) -> dict[str, SiteKind]:
    """The kind of each norm in the data flow of one pass, by its name; ``under`` as for ``trace``.

    Raises:
        ValueError: as ``trace``.
    """
    return norms_by_flow(model, inputs, names, under)[0]


def norms_by_flow(
    model: nn.Module, inputs: Any, names: Iterable[str], under: AbstractContextManager[Any] | None = None
) -> tuple[dict[str, SiteKind], list[tuple[str, str]]]:
    """As ``kinds_by_flow``; and the norms of the streams that none of the names is: where each is, and its call."""
    names = list(names)
    with placed(model, inputs, None, None) as ready, untouched(model):
        found = trace(model, ready, under=under)
    kinds: dict[str, SiteKind] = {}
    nameless: list[tuple[str, str]] = []
    for chain in found.chains:
        reader = Reader(found.layout, chain.flow)
        marked: list[tuple[Site, SiteKind, int]] = []
        for step in chain.steps:
            diamond = reader.diamond(step)
            marked += [(site, "pre-norm", step.join) for site in diamond.norms]
            marked += [(site, "output-norm", step.join) for site in diamond.output_norms]
        end = chain.steps[-1].end
        marked += [(site, "final-norm", end) for site in reader.norms_after(end)]
        for name in names:
            for site, kind, _ in marked:
                if _is_in(name, site):
                    kinds.setdefault(name, kind)
        for site, _, join in marked:
            call = next((one for one in site.functions if one in _AVERAGING), "")
            if call and not any(_is_in(name, site) for name in names):
                nameless.append((f"{found.layout.label(join)!r}", call))
        for name in names:
            inside = _inside(found, chain, name)
            if inside is not None:
                kinds.setdefault(name, inside)
    return {name: kinds.get(name, "outside") for name in names}, list(dict.fromkeys(nameless))


def _is_in(name: str, site: Site) -> bool:
    return bool(site.module) and (name == site.module or name.startswith(f"{site.module}."))


def _inside(found: Trace, chain: Chain, name: str) -> SiteKind | None:
    """Of a norm between the first and the last point: what its value meets first, attention or a weight."""
    layout = found.layout
    numbers = [
        layout.graph.number[node]
        for visit in layout.record.visits
        if visit.name == name
        for node in visit.made
        if node in layout.graph.number
    ]
    first, last = chain.steps[0].start, chain.steps[-1].join
    if not numbers or not first < numbers[0] <= last:
        return None
    return "qk-norm" if _meets_scores(layout, chain, numbers[0]) else "inner-norm"


def _meets_scores(layout: Layout, chain: Chain, start: int) -> bool:
    reached = {start}
    for node in chain.flow.inside(start, chain.flow.nodes[-1]):
        if not any(before in reached for before in chain.flow.joined[node]) or layout.heavy(node):
            continue
        reached.add(node)
        call = layout.call(node)
        if call is not None and (call.function in _SCORES or "Softmax" in layout.name(node)):
            return True
    return False


def on_heads_by_shape(model: nn.Module, name: str, width: int | None) -> bool:
    """Whether a norm is as wide as a head: no weight beside it takes that width, and one gives several times that width.

    Read without running the model; of norms that are as wide as all heads together it is not seen (``open_by_shape``).
    """
    parent = name.rpartition(".")[0]
    while width is not None:
        shapes = [
            tuple(parameter.shape)
            for parameter in model.get_submodule(parent).parameters()
            if sum(size > 1 for size in parameter.shape) > 1
        ]
        if shapes:
            taken = {size for shape in shapes for size in (shape[1:2] if len(shape) == 2 else shape[:2])}
            return width not in taken and any(shape[0] > width and shape[0] % width == 0 for shape in shapes)
        if not parent:
            break
        parent = parent.rpartition(".")[0]
    return False


def open_by_shape(model: nn.Module, name: str) -> bool:
    """Whether shapes leave open if a norm acts on queries or keys: a weight directly beside it gives what it is as wide as."""
    sizes = {parameter.numel() for parameter in model.get_submodule(name).parameters()}
    beside = model.get_submodule(name.rpartition(".")[0])
    weights = [weight for child in beside.children() for weight in child.parameters(recurse=False) if weight.ndim == 2]
    return any(len(weight) in sizes for weight in weights)


def on_heads_by_flow(model: nn.Module, description: ModelSpec) -> list[str] | None:
    """Names of the norms of queries and keys in the data flow of a described model that is run without its weights.

    ``None`` where shapes tell all there is to know of ``model``, which the description has built and whose norms are its own.
    """
    vectors = [name for name, module in model.named_modules() if name and _has_vectors_only(module)]
    if not any(open_by_shape(model, name) for name in vectors):
        return None
    return [*_on_heads(replace(description, norm=None, alpha=None))] or None  # type: ignore[type-var, arg-type]


def _has_vectors_only(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and all(parameter.ndim == 1 for parameter in parameters)


@lru_cache(maxsize=16)
def _on_heads(description: ModelSpec) -> tuple[str, ...]:
    with _disable_current_modes():  # those of a model that is being built
        ready = prepared(description.create, description.inputs(), 0, init=description.init)
        kinds = kinds_by_flow(ready.model, ready.inputs, survey(ready.model).norms, ready.under())
    return tuple(name for name, kind in kinds.items() if kind == QK_NORM)
