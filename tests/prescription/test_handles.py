"""What can be set on a model is found by what it does: on models with names of their own, norms at the end of branches, weights
behind parametrizations, frozen ones, and families of timm and transformers."""

import numpy as np
import pytest
import torch
from torch import nn

from criticality.errors import CriticalityError
from criticality.measurement import measure
from criticality.models import model_spec
from criticality.prescription import WriteError, apply_prescription, planned_changes, schedule_from_data
from criticality.prescription import scaling as scaling_module
from criticality.prescription.apply import block_norms, final_norms
from criticality.prescription.handles import Handles
from criticality.prescription.solve import Prescription, alpha_edits
from criticality.prescription.tune import tune
from criticality.theory import BranchGain, WeightGain

WIDTH = 16
X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


def prescription(alphas=(), final=None, scale=1.0, gain=1.0):
    numbers = {"log_apjn": 1.0, "log_apjn_before": 1.0, "target": 1.0, "branch_share": 0.5}
    edits = (*alpha_edits(alphas, final), BranchGain(scale), WeightGain(gain))
    return Prescription("constant", 1.0, edits, why="asked for", **numbers)


class Squash(nn.Module):
    """A pointwise norm of somebody's."""

    def __init__(self):
        super().__init__()
        self.steep, self.gamma = nn.Parameter(torch.full((1,), 0.7)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return torch.tanh(self.steep * x) * self.gamma


class Centred(nn.Module):
    """A norm that scales by 1 + w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-0.5, 0.5, WIDTH))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.w)


class Cell(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.ahead, self.wide, self.narrow = Squash(), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.close = {"1 + w after": Centred, "norm after": lambda: nn.LayerNorm(WIDTH)}.get(kind, nn.Identity)()
        if kind == "written out":
            self.w = nn.Parameter(torch.linspace(-0.5, 0.5, WIDTH))
        if kind == "spectral":
            nn.utils.parametrizations.spectral_norm(self.narrow)
        if kind == "weight norm":
            nn.utils.parametrizations.weight_norm(self.narrow)
        if kind == "low rank":
            self.down, self.up = nn.Linear(32, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
            for parameter in self.narrow.parameters():
                parameter.requires_grad_(False)

    def branch(self, x):
        hidden = torch.relu(self.wide(self.ahead(x)))
        y = self.narrow(hidden)
        if self.kind == "low rank":
            y = y + self.up(self.down(hidden))
        if self.kind == "written out":
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * (1.0 + self.w)
        return self.close(y)

    def forward(self, x):
        return x + self.branch(x)


class Body(nn.Module):
    def __init__(self, kind="plain", depth=3):
        super().__init__()
        torch.manual_seed(0)
        self.cells, self.last = nn.ModuleList(Cell(kind) for _ in range(depth)), Squash()
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x):
        for cell in self.cells:
            x = cell(x)
        return self.head(self.last(x))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


MOVED = {
    "plain": ("narrow.weight", "narrow.bias"),
    "norm after": ("close.weight", "close.bias"),
    "1 + w after": ("close.w",),
    "written out": ("w",),
    "weight norm": (
        "narrow.bias",
        "narrow.parametrizations.weight.original0",
        "narrow.parametrizations.weight.original1",
    ),
}


@pytest.mark.parametrize("kind", MOVED)
def test_a_branch_is_scaled_by_the_last_thing_that_scales_it(kind):
    model = Body(kind).eval()
    before = state(model)
    with torch.no_grad():
        branches = [cell.branch(X) for cell in model.cells]
    applied = apply_prescription(prescription(scale=0.3), model, X)
    with torch.no_grad():
        for cell, branch in zip(model.cells, branches, strict=True):
            torch.testing.assert_close(cell.branch(X), 0.3 * branch, rtol=1e-4, atol=1e-6)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= {f"cells.{n}.{name}" for n in range(3) for name in MOVED[kind]}
    assert not applied.untouched
    applied.undo()
    assert unchanged(model, before)


@pytest.mark.parametrize(("kind", "message"), [("spectral", "is not twice the branch"), ("low rank", "is frozen")])
def test_what_does_not_scale_a_branch_is_no_handle(kind, message):
    model = Body(kind).eval()
    before = state(model)
    for call in (
        lambda: apply_prescription(prescription(scale=0.3), model, X),
        lambda: tune(model, X, 1.0),
    ):
        with pytest.raises(ValueError, match=message):
            call()
        assert unchanged(model, before)
    named = tune(model, X, 0.5, layers=["wide"], max_passes=1)
    assert named.untouched == ()
    assert unchanged(model, before)


def test_alphas_of_any_author_in_the_order_of_the_flow():
    model = Body()
    names = [f"cells.{n}.ahead" for n in range(3)]
    assert [name for name, _ in block_norms(model, X)] == names
    assert [name for name, _ in final_norms(model, X)] == ["last"]
    applied = apply_prescription(prescription([0.1, 0.2, 0.3], final=0.4), model, X)
    got = [module.steep.item() for module in (*(cell.ahead for cell in model.cells), model.last)]
    np.testing.assert_allclose(got, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    applied.undo()
    applied = apply_prescription(prescription([0.1, 0.2, 0.3]), model, X)
    assert [one.name for one in applied.untouched] == ["last"]
    assert "1 left as they were" in str(applied)
    q = measure(model, X).q.values
    schedule_from_data(model, X, 0.9)
    assert model.cells[0].ahead.steep.item() == pytest.approx(0.9 / np.sqrt(q[0]), rel=1e-5)


def test_inputs_are_asked_for_where_a_model_does_not_say():
    with pytest.raises(ValueError, match="inputs=None must be a batch for a Body"):
        planned_changes(prescription(scale=0.5), Body())


def test_what_is_written_is_read_back(monkeypatch):
    """A parameter that does not keep what is written, as one that is gathered for a moment only."""
    model = Body()
    before = state(model)
    real = scaling_module.parameter_of

    def gathered(of, name):
        tensor = real(of, name)
        return tensor.detach().clone() if name == "cells.1.ahead.steep" else tensor

    monkeypatch.setattr(scaling_module, "parameter_of", gathered)
    with pytest.raises(WriteError, match=r"'cells\.1\.ahead\.steep' must hold the value"):
        apply_prescription(prescription([0.1, 0.2, 0.3]), model, X)
    assert unchanged(model, before)


@pytest.mark.parametrize("kind", ["plain", "1 + w after", "written out", "norm after"])
def test_tuning_moves_what_it_says_or_nothing(kind):
    model = Body(kind)
    before = state(model)
    target = 0.6 if kind == "plain" else 0.3
    found = tune(model, X, target, probes=8, max_passes=10, tolerance=0.3)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert set(found.moved) == moved
    if found.converged:
        assert moved <= {f"cells.{n}.{name}" for n in range(3) for name in MOVED[kind]}
    else:
        assert not moved
        assert "were put back" in found.reason
    kept = tune(Body(kind), X, 30.0, max_passes=2, keep=True)
    assert not kept.converged
    assert kept.moved


def test_a_pass_that_fails_while_tuning_puts_everything_back():
    class Fragile(Body):
        def forward(self, x):
            if float(self.cells[0].narrow.weight.detach().abs().max()) > 0.5:
                raise RuntimeError("too large")
            return super().forward(x)

    model = Fragile()
    before = state(model)
    with pytest.raises(ValueError, match="too large"):
        tune(model, X, 20.0)
    assert unchanged(model, before)


SMALL = {"depth": 2, "width": 64, "heads": 4}
FAMILIES = {
    "hf:gpt2": SMALL,
    "hf:llama": SMALL,
    "hf:gpt_neox": SMALL,
    "hf:bert": SMALL,
    "hf:qwen3": SMALL,
    "timm:deit3_small_patch16_224": {"depth": 2, "width": 64, "image_size": 32},
    "timm:convnext_atto": {},
    "timm:swin_tiny_patch4_window7_224": {},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_branch_of_a_family_has_a_handle(name):
    torch.manual_seed(0)
    model = model_spec(name, **FAMILIES[name]).create().eval()
    before = state(model)
    handles = Handles(model)
    rules = handles.scalings(handles.branches)
    assert handles.branches
    assert all(branch.parameters for branch in handles.branches)
    assert all(rule.offset is not None for rule in rules.values())
    assert unchanged(model, before)


@pytest.mark.slow
def test_sandwich_norms_that_scale_by_one_and_more():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Gemma2Config(vocab_size=99, head_dim=16, num_key_value_heads=2, **sizes)
    model = transformers.AutoModel.from_config(config).eval()
    applied = apply_prescription(prescription(scale=0.5), model)
    assert len(applied.changes) == 4
    for layer in model.layers:
        torch.testing.assert_close(layer.post_attention_layernorm.weight.detach(), torch.full((32,), -0.5))


@pytest.mark.parametrize("call", ["apply", "schedule", "tune"])
def test_strict_refuses_to_leave_something(call):
    """A pointwise norm beside the stream, or a branch that nothing scales; named in keep it may stay."""
    model = Body()
    if call == "tune":
        for cell in model.cells:
            cell.branch = lambda x, cell=cell: torch.sin(x) + cell.narrow(torch.relu(cell.wide(cell.ahead(x))))
        model.cells[0].forward = lambda x, cell=model.cells[0]: (y := x + cell.branch(x)) + 0.1 * torch.sin(y)
    else:
        model.spare = Squash()
    before = state(model)
    with pytest.raises(CriticalityError, match="would be left"):
        _strict(call, model)
    assert unchanged(model, before)
    if call != "tune":
        applied = _strict(call, model, keep=["spare", "cells.1.*"])
        assert {one.name for one in applied.untouched} == {"spare", "cells.1.ahead"}
        assert not any(change.name == "cells.1.ahead" for change in applied.changes)
        applied.undo()
    assert unchanged(model, before)


def _strict(call, model, **scope):
    if call == "apply":
        return apply_prescription(prescription(alphas=(0.3, 0.4, 0.5), final=0.6), model, X, strict=True, **scope)
    if call == "schedule":
        return schedule_from_data(model, X, 0.7, strict=True, **scope)
    return tune(model, X, 1.0, strict=True)
