"""The stream of tiny networks: points and log J against plain autograd; kinds, norms and branch weights as written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nets
import numpy as np
import odd_nets
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from criticality.errors import InputsError, ModelFailedError, StreamNotFoundError
from criticality.measurement import measure, measure_chains
from criticality.measurement.starts import normal_probe
from criticality.stream import stream
from criticality.weightless import predict_sampled


def plain_log_apjn(seen: list[Tensor], seed: int = 0) -> np.ndarray:
    """``log |d(u . x^L) / d x^l|^2 / |u|^2`` at every value noted, by autograd alone, with the probe of ``measure``."""
    probe = normal_probe(seen[-1].shape, seed, 0, seen[-1])
    gradients = torch.autograd.grad(seen[-1], seen, probe, retain_graph=True)
    return np.array([(g.double().square().sum() / probe.double().square().sum()).log().item() for g in gradients])


def run_plainly(net: Any, inputs: Any) -> None:
    """A forward pass that notes values from which autograd can go back."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    net(*(one.clone().requires_grad_() if one.is_floating_point() else one for one in arguments))


@dataclass(frozen=True)
class Case:
    """What is to be found in one network, in each block: ``{}`` stands for its number.

    Attributes:
        kinds, norms, weights: of the diamonds of a block, in order; norms and weights of a diamond separated by spaces.
        blocks: how many.
    """

    net: Callable[..., Any]
    kinds: tuple[str, ...]
    norms: tuple[str, ...]
    weights: tuple[str, ...]
    blocks: int = nets.DEPTH


ATTENTION = "blocks.{}.attention.out.weight blocks.{}.attention.out.bias"
SECOND = "blocks.{}.mlp.2.weight blocks.{}.mlp.2.bias"

CASES = {
    "pre-norm": Case(nets.PreNorm, ("pre-norm",) * 2, ("blocks.{}.n1", "blocks.{}.n2"), (ATTENTION, SECOND)),
    "post-norm": Case(nets.PostNorm, ("post-norm",) * 2, ("blocks.{}.n1", "blocks.{}.n2"), (ATTENTION, SECOND)),
    "sandwich": Case(
        nets.Sandwich,
        ("sandwich",),
        ("blocks.{}.before blocks.{}.after",),
        ("blocks.{}.after.weight blocks.{}.after.bias",),
    ),
    "output norm": Case(
        nets.OutputNorm, ("output-norm",), ("blocks.{}.after",), ("blocks.{}.after.weight blocks.{}.after.bias",)
    ),
    "parallel": Case(nets.Parallel, ("pre-norm",), ("blocks.{}.n1",), (f"{ATTENTION} {SECOND}",)),
    "pairs": Case(nets.Pairs, ("pre-norm",), ("blocks.{}.norm",), (SECOND,)),
    "list of lists": Case(
        nets.ListOfLists,
        ("pre-norm",) * 2,
        ("layer_norm", "blocks.{}.1.0"),
        ("blocks.{}.0.out.weight blocks.{}.0.out.bias", "blocks.{}.1.3.weight blocks.{}.1.3.bias"),
    ),
    "branch blocks": Case(nets.BranchBlocks, ("pre-norm",), ("blocks.{}.0",), ("blocks.{}.3.weight blocks.{}.3.bias",)),
    "transposed weights": Case(odd_nets.Transposed, ("pre-norm",), ("blocks.{}.norm",), ("blocks.{}.second",)),
    "norm written out": Case(odd_nets.Written, ("pre-norm",), ("rsqrt",), (SECOND,)),
}


@pytest.mark.parametrize("name", CASES)
def test_log_j_is_that_of_plain_autograd_at_every_boundary(name: str) -> None:
    net, x = nets.build(CASES[name].net), nets.vectors()
    run_plainly(net, x)
    expected = plain_log_apjn(net.seen)
    found = measure(net, x)
    np.testing.assert_allclose(_at_boundaries(found, len(expected)), expected, atol=2e-5)


