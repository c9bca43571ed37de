"""What a random weight is: a tensor in every respect but its numbers."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from criticality.errors import UnknownLawError
from criticality.weightless.building import build_without_weights
from criticality.weightless.entries import Entries, Player, playing
from criticality.weightless.laws import law_of
from criticality.weightless.storage import Geometry, Piece, Storage, aligned
from criticality.weightless.weight import RandomWeight


def linear(rows: int = 300, columns: int = 200, **options: object) -> nn.Linear:
    return build_without_weights(lambda: nn.Linear(columns, rows, **options))  # type: ignore[arg-type]


def test_it_claims_what_a_parameter_has_and_survives_conversions() -> None:
    module = linear()
    weight = module.weight
    assert isinstance(weight, RandomWeight)
    assert isinstance(weight, nn.Parameter)
    assert (weight.shape, weight.dtype, weight.device.type, weight.is_meta) == ((300, 200), torch.float32, "cpu", False)
    assert weight.requires_grad
    law = weight.law.second_moment
    assert law == pytest.approx(1 / 600)
    module.to(torch.bfloat16)
    assert isinstance(module.weight, RandomWeight)
    assert module.weight.dtype == torch.bfloat16
    for other in (
        module.weight.float(),
        module.weight.data,
        module.weight.detach(),
        module.weight.clone(),
        module.weight.t(),
    ):
        assert isinstance(other, RandomWeight)
        assert other.law.second_moment == pytest.approx(law)
    assert module.state_dict()["weight"].law.second_moment == pytest.approx(law)


def test_it_is_printed_copied_and_pickled() -> None:
    module = linear()
    module.weight.mark = 3
    text = repr(module.weight)
    assert text.startswith("RandomWeight(shape=(300, 200), mean ")
    assert "std 0.0408" in text
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert isinstance(other.weight, nn.Parameter)
        assert other.weight.requires_grad
        assert other.weight.mark == 3
        assert other.weight.law.second_moment == module.weight.law.second_moment
        with torch.no_grad():
            other.weight.zero_()
        assert module.weight.law.second_moment > 0


def test_parts_have_laws_of_their_own() -> None:
    weight = linear(300, 100).weight.detach()
    for index, part in enumerate(weight.chunk(3)):
        nn.init.normal_(part, std=index + 1.0)
    assert [(r.start, r.stop, round(r.law.second_moment, 6)) for r in weight.regions] == [
        (0, 100, 1),
        (100, 200, 4),
        (200, 300, 9),
    ]
    assert weight.law.second_moment == pytest.approx(14 / 3)
    assert weight.law.sample.square().mean().item() == pytest.approx(14 / 3, rel=1e-2)
    assert weight[150:].law.second_moment == pytest.approx((4 + 18) / 3)
    drawn = weight.draw(torch.Generator().manual_seed(0))
    assert [round(part.std().item()) for part in drawn.chunk(3)] == [1, 2, 3]
    rows = weight.draw(torch.Generator().manual_seed(0), rows=[250, 3, 150])
    assert rows.std(1).round().tolist() == [3, 1, 2]


def test_a_padding_row_does_not_change_the_law_of_the_table() -> None:
    table = build_without_weights(lambda: nn.Embedding(1000, 64, padding_idx=5)).weight
    assert table.law.second_moment == pytest.approx(1, rel=1e-6)
    assert table.draw(rows=torch.tensor([4, 5, 6])).square().mean(1).tolist() == pytest.approx([1, 0, 1], abs=0.6)
    assert table.draw()[5].abs().max() == 0


def test_experts_that_are_initialized_one_by_one_share_one_sample() -> None:
    weight = build_without_weights(lambda: nn.Bilinear(100, 100, 64)).weight.detach()
    for expert in weight:
        nn.init.normal_(expert, std=0.02)
    assert len(weight.pieces() or []) == 1


def test_orthogonal_matrices_are_drawn_orthogonal() -> None:
    weight = linear(300, 100).weight.detach()
    nn.init.orthogonal_(weight, gain=2)
    assert weight.law.orthogonal
    assert weight.law.second_moment == pytest.approx(4 / 300)
    drawn = weight.draw()
    torch.testing.assert_close(drawn.T @ drawn, 4 * torch.eye(100), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w @ torch.ones(200),
        lambda w: w.sum(),
        lambda w: w[3, 4].item(),
        lambda w: w[torch.tensor([1, 2])],
        lambda w: w.detach().numpy(),
        lambda w: w.tolist(),
        lambda w: w.sort(),
    ],
)
def test_numbers_that_are_not_there_are_an_error_after_building(read: object) -> None:
    weight = linear().weight
    with pytest.raises(UnknownLawError, match=r"needs the numbers of a weight .*`weight\.draw"):
        read(weight)  # type: ignore[operator]


def test_numbers_are_drawn_once_while_building() -> None:
    def build() -> nn.Module:
        module = nn.Linear(200, 300)
        module.register_buffer("norm", module.weight.detach().norm())
        module.register_buffer("first", module.weight.detach()[0].clone())
        return module

    module = build_without_weights(build)
    assert not isinstance(module.weight, RandomWeight)
    assert torch.equal(module.norm, module.weight.detach().norm())
    assert torch.equal(module.first, module.weight.detach()[0])


def test_a_weight_too_large_to_draw_is_an_error_that_names_the_operation() -> None:
    def build() -> nn.Module:
        module = nn.Linear(2**14, 2**14, bias=False)
        module.register_buffer("norm", module.weight.detach().norm())
        return module

    with pytest.raises(UnknownLawError, match=r"aten\.linalg_vector_norm.* cannot be followed .* 268,435,456 entries"):
        build_without_weights(build)


def test_building_leaves_the_random_state_and_depends_on_its_seed_only() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, third = (build_without_weights(lambda: nn.Linear(200, 300), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.bias, second.bias)
    assert not torch.equal(first.bias, third.bias)
    assert torch.equal(first.weight.law.sample, second.weight.law.sample)


def test_two_draws_are_independent_and_a_tensor_is_not_independent_of_itself() -> None:
    with playing(Player(at_least=1)):
        a, b = (RandomWeight.from_pieces([Piece(30_000, Player(seed).draw("normal"))], (300, 100)) for seed in (1, 2))
        assert (a + b).law.second_moment == pytest.approx(2, rel=0.05)
        assert (a + a).law.second_moment == pytest.approx(4)
        assert (a - a.clone()).law.second_moment == 0
        square = a.view(100, 300)[:, :100].clone()
        assert (square + square.t()).law.second_moment == pytest.approx(2, rel=0.05)
        assert (a[:150] + a[150:]).law.second_moment == pytest.approx(2, rel=0.05)


def test_in_place_operations_on_views_change_the_base() -> None:
    weight = linear().weight.detach()
    weight.view(-1).mul_(10)
    weight.t().add_(1)
    assert weight.law.mean == pytest.approx(1)
    assert weight.law.variance == pytest.approx(100 / 600)


def test_geometry_of_views() -> None:
    base = torch.empty(6, 4)
    assert Geometry.of(base).contiguous
    assert Geometry.of(base.t()).transposed
    assert Geometry.of(base[:, 1:3]).distinct
    assert not Geometry.of(base[:1].expand(6, 4)).distinct
    assert not Geometry.of(torch.empty(10).as_strided((3, 3), (1, 1))).distinct


def test_pieces_are_cut_at_the_same_places() -> None:
    one, two = (Entries(torch.tensor([value])) for value in (1.0, 2.0))
    parts = aligned([[Piece(3, one), Piece(3, two)], [Piece(2, two), Piece(4, one)]])
    assert [(n, *(e.values.item() for e in entries)) for n, entries in parts] == [(2, 1, 2), (1, 1, 1), (3, 2, 1)]


def test_a_storage_says_when_pieces_cannot_describe_a_view() -> None:
    one, two = (Entries(torch.tensor([value])) for value in (1.0, 2.0))
    storage = Storage(24, torch.float32, torch.device("cpu"), [Piece(12, one), Piece(12, two)])
    assert storage.read(Geometry.of(torch.empty(6, 4).t())) is None
    assert not storage.write(Geometry.of(torch.empty(6, 4)[:, :2]), [Piece(12, one)])
    assert storage.write(Geometry.of(torch.empty(6, 4)[2:4]), [Piece(8, two)])
    assert [length for length, _ in storage.pieces] == [8, 16]


def test_law_of_a_weight_on_loaded_numbers_is_measured() -> None:
    module = linear()
    module.load_state_dict({"weight": torch.full((300, 200), 2.0), "bias": torch.zeros(300)}, assign=True)
    assert law_of(module.weight).second_moment == pytest.approx(4, rel=1e-12)
