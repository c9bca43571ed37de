"""Functions of one's own that are not smooth: where, and their moments against closed forms."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import special
from torch import nn

from criticality import Pointwise, classify, get_function, make_norm, pointwise_function
from criticality.cli.main import main
from criticality.errors import UndescribedError
from criticality.models.functions import torch_function
from criticality.models.normalizers import DynamicPointwise
from criticality.pointwise import FUNCTIONS, ZOO
from criticality.pointwise.kinks import find_kinks
from criticality.pointwise.quadrature import Singular, gaussian_pair_average
from criticality.theory import Linear, Network, Sublayer, TokenKernel
from criticality.theory.norms import PointwiseNorm

SMOOTH = {
    "tanh(20x)": lambda x: np.tanh(20 * x),
    "gauss": lambda x: np.exp(-x * x),
    "softplus": lambda x: np.logaddexp(0, x),
    "constant": lambda x: 0 * x + 1,
    "small": lambda x: 1e-20 * np.sin(x),
    "gelu": lambda x: x * (1 + special.erf(x / math.sqrt(2))) / 2,
}
KINKED = {
    "leaky": (lambda x: np.where(x > 0, x, 0.1 * x), (0.0,)),
    "hard swish": (lambda x: x * np.clip(x + 3, 0, 6) / 6, (-3.0, 3.0)),
    "clip": (lambda x: np.clip(x, -0.7, 1.3), (-0.7, 1.3)),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), (0.0,)),
    "three quarters": (lambda x: np.sign(x) * ((1 + np.abs(x)) ** 0.75 - 1), (0.0,)),
    "power": (lambda x: np.abs(x) ** 1.3, (0.0,)),
    "small": (lambda x: 1e-20 * np.abs(x - 0.5), (0.5,)),
    "softshrink": (lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), (-0.5, 0.5)),
    "far": (lambda x: np.abs(x - 17), (17.0,)),
    "bend": (lambda x: np.abs(x - math.sqrt(2)), (math.sqrt(2),)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_have_none(name):
    assert find_kinks(SMOOTH[name]) == ()


@pytest.mark.parametrize("name", KINKED)
def test_kinks_are_found_where_they_are(name):
    value, kinks = KINKED[name]
    found = find_kinks(value)
    assert len(found) == len(kinks)
    np.testing.assert_allclose(found, kinks, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "exproot"])
def test_the_zoo_without_its_declarations(name):
    """The same moments when the function's values are all that is known."""
    known, found = Pointwise(ZOO[name], alpha=0.7), Pointwise(pointwise_function(ZOO[name].value), alpha=0.7)
    q = np.array([0.1, 1.0, 30.0])
    np.testing.assert_allclose(found.V(q), known.V(q), rtol=1e-10)
    np.testing.assert_allclose(found.D(q), known.D(q), rtol=1e-8)


@pytest.mark.parametrize("power", [0.7, 0.8, 1.3, 1.5, 2.5])
def test_broken_powers(power):
    """E |x|^2p and p^2 E |x|^(2p - 2) are gamma functions."""
    moments = Pointwise(pointwise_function(lambda x: np.sign(x) * np.abs(x) ** power))
    assert isinstance(moments.phi.kinks[0], Singular)

    def absolute(order):
        return 2 ** (order / 2) * math.gamma((order + 1) / 2) / math.sqrt(math.pi)

    assert float(moments.V(1.0)) == pytest.approx(absolute(2 * power), rel=1e-10)
    assert float(moments.D(1.0)) == pytest.approx(power**2 * absolute(2 * power - 2), rel=1e-8)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda x: np.where(x > 0.3, 1.0, -1.0), "jumps by 2 at x = 0.3"),
        (lambda x: np.sin(1e9 * x), "rough"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x: x[0], "shape"),
        (lambda x: np.tanh(x, dtype=np.float32), "must be float64"),
        (lambda x: np.sin(3000 * x), "rough"),
        (3, "must be a function"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(value, said):
    with pytest.raises(ValueError, match=said):
        pointwise_function(value)


def test_a_function_may_write_into_its_argument():
    own = Pointwise(pointwise_function(lambda x: np.tanh(x, out=x), name="inplace"))
    known = Pointwise("tanh")
    assert float(own.C(1.0, 2.0, 0.3)) == pytest.approx(float(known.C(1.0, 2.0, 0.3)), rel=1e-9)


def test_kinks_declared_elsewhere_do_not_hide_those_that_are_found():
    own = Pointwise(pointwise_function(lambda x: np.clip(x, -0.5, 0.5), kinks=(2.0,)))
    assert set(own.phi.kinks) > {2.0}
    clipped = Pointwise(pointwise_function(lambda x: np.clip(x, -0.5, 0.5), kinks=(-0.5, 0.5)))
    assert float(own.V(1.0)) == pytest.approx(float(clipped.V(1.0)), rel=1e-10)


def test_no_finite_second_moment_of_the_slope():
    root = Pointwise(pointwise_function(lambda x: np.sign(x) * np.sqrt(np.abs(x)), name="root"))
    assert float(root.V(1.0)) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-10)
    with pytest.raises(ValueError, match=r"'root' must have a slope whose square has a finite mean"):
        root.D(1.0)


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import numpy as np\n"
        "def p(x): return np.sign(x) * ((1 + np.abs(x)) ** 0.75 - 1)\n"
        "def boom(x): raise OverflowError('mine')\n"
        "number = 3\n"
    )
    return path