def _at_boundaries(found: Any, number: int) -> np.ndarray:
    """Values at the boundaries of blocks."""
    values = found.log_apjn.values
    return values[:: (len(values) - 1) // (number - 1)]


class Inside(nn.Module):
    """A module that loops over lists of branches, between a first and a last one: it returns the last point, or what a norm makes
    of it."""

    def __init__(self, branches: Callable[[], list[nn.Module]], last: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(branches()) for _ in range(nets.DEPTH))
        self.first, self.last = nn.Linear(nets.WIDTH, nets.WIDTH), last

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            for branch in block:
                x = x + branch(functional.layer_norm(x, (nets.WIDTH,)))
        return self.last(x)


@pytest.mark.parametrize("last", [nn.Identity(), nn.LayerNorm(nets.WIDTH)], ids=["no norm", "norm"])
@pytest.mark.parametrize(
    ("branches", "steps"),
    [
        (lambda: [nets.Attention(), nets.MLP()], 2),
        (lambda: [nets.MLP()], 1),
        (lambda: [nets.MLP(), nets.Attention(), nn.Linear(nets.WIDTH, nets.WIDTH), nets.MLP()], 4),
    ],
    ids=["transformer", "mlp", "conformer"],
)
def test_blocks_that_are_no_modules_are_told_by_what_repeats(branches, steps, last) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(nets.WIDTH, nets.WIDTH), Inside(branches, last), nn.Linear(nets.WIDTH, 3))
    (chain,) = stream(net, nets.vectors()).chains
    positions = [point.position for point in chain.points]
    assert positions == pytest.approx(np.arange(nets.DEPTH * steps + 1) / steps)
    predicted = predict_sampled(net, nets.vectors(), range(2))
    assert predicted.points == measure(net, nets.vectors()).points == [chain.points[n * steps].name for n in range(5)]


