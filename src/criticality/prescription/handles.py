"""What of a model can be set: the alphas of the norms of its streams, and what scales each branch, found in the data flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from criticality.models.own_inputs import inputs_of
from criticality.models.sites import Branches, BranchKind
from criticality.models.survey import Survey, survey
from criticality.prescription.scaling import Scaled, decide, parameter_of
from criticality.stream import Branch, Chain, Reader, Site, Trace, trace
from criticality.stream.find import original
from criticality.stream.untouched import placed, untouched
from criticality.stream.weights import branch_weights


@dataclass(frozen=True)
class AlphaSite:
    """A pointwise norm of the stream.

    Attributes:
        name: of the module.
        module: itself.
        parameter: whole name of its alpha.
        final: whether it comes after the last point of its stream.
        branch: the kind of the branch that it belongs to; ``None`` between two stages.
    """

    name: str
    module: nn.Module
    parameter: str
    final: bool
    branch: BranchKind | None = None

    def alpha(self, model: nn.Module) -> float:
        """As it is in the model, its mean where it is several numbers."""
        return float(parameter_of(model, self.parameter).detach().double().mean())


@dataclass(frozen=True)
class BranchHandle:
    """What scales one branch.

    Attributes:
        name: of the module that holds it, for people.
        chain: number of the stream that it writes to.
        start, end: nodes of the graph between which it is.
        parameters: names of those that are scaled together; empty where nothing can be.
        reason: why nothing can be.
        calls: numbers of the calls between which it acts.
    """

    name: str
    chain: int
    start: int
    end: int
    parameters: tuple[str, ...]
    reason: str = ""
    calls: tuple[int, int] = (0, 0)


class Handles:
    """Reads a model once; all that is asked of it later comes from that one pass.

    Args:
        model: any that ``measure`` takes.
        inputs: as for ``measure``; by default those that the model says itself that it takes.
        under: makes the context that it is run in, such as a mode that takes its weights' place.

    Raises:
        InputsError: no inputs, for a model that does not say what it takes.
        ValueError: as ``measure``.
    """

    def __init__(
        self, model: nn.Module, inputs: Any = None, under: Callable[[], AbstractContextManager[Any]] | None = None
    ):
        self.model = original(model)
        held = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        self.frozen = (
            held if len(held) < len(list(self.model.parameters())) else set()
        )  # a whole model is not: it is only run
        given = inputs_of(self.model) if inputs is None else inputs
        with placed(self.model, given, None, None) as ready, untouched(self.model):
            self.inputs = ready
            self.found: Trace = trace(self.model, ready, under=under() if under else None)
        self.readers = [Reader(self.found.layout, chain.flow) for chain in self.found.chains]

    @cached_property
    def survey(self) -> Survey:
        """Norms of the model by behaviour."""
        return survey(self.model)

    @cached_property
    def alphas(self) -> tuple[AlphaSite, ...]:
        """Pointwise norms of the streams, in the order of the data flow, final norms last; each module once."""
        sites: dict[str, AlphaSite] = {}
        branches = Branches(self.found)
        for final in (False, True):
            for site in self._norm_sites(final):
                for name, parameter in self._alphas_of(site):
                    if name not in sites:
                        module, kind = self.model.get_submodule(name), branches.kind(name, final)
                        sites[name] = AlphaSite(name, module, parameter, final, kind)
        return tuple(sites.values())

    @cached_property
    def branches(self) -> tuple[BranchHandle, ...]:
        """What scales each branch of each stream, in order, as the numbers say; each set of parameters once."""
        found: dict[tuple[str, ...], BranchHandle] = {}
        for handle in self.uses:
            found.setdefault(handle.parameters or (handle.name, str(handle.end)), handle)
        return tuple(found.values())

    @cached_property
    def uses(self) -> tuple[BranchHandle, ...]:
        """As ``branches``, a set of parameters as often as it is used."""
        return tuple(handle for number in range(len(self.readers)) for handle in self._branches_of(number))

    def scalings(self, handles: tuple[BranchHandle, ...]) -> dict[str, Scaled]:
        """How each parameter of the handles is written for the branch to be scaled, tried on the model; see ``decide``."""
        usable = [handle for handle in handles if handle.parameters]
        with placed(self.model, self.inputs, None, None) as ready, untouched(self.model):
            return decide(self.model, ready, [(handle.parameters, handle.calls) for handle in usable])

    def matrices(self) -> list[str]:
        """Names of the weight matrices of all branches."""
        names: dict[str, None] = {}
        for chain in self.found.chains:
            names |= dict.fromkeys(branch_weights(self.model, self.found, chain))
        return list(names)

    def other_alphas(self) -> list[str]:
        """Pointwise norms of the model that are not of its streams, such as those of queries and keys."""
        known = {site.name for site in self.alphas}
        norms = self.survey.norms.items()
        return [name for name, (_, seen) in norms if seen.kind == "pointwise" and name not in known]

    def _norm_sites(self, final: bool) -> Iterator[Site]:
        found: list[tuple[int, Site]] = []
        for chain, reader in zip(self.found.chains, self.readers, strict=True):
            last = chain.steps[-1].end
            if final:
                found += [(last, site) for site in reader.norms_after(last)]
            else:
                found += norm_sites(chain, reader, self.survey.norms.__contains__)
        return (site for _, site in sorted(found, key=lambda entry: entry[0]))

    def _alphas_of(self, site: Site) -> Iterator[tuple[str, str]]:
        """Names of pointwise norms at a site, and of their alphas."""
        if not site.module:
            return
        for name, (_, seen) in self.survey.norms.items():
            inside = name == site.module or name.startswith(f"{site.module}.")
            if inside and seen.kind == "pointwise" and isinstance(seen.alpha, str):
                yield name, f"{name}.{seen.alpha}"

    def _branches_of(self, number: int) -> Iterator[BranchHandle]:
        for step in self.found.chains[number].steps:
            calls = self._calls(step.start, step.end)
            diamond = self.readers[number].diamond(step)
            missing = _held(diamond.branches, self.frozen)
            for branch in diamond.branches:
                name = branch.module or " ".join(branch.parameters) or branch.function
                scaling = self._scaling(branch)
                reason = missing or ("" if scaling else f"nothing scales what {branch.function!r} returns")
                parameters = () if reason else scaling
                yield BranchHandle(name, number, step.start, step.end, parameters, reason, calls)
            if not diamond.branches:
                label = self.found.layout.label(step.join)
                reason = f"a branch of kind {diamond.kind!r} in which nothing was found that scales it"
                yield BranchHandle(label, number, step.start, step.end, (), reason, calls)

    def _scaling(self, branch: Branch) -> tuple[str, ...]:
        """Names of the parameters that scale a branch: all that its last call took, of a norm what scales and what is added."""
        if branch.module not in self.survey.norms:
            return branch.parameters
        _, seen = self.survey.norms[branch.module]
        if seen.gain.parameter is None:
            return ()
        own = [seen.gain.parameter, *([] if seen.bias is None else [seen.bias])]
        return tuple(f"{branch.module}.{name}" for name in own)

    def _calls(self, start: int, end: int) -> tuple[int, int]:
        numbers = [call.number for node in (start, end) if (call := self.found.layout.call(node)) is not None]
        return (numbers[0], numbers[-1]) if len(numbers) == 2 else (-1, numbers[0] if numbers else -1)


def norm_sites(chain: Chain, reader: Reader, is_norm: Callable[[str], bool]) -> Iterator[tuple[int, Site]]:
    """Norms that the values of a stream meet before its last point, each with the node that it comes after, in order.

    Args:
        is_norm: whether the module of that name is one, for those at the end of a branch.
    """
    before = chain.points[0].node
    for step in chain.steps:
        if before < step.start:  # on the way from one addition to the next branching, and between stages
            yield from ((before, site) for site in reader.norms_after(before))
        diamond = reader.diamond(step)
        closing = [Site(one.module, (one.function,), ()) for one in diamond.branches if is_norm(one.module)]
        yield from ((step.start, site) for site in (*diamond.norms, *closing, *diamond.output_norms))
        before = step.end


def _held(branches: tuple[Branch, ...], frozen: set[str]) -> str:
    """Why the branches of one addition cannot be scaled together: one of them is frozen, as under a LoRA pair."""
    held = [name for branch in branches for name in branch.parameters if name in frozen]
    return f"{held[0]!r} is frozen, and a pair that is added to it scales a part of the branch only" if held else ""
