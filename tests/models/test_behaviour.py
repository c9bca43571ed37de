"""Norms are known by what they do: modules of many authors, under names that say nothing."""

import pytest
import torch
from torch import nn

from criticality.models import DynamicPointwise, replace_norms
from criticality.models.behaviour import Behaviour, behaviour
from criticality.models.probing import Probe
from criticality.models.sites import SITE_KINDS
from criticality.stream import stream
from criticality.weightless.building import build_without_weights

WIDTH = 12


def made(forward, **parameters):
    """A module of an unheard-of class."""

    class Thing(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in parameters.items():
                setattr(self, name, nn.Parameter(value.clone()) if isinstance(value, torch.Tensor) else value)

        def forward(self, x):
            return forward(self, x)

    return Thing()


def unit(x, eps=1e-6, axis=-1):
    return x * torch.rsqrt(x.square().mean(axis, keepdim=True) + eps)


ONES, ZEROS, ONE = torch.ones(WIDTH), torch.zeros(WIDTH), torch.ones(1)
NORMS = {
    "written out, centred": (
        made(lambda s, x: unit(x - x.mean(-1, keepdim=True), 1e-3) * s.k + s.c, k=ONES, c=ZEROS),
        {"kind": "layer norm", "epsilon": 1e-3, "bias": "c", "gain.parameter": "k"},
    ),
    "difference from 1": (
        made(lambda s, x: unit(x) * (1 + s.w), w=ZEROS),
        {"kind": "rms norm", "gain.parameter": "w", "gain.offset": 1.0, "epsilon": 1e-6},
    ),
    "half of it": (made(lambda s, x: 0.5 * unit(x) * s.w, w=ONES), {"gain.factor": pytest.approx(0.5, rel=1e-3)}),
    "channels first": (
        made(lambda s, x: unit(x, axis=1) * s.w[:, None, None], w=ONES),
        {"axis": 1, "width": WIDTH, "kind": "rms norm"},
    ),
    "weight of shape (width, 1, 1)": (
        made(lambda s, x: unit(x, axis=1) * s.w, w=ONES[:, None, None]),
        {"axis": 1, "gain.parameter": "w"},
    ),
    "one number": (made(lambda s, x: nn.functional.normalize(x, dim=-1) * s.g, g=ONE), {"width": None}),
    "no parameters": (made(lambda s, x: unit(x, 1e-5)), {"width": None, "epsilon": 1e-5}),
    "tanh": (
        made(lambda s, x: torch.tanh(s.a * x) * s.g + s.b, a=ONE, g=ONES, b=ZEROS),
        {"kind": "pointwise", "function": "tanh", "alpha": "a", "gain.parameter": "g", "bias": "b"},
    ),
    "erf with a shift": (
        made(lambda s, x: s.g * torch.erf(s.a * x + s.s), a=ONE, s=torch.zeros(1), g=ONES),
        {"function": "erf", "alpha": "a", "shift": "s"},
    ),
    "arctan with an alpha of each channel": (
        made(lambda s, x: torch.atan(s.a * x) * s.g, a=ONES, g=ONES),
        {"function": "arctan", "alpha": "a"},
    ),
    "isru with a fixed alpha": (
        made(lambda s, x: s.g * x / torch.sqrt(4 + x * x), g=ONES),
        {"function": "isru", "alpha": pytest.approx(0.5, rel=1e-3)},
    ),
    "not built in": (made(lambda s, x: s.g * x / (1 + x.abs()), g=ONES), {"kind": "pointwise", "function": None}),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_norms_are_read_by_what_they_do(name, device):
    module, expected = NORMS[name]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    seen = behaviour(module.to(device) if device == "cpu" else _on_meta(module))
    assert isinstance(seen, Behaviour)
    for part, value in expected.items():
        owner = seen.gain if part.startswith("gain.") else seen
        assert getattr(owner, part.removeprefix("gain.")) == value, part
    assert all(torch.equal(module.state_dict()[key], value) for key, value in state.items())


def _on_meta(module):
    import copy

    return copy.deepcopy(module).to("meta")


OTHERS = {
    "activation": nn.GELU(),
    "activation with a slope": nn.PReLU(WIDTH),
    "swish with a beta": made(lambda s, x: x * torch.sigmoid(s.beta * x), beta=ONE),
    "layer scale": made(lambda s, x: s.gamma * x, gamma=ONES),
    "softmax": nn.Softmax(-1),
    "dropout": nn.Dropout(0.5),
    "random": made(lambda s, x: torch.randn_like(x)),
    "norm of a product": made(lambda s, x: unit(x * x.sigmoid()), w=ONES),
    "raises": made(lambda s, x: 1 / 0, w=ONES),
    "norm and activation": nn.Sequential(nn.LayerNorm(WIDTH), nn.GELU()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_modules_are_no_norms(name):
    before = torch.random.get_rng_state()
    assert not isinstance(behaviour(OTHERS[name]), Behaviour)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("module", [nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.LayerNorm((3, 4))])
def test_norms_that_average_otherwise_are_known_as_such(module):
    state = {key: value.clone() for key, value in module.state_dict().items()}
    assert behaviour(module).kind in ("batch", "several axes")
    assert all(torch.equal(module.state_dict()[key], value) for key, value in state.items())


def test_hooks_of_the_module_do_not_see_the_probing():
    module, calls = nn.LayerNorm(4), []
    module.register_forward_hook(lambda *_: calls.append(1))
    assert isinstance(behaviour(module), Behaviour)
    assert not calls
    with pytest.raises(ValueError, match="large parameter"):
        Probe(nn.Linear(1024, 1024))


class Attention(nn.Module):
    """Norms of heads as wide as a head, with names that say nothing, and one on the whole of the values' width."""

    def __init__(self, width, heads):
        super().__init__()
        self.size = width // heads
        self.a, self.b = nn.RMSNorm(self.size), nn.RMSNorm(self.size)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.late = nn.LayerNorm(width)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (-1, self.size)).transpose(1, 2) for t in self.into(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(self.a(q), self.b(k), v)
        return self.out(self.late(y.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.first, self.mix = nn.LayerNorm(width), Attention(width, 4)
        self.second, self.up, self.down = NORMS_OF_BLOCK(width), nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x):
        x = x + self.mix(self.first(x))
        return x + self.down(torch.relu(self.up(self.second(x))))


def NORMS_OF_BLOCK(width):
    return made(lambda s, x: unit(x) * (1 + s.w), w=torch.linspace(-0.5, 0.5, width))


class Net(nn.Module):
    def __init__(self, depth=2, width=16):
        super().__init__()
        self.stack = nn.ModuleList(Block(width) for _ in range(depth))
        self.end, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        for block in self.stack:
            x = block(x)
        return self.head(self.end(x))


X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inputs", [None, X])
def test_norms_of_heads_are_kept_unless_asked_for(inputs):
    model = Net()
    conversion = replace_norms(model, "dyt", 0.5, inputs=inputs)
    heads = {f"stack.{n}.mix.{part}" for n in (0, 1) for part in "ab"}
    assert {kept.name for kept in conversion.kept} == heads
    assert "4 kept" in conversion.report()
    assert torch.isfinite(model(X)).all()
    for settings in ({"keep": []}, {"only": ["re:.*mix\\.[ab]"]}):
        replaced = {one.name for one in replace_norms(Net(), "dyt", 0.5, inputs=inputs, **settings).replacements}
        assert heads <= replaced


def test_kinds_of_site_are_read_from_the_data_flow():
    def names(**settings):
        return {one.name for one in replace_norms(Net(), "dyt", 0.5, inputs=X, **settings).replacements}

    assert names(only=["pre-norm"]) == {f"stack.{n}.{part}" for n in (0, 1) for part in ("first", "second")}
    assert names(only=["final-norm"]) == {"end"}
    assert names(only=["inner-norm"]) == {"stack.0.mix.late", "stack.1.mix.late"}
    assert names(only=["qk-norm"], keep=["stack.0.*"]) == {"stack.1.mix.a", "stack.1.mix.b"}
    with pytest.raises(ValueError, match="give inputs="):
        replace_norms(Net(), "dyt", 0.5, only=["final-norm"])
    assert "outside" in SITE_KINDS


def test_values_that_act_are_kept_and_undone():
    model = Net()
    w = model.stack[0].second.w.detach().clone()
    conversion = replace_norms(model, "derf", {"end": 2.0, "*": 0.3})
    torch.testing.assert_close(model.stack[0].second.weight.detach(), 1 + w)
    assert "offset=1" in next(str(one) for one in conversion.replacements if one.name == "stack.0.second")
    assert (model.end.initial_alpha, model.stack[1].first.initial_alpha) == (2.0, 0.3)
    conversion.undo()
    assert torch.equal(model.stack[0].second.w, w)
    assert len(stream(model, X).chains[0].diamonds) == 4


def test_refusals_change_nothing():
    for settings, message in [
        ({"keep": ["nothing"]}, "keep='nothing' must match"),
        ({"only": ["re:("]}, "regular expression"),
        ({"keep": "first"}, "must be a list"),
        ({"alpha": {"first": 1.0}}, "alpha must have a pattern for norm"),
        ({"alpha": {"first": -1.0, "*": 1.0}}, "alpha=-1.0"),
        ({"only": ["first"], "keep": ["first"]}, "as keep has 'first'"),
    ]:
        model = Net()
        before = str(model)
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            replace_norms(model, "dyt", **{"alpha": 0.5, **settings})
        assert str(model) == before
    mixed = nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4))
    with pytest.raises(ValueError, match="norm '1' must be a LayerNorm or RMSNorm, but is a GroupNorm"):
        replace_norms(mixed, "dyt", strict=True)
    assert [kept.name for kept in replace_norms(mixed, "dyt").kept] == ["1"]


def test_without_weights_and_on_meta():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.lin = nn.LayerNorm(20_000), nn.Linear(20_000, 20_000)

    def converted():
        model = Wide()
        replace_norms(model, "dyt", 0.5)
        return model

    model = build_without_weights(converted)
    assert isinstance(model.norm, DynamicPointwise)
    assert model.norm.alpha.item() == 0.5
    with torch.device("meta"):
        model = Net()
        replace_norms(model, "derf", 0.5)
    assert model.end.alpha.is_meta


def test_a_converted_encoder_layer_of_torch_runs_in_both_modes():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    replace_norms(encoder, "dyt", 0.5)
    x = torch.randn(2, 5, 16)
    trained = encoder.train()(x)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.eval()(x), trained)