class ScaledBlock(nets.PreNormBlock):
    """Its last addition is not what it returns."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.9 * super().forward(x)


def test_blocks_that_return_no_point_are_the_modules_that_points_are_made_in() -> None:
    net = nn.Sequential(nn.Linear(nets.WIDTH, nets.WIDTH), *(ScaledBlock() for _ in range(nets.DEPTH)))
    (chain,) = stream(net, nets.vectors()).chains
    assert [point.position for point in chain.points] == pytest.approx(np.arange(2 * nets.DEPTH + 1) / 2)
    assert [point.name for point in chain.points[::2]] == ["0", *(f"{n} after mlp" for n in range(1, nets.DEPTH + 1))]


def test_a_body_of_unlike_branches_is_no_block() -> None:
    """Nothing repeats: every addition counts."""
    unlike = iter(
        [[nets.Attention()], [nets.MLP()], [nn.Linear(nets.WIDTH, nets.WIDTH), nets.MLP()], [nets.Attention()]]
    )
    net = nn.Sequential(nn.Linear(nets.WIDTH, nets.WIDTH), Inside(lambda: next(unlike), nn.Identity()))
    (chain,) = stream(net, nets.vectors()).chains
    assert [point.position for point in chain.points] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", CASES)
def test_kinds_norms_and_branch_weights_are_those_written(name: str) -> None:
    case = CASES[name]
    (chain,) = stream(nets.build(case.net), nets.vectors()).chains
    assert len(chain.diamonds) == case.blocks * len(case.kinds)
    for number, diamond in enumerate(chain.diamonds):
        block, place = divmod(number, len(case.kinds))
        norms = " ".join(str(site) for site in (*diamond.norms, *diamond.output_norms))
        weights = " ".join(name for branch in diamond.branches for name in branch.parameters)
        assert diamond.kind == case.kinds[place]
        assert case.norms[place].replace("{}", str(block)) in norms
        assert set(weights.split()) == set(case.weights[place].replace("{}", str(block)).split())


def test_a_value_mixed_into_every_block_is_held_fixed_and_named() -> None:
    net, x = nets.build(nets.Mixing), nets.vectors()
    run_plainly(net, x)
    expected = plain_log_apjn(net.seen)  # at the input all paths, later those along the stream
    found = measure(net, x)
    assert found.side_inputs == ["input"]
    np.testing.assert_allclose(found.log_apjn.values[-3:], expected[-3:], atol=2e-5)
    np.testing.assert_allclose(found.log_apjn.values[0], expected[0], atol=2e-5)


def test_a_skip_around_all_blocks_is_held_fixed_and_named() -> None:
    net, x = nets.build(nets.Detour), nets.vectors()
    run_plainly(net, x)
    expected = plain_log_apjn(net.seen)
    found = measure(net, x)
    assert found.side_inputs == ["first"]
    assert list(found.attrs["points"]) == ["input", "first", *(f"blocks.{number}" for number in range(nets.DEPTH))]
    np.testing.assert_allclose(found.log_apjn.values, expected, atol=2e-5)


def test_a_backward_pass_that_fails_is_said_in_a_sentence() -> None:
    with pytest.raises(ModelFailedError, match=r"differentiable between its points.*modified by an inplace operation"):
        measure(nets.build(nets.Overwritten), nets.vectors())


class Returning(nn.Module):
    """All that a network passes through on its way, in some order and form."""

    def __init__(self, form: Callable[[list[Tensor], nn.Module], Any]) -> None:
        super().__init__()
        self.net, self.early, self.form = nets.build(nets.PreNorm), nn.Linear(nets.WIDTH, 3), form

    def forward(self, x: Tensor) -> Any:
        self.net(x)
        return self.form(list(self.net.seen), self.early)


@pytest.mark.parametrize(
    "form",
    [
        lambda seen, head: (head(seen[1]), seen[-1]),
        lambda seen, head: [head(one) for one in seen[1:]],
        lambda seen, head: {"hidden_states": tuple(seen), "logits": head(seen[-1].mean(1))},
        lambda seen, head: (seen[-1], *(head(one) for one in seen[:-1])),
    ],
    ids=["early head", "a head at each block", "hidden states", "last first"],
)
def test_the_stream_ends_where_the_deepest_of_several_outputs_begins(form: Any) -> None:
    net, x = Returning(form), nets.vectors()
    run_plainly(net.net, x)
    expected = plain_log_apjn(net.net.seen)
    np.testing.assert_allclose(_at_boundaries(measure(net, x), len(expected)), expected, atol=2e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_rotations_inside_attention_are_no_points_of_a_shallow_stream(depth: int) -> None:
    net, x = nets.build(odd_nets.Rotary, depth), nets.vectors()
    run_plainly(net, x)
    expected = plain_log_apjn(net.seen)
    found = measure(net, x, points="sublayers")
    assert list(found.block.values) == [place / 2 for place in range(2 * depth + 1)]
    assert "side_inputs" not in found.attrs
    np.testing.assert_allclose(found.log_apjn.values[::2], expected, atol=2e-5)


def test_a_block_that_is_applied_again_and_again_has_a_point_for_each_time() -> None:
    net, x = nets.build(nets.Tied), nets.vectors()
    run_plainly(net, x)
    expected = plain_log_apjn(net.seen)
    np.testing.assert_allclose(measure(net, x).log_apjn, expected, atol=2e-5)
    assert len(expected) == 7


def test_shapes_may_change_along_the_stream() -> None:
    net, x = nets.build(odd_nets.Stages), nets.vectors(2, 3, 16, 16)
    run_plainly(net, x)
    expected = plain_log_apjn(net.seen)
    np.testing.assert_allclose(measure(net, x).log_apjn, expected, atol=2e-5)
    (chain,) = stream(net, x).chains
    assert {point.shape for point in chain.points} == {(2, 8, 8, 8), (2, 16, 4, 4)}


def test_sequence_first_streams_are_read_along_their_tokens() -> None:
    net = nets.build(odd_nets.SequenceFirst)
    common = nets.vectors(1, 3, nets.WIDTH)
    x = 0.95 * common + 0.3 * nets.vectors(7, 3, nets.WIDTH)  # tokens of one sequence are alike
    run_plainly(net, x)
    expected = plain_log_apjn(net.seen)
    found = measure(net, x)
    np.testing.assert_allclose(found.log_apjn, expected, atol=2e-5)
    unit = torch.nn.functional.normalize(x, dim=-1)
    gram = torch.einsum("tbc,sbc->bts", unit, unit)
    correlation = ((gram.sum((1, 2)) - 7) / (7 * 6)).mean().item()
    assert abs(found.correlation.values[0] - correlation) < 1e-5


def test_ids_may_be_hashed_before_they_are_looked_up() -> None:
    net, ids = nets.build(odd_nets.Hashed), torch.randint(0, 500, (2, 5), generator=torch.Generator().manual_seed(2))
    net(ids)
    expected = plain_log_apjn(net.seen)
    np.testing.assert_allclose(measure(net, ids).log_apjn, expected, atol=2e-5)


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.net = nn.EmbeddingBag(9, nets.WIDTH, mode="mean"), nets.build(nets.PreNorm)

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(self.table(ids)[None])


def test_a_bag_of_embeddings_is_a_source() -> None:
    net, bags = Bags(), torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(2))
    run_plainly(net.net, net.table(bags)[None].detach())
    expected = plain_log_apjn(net.net.seen)
    np.testing.assert_allclose(_at_boundaries(measure(net, bags), len(expected)), expected, atol=2e-5)


@pytest.mark.parametrize("how", ["no gradients", "inference mode", "detached", "codes"])
def test_behind_values_without_gradients_the_stream_is_that_of_the_rest(how: str) -> None:
    net, x = nets.build(odd_nets.Behind, how), nets.vectors()
    with pytest.warns(UserWarning, match="no gradient passes from the inputs"):
        found = measure(net, x)
    rest = measure(net.rest, net.before(x).detach().clone())
    np.testing.assert_allclose(found.log_apjn, rest.log_apjn, atol=1e-6)
    np.testing.assert_allclose(found.q, rest.q, rtol=1e-6)
    assert found.resumed


def test_encoder_and_decoder_have_a_stream_each() -> None:
    net = nets.build(odd_nets.EncoderDecoder)
    tokens = torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(1)), torch.randint(0, 40, (2, 5))
    net(*tokens)
    encoder, decoder = plain_log_apjn(net.encoded), plain_log_apjn(net.seen)
    chains = measure_chains(net, tokens)
    assert set(chains) == {"encoder", "decoder"}
    np.testing.assert_allclose(chains["encoder"].log_apjn, encoder, atol=2e-5)
    np.testing.assert_allclose(chains["decoder"].log_apjn, decoder, atol=2e-5)


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_checkpointing_changes_nothing_at_the_boundaries_of_blocks(how: str) -> None:
    x = nets.vectors()
    plain, again = (measure(nets.build(odd_nets.Checkpointed, one), x) for one in (None, how))
    np.testing.assert_allclose(again.log_apjn, plain.log_apjn, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "inputs", "said"),
    [
        (odd_nets.Dense, (3, 8), "1 joins were found, at none of which something is added"),
        (odd_nets.UNet, (1, 8, 32, 32), "none for"),
        (odd_nets.TwoLanes, (2, 5, nets.WIDTH), "several lanes"),
        (odd_nets.Plain, (2, nets.WIDTH), "0 joins"),
    ],
    ids=["dense", "U-Net", "two lanes", "no skip"],
)
def test_what_has_no_stream_is_refused_in_a_sentence(net: Any, inputs: tuple[int, ...], said: str) -> None:
    model = nets.build(net)
    for ask in (stream, measure):
        with pytest.raises(StreamNotFoundError, match=said) as refusal:
            ask(model, nets.vectors(*inputs))
        assert "\n" not in str(refusal.value)


def test_an_output_that_does_not_depend_on_the_input_is_refused() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones_like(x)

    with pytest.raises(InputsError, match="must depend on its inputs"):
        stream(Constant(), nets.vectors())


def test_the_table_names_places_shapes_and_weights() -> None:
    table = str(stream(nets.build(nets.PreNorm), nets.vectors()))
    assert "4 blocks, 8 branchings" in table
    (row,) = [line for line in table.splitlines() if line.startswith("1.5 ")]
    for part in ("2 x 5 x 16", "pre-norm", "blocks.1.n1", "blocks.1.attention.out.weight"):
        assert part in row


def test_a_model_is_left_as_it_was() -> None:
    net = nets.build(nets.PreNorm).train()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    state = torch.get_rng_state()
    stream(net, nets.vectors())
    assert net.training
    assert all(one.training and not one._forward_hooks for one in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_value_that_is_scaled_in_place_keeps_the_name_of_the_module_before_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner = nn.Linear(nets.WIDTH, nets.WIDTH), nets.PreNorm()

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)  # a view of a product
            x.mul_(2.0)
            return self.inner(x)

    assert stream(nets.build(Scaled), nets.vectors()).chains[0].points[0].name == "after embed"


def test_a_batch_norm_that_gets_one_value_is_said_to_need_two_samples() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(ModelFailedError, match="give two samples or more"):
        stream(net, torch.ones(1, 4))
