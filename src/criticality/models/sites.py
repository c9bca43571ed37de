"""Where in a model its norms are: on the stream, inside a branch, on the heads of attention, or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from criticality.errors import ArgumentError, ModelFailedError
from criticality.models.patterns import check_patterns, matches
from criticality.models.survey import survey
from criticality.randomness import forked
from criticality.reader.tape import Tape
from criticality.stream import Chain, Reader, Trace, trace
from criticality.stream.diamonds import Site
from criticality.stream.points import VIEWS, Layout
from criticality.stream.untouched import placed, untouched
from criticality.weightless import build_without_weights
from criticality.weightless.prepared import prepared

if TYPE_CHECKING:
    from criticality.models.description import ModelSpec

SiteKind = Literal["pre-norm", "output-norm", "final-norm", "inner-norm", "qk-norm", "outside"]

QK_NORM: SiteKind = "qk-norm"
SITE_KINDS: tuple[SiteKind, ...] = ("pre-norm", "output-norm", "final-norm", "inner-norm", "qk-norm", "outside")
"""Before the first weight of a branch; after its last, or after the addition; after the last point of the stream; between
the weights of a branch; of queries and keys; anywhere else.  Without inputs only those of queries and keys are known."""

BranchKind = Literal["attention", "mlp", "final"]

BRANCH_KINDS: tuple[BranchKind, ...] = ("attention", "mlp", "final")
"""Of what a norm of the stream belongs to: a branch in which a softmax weighs tokens, another branch, or what comes after the last
point.  A norm that branches of both kinds share is of ``attention``."""

_FUSED_SCORES = ("scaled_dot_product_attention", "multi_head_attention_forward", "flex_attention")
_SCORES = (*_FUSED_SCORES, "softmax")
_PRODUCTS = ("Bmm", "Mm", "Einsum")
_BETWEEN = (*VIEWS, "ToCopy", "NativeDropout", "Dropout", "Mul", "MaskedFill", "Cat", "Slice", "Clone")
"""What may lie between a softmax and the product by which it weighs values; not so where it weighs experts."""


_AVERAGING = ("layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "normalize", "rsqrt")
"""Calls that are, or are a part of, a norm that averages."""


def kinds_by_flow(
    model: nn.Module, inputs: Any, names: Iterable[str], under: AbstractContextManager[Any] | None = None
) -> dict[str, SiteKind]:
    """The kind of each norm in the data flow of one pass, by its name; ``under`` as for ``trace``.

    Raises:
        ValueError: as ``trace``.
    """
    return norms_by_flow(model, inputs, names, under).kinds


class FoundNorms(NamedTuple):
    """Norms in the data flow of one pass.

    Attributes:
        kinds: of each by its name.
        branches: what those of the stream belong to.
        nameless: the norms of the streams that none of the names is: where each is, and its call.
    """

    kinds: dict[str, SiteKind]
    branches: dict[str, BranchKind]
    nameless: list[tuple[str, str]]

    def fits(self, word: str, name: str) -> bool:
        """Whether a norm is of a kind, one of ``SITE_KINDS`` or ``BRANCH_KINDS``."""
        return word in (self.kinds[name], self.branches.get(name))


def norms_by_flow(
    model: nn.Module, inputs: Any, names: Iterable[str], under: AbstractContextManager[Any] | None = None
) -> FoundNorms:
    """As ``kinds_by_flow``, and more of the same pass."""
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
    every: dict[str, SiteKind] = {name: kinds.get(name, "outside") for name in names}
    branches, of_stream = Branches(found), ("pre-norm", "output-norm", "final-norm")
    belongs = {name: branches.kind(name, kind == "final-norm") for name, kind in every.items() if kind in of_stream}
    known = {name: branch for name, branch in belongs.items() if branch is not None}
    return FoundNorms(every, known, list(dict.fromkeys(nameless)))


class Branches:
    """Which branch a norm is before or after, in the data flow of one pass."""

    def __init__(self, found: Trace):
        self.found = found

    def kind(self, name: str, final: bool = False) -> BranchKind | None:
        """Of a norm of a stream; ``None`` where it is in no step of one, as between two stages."""
        if final:
            return "final"
        for chain, scores in zip(self.found.chains, self._scores, strict=True):
            for node in self._made.get(name, ()):
                step = next((one for one in chain.steps if one.start < node <= one.end), None)
                if step is None:
                    continue
                inside = chain.flow.inside(step.start, step.join)
                with_it = inside if node >= step.join else _on_paths(chain, node, inside)
                return "attention" if scores.intersection(with_it) else "mlp"
        return None

    @cached_property
    def _made(self) -> dict[str, list[int]]:
        """Of each module the nodes that it returned."""
        number = self.found.layout.graph.number
        made: dict[str, list[int]] = {}
        for visit in self.found.layout.record.visits:
            made.setdefault(visit.name, []).extend(number[node] for node in visit.made if node in number)
        return made

    @cached_property
    def _scores(self) -> list[set[int]]:
        """Nodes of each chain at which tokens are weighed."""
        layout = self.found.layout
        found = []
        for chain in self.found.chains:
            fused = {
                node
                for node in chain.flow.nodes
                if (call := layout.call(node)) is not None and call.function in _FUSED_SCORES
            }
            softmaxes = [node for node in chain.flow.nodes if "Softmax" in layout.name(node)]
            found.append(fused | {node for node in softmaxes if _weighs(layout, chain, node)})
        return found


def _weighs(layout: Layout, chain: Chain, softmax: int) -> bool:
    """Whether values are multiplied by a softmax as by a matrix."""
    reached = {softmax}
    for node in chain.flow.inside(softmax, chain.flow.nodes[-1]):
        if not any(before in reached for before in chain.flow.joined[node]):
            continue
        if layout.name(node).startswith(_PRODUCTS):
            return not layout.heavy(node)
        if layout.name(node).startswith(_BETWEEN):
            reached.add(node)
    return False


def _on_paths(chain: Chain, node: int, inside: Iterable[int]) -> set[int]:
    """Nodes before and after one, on the same paths through a region."""
    inside = list(inside)
    after, before = {node}, {node}
    for one in inside:
        if one > node and any(earlier in after for earlier in chain.flow.joined[one]):
            after.add(one)
    for one in reversed(inside):
        if one in before:
            before.update(chain.flow.joined[one])
    return (after | before).intersection(inside)


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
    found = _norms_of(replace(description, norm=None, alpha=None))  # type: ignore[type-var, arg-type]
    return [name for name, kind in found.kinds.items() if kind == QK_NORM] or None


def _has_vectors_only(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and all(parameter.ndim == 1 for parameter in parameters)


def alphas_by_flow(description: ModelSpec) -> float | dict[str, float] | None:
    """The ``alpha`` of a description as ``replace_norms`` takes it: kinds of site and of branch in it are said by name, as seen in
    the data flow of the model that is run without its weights.

    Raises:
        ArgumentError: a pattern without a match, or a norm that no pattern matches.
    """
    alpha = description.alpha
    if not isinstance(alpha, Mapping):
        return alpha
    if not any(word in (*SITE_KINDS, *BRANCH_KINDS) for word in alpha):
        return dict(alpha)
    found = _norms_of(replace(description, norm=None, alpha=None))  # type: ignore[type-var, arg-type]
    names = [name for name, kind in found.kinds.items() if kind != QK_NORM]
    return alphas_of_names(alpha, names, lambda word, name: fits_word_or_name(found, word, name))


def is_kind(word: str, names: Iterable[str]) -> bool:
    """Whether a pattern is a kind of site, or a kind of branch that none of the norms is called by."""
    return word in SITE_KINDS or (word in BRANCH_KINDS and not any(matches(word, name) for name in names))


def fits_word_or_name(found: FoundNorms, word: str, name: str) -> bool:
    """Whether a kind of site or of branch, or else a pattern of names, is of a norm."""
    return found.fits(word, name) if is_kind(word, found.kinds) else matches(word, name)


def alphas_of_names(
    alpha: Mapping[str, float], names: Sequence[str], fits: Callable[[str, str], bool]
) -> dict[str, float]:
    """Of each norm by name that of the first pattern which fits.

    Raises:
        ArgumentError: a pattern without a match, or a norm that no pattern matches.
    """
    check_patterns("alpha", alpha, names, "a norm that is replaced", fits)
    found: dict[str, float] = {}
    for name in names:
        fitting = [value for pattern, value in alpha.items() if fits(pattern, name)]
        if not fitting:
            raise ArgumentError(f"alpha must have a pattern for norm {name!r}, such as '*' at the end")
        found[name] = fitting[0]
    return found


@lru_cache(maxsize=16)
def _norms_of(description: ModelSpec) -> FoundNorms:
    """As one pass without numbers shows them, or, where a model asks for numbers, one with numbers drawn for them."""
    inputs = description.inputs()
    with _disable_current_modes():  # those of a model that is being built
        with forked():
            model = build_without_weights(description.create, at_least=1)
        with suppress(ModelFailedError):
            return norms_by_flow(model, inputs, survey(model).norms, Tape())
        ready = prepared(description.create, inputs, 0)
        return norms_by_flow(ready.model, ready.inputs, survey(ready.model).norms, ready.under())
