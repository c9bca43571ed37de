"""Alphas that are solved for without weights, set on models with weights and measured there."""

import pytest
import torch
import transformers
from torch import Tensor, nn

from criticality.errors import CriticalityError
from criticality.measurement import measure_ensemble
from criticality.models import DynamicPointwise, replace_norms
from criticality.prescription import apply_prescription
from criticality.prescription.sampled import least_amplification_sampled, prescribe_sampled
from criticality.weightless import predict_sampled

WIDTH = 128


class Gated(nn.Module):
    """A branch that no adapter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = DynamicPointwise(WIDTH, "dyt", alpha=1.0)
        self.both, self.out = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.both.weight, std=WIDTH**-0.5)
        nn.init.normal_(self.out.weight, std=(2 * WIDTH) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(self.norm(x)).chunk(2, -1)
        return x + self.out(torch.sigmoid(a) * b * 2)


def model() -> nn.Module:
    return nn.Sequential(*(Gated() for _ in range(4)))


def batch() -> Tensor:
    return torch.randn(2, 8, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["constant", "alpha-scale", "schedule", "branch-scale", "gain"])
def test_the_measured_model_hits_the_target(kind):
    found = prescribe_sampled(model, batch(), 0.8, kind, seeds=3)
    assert found.log_apjn_solved == pytest.approx(0.8, abs=0.01)
    assert found.log_apjn == pytest.approx(0.8, abs=3 * found.log_apjn_se + 0.05)
    assert abs(found.log_apjn_before - 0.8) > 0.2

    def prescribed(seed: int) -> nn.Module:
        built = model()
        apply_prescription(found, built, batch())
        return built

    measured = measure_ensemble(prescribed, batch(), range(6))
    error = float(measured.log_apjn_se[0]) + found.log_apjn_se
    assert float(measured.log_apjn[0]) == pytest.approx(0.8, abs=3 * error + 0.05)


@pytest.mark.parametrize(
    ("kind", "target", "keep", "only", "set_to"),
    [
        ("constant", 1.1, ["1.*", "re:2.*"], ["*"], {"0.norm.alpha", "3.norm.alpha"}),
        ("branch-scale", 1.3, [], ["3.out*", "0.out*"], {"0.out.weight", "3.out.weight"}),
        ("gain", 0.8, ["*.both.*"], ["re:[013].*"], {"0.out.weight", "1.out.weight", "3.out.weight"}),
    ],
)
def test_a_part_meets_the_target(kind, target, keep, only, set_to):
    """With the rest as it is: predicted again from what was written."""
    torch.manual_seed(0)
    built = model()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    found = prescribe_sampled(built, batch(), target, kind, seeds=1, keep=keep, only=only)
    assert found.log_apjn_solved == pytest.approx(target, abs=0.01)
    applied = apply_prescription(found, built, batch())
    assert {name for name, value in built.state_dict().items() if not torch.equal(value, before[name])} == set_to
    again = float(predict_sampled(built, batch(), range(1)).log_apjn[0])
    assert again == pytest.approx(found.log_apjn_solved, abs=0.02)
    applied.undo()
    with pytest.raises(CriticalityError, match="keep='nosuch' must match a"):
        prescribe_sampled(built, batch(), target, kind, seeds=1, keep=["nosuch"])


def test_a_model_that_is_there_is_put_back():
    built = model()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    for kind in ("schedule", "branch-scale", "gain"):
        found = prescribe_sampled(built, batch(), 0.8, kind, seeds=2)
        assert found.log_apjn_solved == pytest.approx(0.8, abs=0.01)
        assert found.log_apjn == pytest.approx(0.8, abs=4 * found.log_apjn_se + 0.1)
        assert all(torch.equal(before[name], value) for name, value in built.state_dict().items())


def test_a_mamba_with_a_pointwise_norm():
    def mamba() -> nn.Module:
        config = transformers.MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=64, state_size=4)
        built = transformers.MambaModel(config)
        replace_norms(built, "dyt")
        return built

    def prescribed(seed: int) -> nn.Module:
        built = mamba()
        apply_prescription(found, built, ids)
        return built

    ids = {"input_ids": torch.randint(0, 64, (2, 4), generator=torch.Generator().manual_seed(0))}
    found = prescribe_sampled(mamba, ids, 1.0, "schedule", seeds=3)
    measured = measure_ensemble(prescribed, ids, range(6))
    error = float(measured.log_apjn_se[0]) + found.log_apjn_se
    assert error < 0.3
    assert float(measured.log_apjn[0]) == pytest.approx(1.0, abs=3 * error)


def test_what_is_refused():
    with pytest.raises(CriticalityError, match="kind='all' must be one of"):
        prescribe_sampled(model, batch(), 1.0, "all")
    with pytest.raises(CriticalityError, match="pointwise norms"):
        prescribe_sampled(lambda: _without_norms(), batch(), 1.0)


def _without_norms() -> nn.Module:
    built = model()
    for block in built:
        block.norm = nn.Identity()
    return built


def test_least_amplification_at_a_share_holds_in_fresh_models():
    found = least_amplification_sampled(model, batch(), 0.5, seeds=2)
    assert found.branch_share == pytest.approx(0.5, abs=0.08)
    assert found.log_apjn <= max(log_apjn for _, log_apjn in found.tried) + 3 * found.log_apjn_se
    built = model()
    apply_prescription(found, built, batch())
    start, *_, end = measure_ensemble(lambda seed: built, batch(), [0]).q.values
    assert 1 - start / end == pytest.approx(found.branch_share, abs=0.1)


def test_a_projection_on_the_skip_is_no_branch():
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.skip, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
            self.up, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.skip(x) + self.out(torch.relu(self.up(self.norm(x))))

    built = nn.Sequential(Gated(), Projected())
    weights = {name: value.clone() for name, value in built.state_dict().items()}
    found = prescribe_sampled(built, batch(), 0.5, "branch-scale", seeds=2)
    apply_prescription(found, built, batch())
    changed = {name for name, value in built.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {"0.out.weight", "1.out.weight"}
