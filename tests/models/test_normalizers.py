"""Dynamic Tanh and Dynamic erf as modules: equal to their formulas, one saved tensor, and at home in torch."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from criticality.models import DynamicPointwise, dynamic
from criticality.pointwise import FUNCTIONS
from data import make_rational

NAMES = ["dyt", "derf"]
SHAPES = [(5, 7, 96), (64, 300), (3, 1), (33,), (0, 8), (2, 3, 4, 1031)]


def formula(module, x):
    u = module.alpha * x
    if module.shift is not None:
        u = u + module.shift
    return {"tanh": torch.tanh, "erf": torch.erf}[module.function](u) * module.weight + module.bias


def drawn(width, name, dtype=torch.float32):
    module = DynamicPointwise(width, name, alpha=0.8, dtype=dtype)
    for parameter in (module.weight, module.bias, *([] if module.shift is None else [module.shift])):
        nn.init.normal_(parameter)
    return module


def gradients(call, module, x, g):
    leaf = x.clone().requires_grad_()
    parameters = [p for p in (module.alpha, module.shift, module.weight, module.bias) if p is not None]
    value = call(leaf)
    return value, torch.autograd.grad(value, [leaf, *parameters], g.to(value.dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_formula(name, shape):
    module = drawn(shape[-1], name)
    x, g = 3 * torch.randn(shape), torch.randn(shape)
    value, found = gradients(module, module, x, g)
    double = drawn(shape[-1], name, torch.float64)
    double.load_state_dict(module.state_dict())
    exact, expected = gradients(lambda t: formula(double, t), double, x.double(), g.double())
    torch.testing.assert_close(value, exact.float(), rtol=2e-6, atol=2e-6)
    size = max(1.0, x.numel() / max(1, shape[-1])) ** 0.5
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(
            a, b.float(), rtol=1e-5, atol=1e-5 * size * (x.numel() ** 0.5 if a.numel() == 1 else 1)
        )


@pytest.mark.parametrize("name", NAMES)
def test_small_and_extreme_arguments_keep_their_digits(name):
    x = torch.cat([torch.logspace(-30, 1.2, 500), -torch.logspace(-30, 1.2, 500), torch.tensor([0.0, 1e30, -1e30])])[
        None
    ]
    module = DynamicPointwise(x.shape[1], name, alpha=1.0)
    np.testing.assert_allclose(module(x).detach(), FUNCTIONS[module.function].value(x.double().numpy()), rtol=1e-6)
    special = torch.tensor([[float("inf"), -float("inf"), float("nan")]])
    out = DynamicPointwise(3, name, alpha=1.0)(special).detach()[0]
    assert out[0] == 1
    assert out[1] == -1
    assert torch.isnan(out[2])


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    module = drawn(4, name, torch.float64)
    inputs = [torch.randn(3, 4, dtype=torch.float64), module.alpha, *([] if module.shift is None else [module.shift])]
    inputs = [t.detach().requires_grad_() for t in (*inputs, module.weight, module.bias)]

    def call(x, alpha, *rest):
        shift, weight, bias = rest if len(rest) == 3 else (None, *rest)
        return dynamic.dynamic(module.function, x, alpha, shift, weight, bias)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def saved_bytes(call, x):
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call(x)
    return sum(storages.values())


@pytest.mark.parametrize("name", NAMES)
def test_one_activation_is_saved_as_by_layer_norm(name):
    x = torch.randn(8, 197, 768, requires_grad=True)
    activation = 4 * x.numel()
    ours = saved_bytes(DynamicPointwise(768, name), x)
    assert activation <= ours <= saved_bytes(nn.LayerNorm(768), x)
    assert saved_bytes(lambda t: formula(DynamicPointwise(768, name), t), x) >= 1.9 * activation


@pytest.mark.parametrize("name", NAMES)
def test_function_transforms(name):
    module = drawn(4, name)
    x = torch.randn(5, 4)
    parameters = dict(module.named_parameters())

    def loss(p, row):
        return torch.func.functional_call(module, p, (row,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index in range(5):
        module.zero_grad()
        module(x[index]).square().sum().backward()
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(each[key][index], parameter.grad, rtol=1e-4, atol=1e-5)
    tangent = torch.randn(5, 4)
    _, forward = torch.func.jvp(module, (x,), (tangent,))
    jacobian = torch.func.vmap(torch.func.jacrev(module))(x)
    torch.testing.assert_close(forward, torch.einsum("bij,bj->bi", jacobian, tangent), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_and_half_precision(name):
    model = nn.Sequential(nn.Linear(6, 6), drawn(6, name), nn.Linear(6, 6))
    x = torch.randn(4, 6)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x)
    mixed.float().square().sum().backward()
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.1)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    half = drawn(6, name).bfloat16()
    half(x.bfloat16()).sum().backward()
    assert half.alpha.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_memory_layouts_and_strided_inputs(name):
    module = drawn(6, name)
    x = torch.randn(2, 6, 5, 4)
    last = x.permute(0, 2, 3, 1)
    torch.testing.assert_close(module(last), formula(module, last))
    sliced = torch.randn(4, 12)[:, ::2]
    torch.testing.assert_close(module(sliced), formula(module, sliced))
    first = DynamicPointwise(6, name, alpha=0.8, channels_first=True)
    first.load_state_dict(module.state_dict())
    expected = formula(module, last).permute(0, 3, 1, 2)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(first(x.contiguous(memory_format=layout)), expected)


@pytest.mark.parametrize(("name", "phi"), [("tanh", np.tanh), ("erf", erf)])
def test_quotients_of_polynomials_are_the_functions_in_float32(name, phi):
    u = torch.cat([torch.linspace(-12, 12, 400_001), torch.logspace(-30, 1, 1000), torch.tensor([1e30])])
    found, wanted = dynamic.RATIONAL[name](u).double().numpy(), phi(u.double().numpy())
    assert np.all(abs(found - wanted) <= 5e-7 * abs(wanted))
    assert np.all(abs(found) <= 1)
    assert torch.isnan(dynamic.RATIONAL[name](torch.tensor([torch.nan]))).all()


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_the_quotients_are_those_of_their_script(name):
    function, bound, *degrees = make_rational.FITS[name]
    numerator, denominator, error = make_rational.fit(function, bound, *degrees)
    stored = dynamic.RATIONAL[name]
    assert error < 1e-8
    assert stored.bound == bound
    np.testing.assert_allclose(stored.numerator, numerator, rtol=1e-5)
    np.testing.assert_allclose(stored.denominator, denominator, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_modules_agree(name):
    module = drawn(32, name)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")  # traced as for inductor, no C++ to wait for
    x, g = torch.randn(6, 32), torch.randn(6, 32)
    value, found = gradients(module, module, x, g)
    again, same = gradients(compiled, module, x, g)
    torch.testing.assert_close(value, again, rtol=1e-5, atol=1e-5)
    for a, b in zip(found, same, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_wanted_gradients_are_given():
    module = drawn(4, "derf")
    module.alpha.requires_grad_(False)
    x = torch.randn(3, 4)
    module(x).sum().backward()
    assert module.alpha.grad is None
    assert module.weight.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_transposed_stream_gives_the_same(name):
    """Patches of a convolution come transposed."""
    module = drawn(16, name)
    x, g = torch.randn(3, 16, 7).transpose(1, 2), torch.randn(3, 7, 16)
    assert not x.is_contiguous()
    expected = gradients(module, module, x.contiguous(), g)
    found = gradients(module, module, x, g)
    torch.testing.assert_close(found[0], expected[0])
    for a, b in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(a, b)


class Named(torch.Tensor):
    """A subclass of tensors that does nothing."""


@pytest.mark.parametrize("name", NAMES)
def test_unusual_tensors_are_those_of_the_formula(name):
    """On meta, of a subclass, with gaps, of another type or size."""
    module = drawn(6, name)
    x = torch.randn(4, 6)
    parts = {part: p.detach() for part, p in module.named_parameters()}
    shift = parts.get("shift")
    odd = {
        "meta": {"x": x.to("meta"), **{part: p.to("meta") for part, p in parts.items()}},
        "meta weight": {"weight": parts["weight"].to("meta")},
        "subclass": {"weight": parts["weight"].as_subclass(Named)},
        "gaps": {"weight": torch.randn(12)[::2], "bias": torch.randn(12)[::2]},
        "double": {"bias": parts["bias"].double()},
        "short bias": {"bias": torch.zeros(1)},
        "alpha of each channel": {"alpha": torch.rand(6)},
    }
    for kind, change in odd.items():
        given = {"x": x, "shift": shift, **parts, **change}
        arguments = [given[part] for part in ("x", "alpha", "shift", "weight", "bias")]
        if kind == "meta weight":
            continue  # torch itself refuses to mix devices
        value = dynamic.dynamic(module.function, *arguments)
        expected = dynamic.plain(module.function, *arguments)
        assert value.shape == x.shape
        assert value.is_meta or torch.equal(value.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor)), kind
        leaves = [t.detach().clone().requires_grad_() for t in arguments if t is not None]

        def call(formula, leaves=leaves):
            rest = leaves if shift is not None else [*leaves[:2], None, *leaves[2:]]
            return torch.autograd.grad(formula(module.function, *rest).square().sum(), leaves)

        for found, wanted in zip(call(dynamic.dynamic), call(dynamic.plain), strict=True):
            assert found.shape == wanted.shape, kind
            assert found.is_meta or torch.allclose(found, wanted, rtol=1e-4, atol=1e-5), kind


@pytest.mark.parametrize("name", NAMES)
def test_what_looks_into_the_operations_sees_them(name):
    """Export, tracing, fake tensors and forward mode."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    module, x = drawn(6, name), torch.randn(4, 6)
    expected = formula(module, x)
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(exported.module()(x), expected, rtol=0, atol=0)
    assert f"aten.{module.function}.default" in {str(node.target) for node in exported.graph.nodes}
    torch.testing.assert_close(make_fx(module)(x)(x), expected)
    torch.testing.assert_close(torch.jit.trace(module, (x,))(x), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = module(mode.from_tensor(x))
        assert fake.shape == x.shape
    _, tangent = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    (slope,) = torch.autograd.grad(formula(module, leaf := x.clone().requires_grad_()).sum(), leaf)
    torch.testing.assert_close(tangent, slope, rtol=1e-4, atol=1e-5)