def test_a_file_of_ones_own_works_everywhere(own, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, list(map(str, arguments)))

    found = run("moments", "--function", f"{own}:p", "--json")
    assert found.exit_code == 0, found.output
    declared = run("moments", "--function", f"{own}:p@kinks=0", "--json")
    assert found.stdout == declared.stdout
    assert run("predict", "resnet", "--norm", f"{own}:p", "--depth", "4").exit_code == 0
    for text, said in (
        (f"{own}:p@kinks=a", "with numbers"),
        (f"{own}:boom", "mine"),
        (f"{own}:number", "int"),
        (f"{own}:q", "define 'q'"),
    ):
        refused = run("moments", "--function", text)
        assert refused.exit_code == 2
        assert said in refused.stderr
    assert "did you mean 'softsign'" in run("moments", "--function", "sofsign").stderr


def test_a_module_of_ones_own_function(own):
    layer = DynamicPointwise(4, f"{own}:p@kinks=0", alpha=0.75).double()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    exact = torch.sign(x) * ((1 + 0.75 * x.abs()) ** 0.75 - 1)
    torch.testing.assert_close(layer(x), exact, rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(layer(x).sum(), x)
    (right,) = torch.autograd.grad(exact.sum(), x)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, *ZOO}))
def test_every_name_is_a_torch_function_with_its_gradient(name):
    phi, call = get_function(name), torch_function(name)
    x = torch.linspace(-5, 5, 401, dtype=torch.float64)[1::2].requires_grad_()
    y = call(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    at = x.detach().numpy()
    np.testing.assert_allclose(y.detach().numpy(), phi.value(at), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(slope.numpy(), phi.derivative(at), rtol=1e-9, atol=1e-12)
    zero = torch.zeros(1, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(call(zero).sum(), zero)[0]).all()


@pytest.mark.parametrize("name", ["softsign", "power0.6", "linear_clip"])
def test_zoo_in_a_model(name):
    from criticality.models.conversion import replace_norms

    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6))
    replace_norms(model, norm=name, alpha=0.5)
    assert model[1].function == name
    assert torch.isfinite(model(torch.randn(2, 6))).all()
    assert make_norm(name, 0.5).pointwise.phi.name == name


def _zigzag(x):
    x = np.clip(x, -1.5, 1.5)
    return x + 0.5 * np.abs(x - np.round(x)) + 0.2


LINEAR = {name: KINKED[name][0] for name in ("leaky", "clip", "softshrink", "bend")} | {"zigzag": _zigzag}


@pytest.mark.parametrize("name", LINEAR)
def test_functions_that_are_linear_between_kinks_have_a_formula(name):
    """Owen's functions against nested panels, the derivative given apart."""
    phi = pointwise_function(LINEAR[name])
    right = lambda x: phi.value(x + 1e-3) - phi.value(x)  # noqa: E731
    for a, b, rho in [(1.0, 0.3, 0.99), (3.0, 2.0, -0.7), (0.05, 0.05, 0.4), (2.0, 2.0, 1.0), (1.0, 4.0, -1.0)]:
        arguments = np.array([a * a]), np.array([b * b]), np.array([rho])
        value, size = phi.formula.average(*arguments, False, 1e-12)
        exact = gaussian_pair_average(phi.value, a, b, rho, 0.0, phi.kinks)
        assert abs(value[0] - exact) <= 1e-14 * size[0] + 1e-12 * abs(exact)
    q = np.array([0.3, 2.0])
    slope, _ = phi.formula.average(q, q, np.ones(2), True, 1e-12)
    np.testing.assert_allclose(slope, Pointwise(phi).D(q), rtol=1e-12)
    mixed, _ = phi.formula.average(q, 1.5 * q, np.array([0.6, -0.6]), True, 1e-12)
    stepped = [
        gaussian_pair_average(
            right, *np.sqrt([one, 1.5 * one]).tolist(), rho, 0.0, (*phi.kinks, *(k - 1e-3 for k in phi.kinks))
        )
        for one, rho in zip(q, (0.6, -0.6), strict=True)
    ]
    np.testing.assert_allclose(mixed, np.array(stepped) * 1e6, rtol=3e-3)
    assert pointwise_function(lambda x: LINEAR[name](x) + 1e-9 * np.sin(x)).formula is None


def test_what_would_take_minutes_is_refused_in_a_sentence():
    bent = pointwise_function(lambda x: np.sin(np.clip(x, -1, 1)), name="bent")
    tokens, nearly = 60, np.full((60, 60), 0.9999)
    kernel = TokenKernel.of(nearly + np.diag(np.linspace(0.0002, 0.002, tokens)))
    with pytest.raises(UndescribedError, match="'bent' has 2 kinks, too many for averages over the 1"):
        PointwiseNorm(Pointwise(bent)).factor(kernel)
    with pytest.raises(UndescribedError, match=r"'bent' must have one kink at most.*and has 2; the sampled way"):
        classify(Network((Sublayer(Linear(), PointwiseNorm(Pointwise(bent))),), 1), tokens=4)


def test_one_curved_kink_of_ones_own_is_classified_the_exact_way():
    own = pointwise_function(lambda x: x / (1 + np.abs(x)), name="own")
    found = classify(Network((Sublayer(Linear(), PointwiseNorm(Pointwise(own))),), 1), tokens=4)
    assert (found.kind, found.agrees) == ("stretched", True)
