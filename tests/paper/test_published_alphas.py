"""The alphas that were published for Llama, and what the article says of alpha against width."""

import math
from functools import partial

import pytest
from scipy.optimize import brentq

import llama
from criticality.models import model_spec
from criticality.phases import (
    BlockStep,
    amplification,
)
from criticality.pointwise import Pointwise
from criticality.theory import (
    MLP,
    Alpha,
    Attention,
    GatedMLP,
    Linear,
    edited,
    make_norm,
    propagate,
    transformer,
)
from criticality.weightless import predict_sampled
from stored import curves_of


def pairs():
    """Settings and values of what is stored."""
    return [(curve["settings"], curve["values"]) for curve in curves_of("llama")]


def test_equal_amplification_wants_alpha_inverse_to_width():
    """Weights and embeddings of deviation 0.02, ReLU MLP of four times the width: ``log J = 4`` at depth 32."""

    def excess(log_alpha, width):
        variance = 4e-4 * width
        attention = Attention(*[Linear(variance)] * 4, scores="uniform")
        mlp = MLP(Pointwise("relu"), Linear(variance), Linear(4 * variance))
        block = transformer(make_norm("dyt", math.exp(log_alpha)), attention, mlp, 1)
        return float(amplification(BlockStep(block, 512, 0.0), [32], q0=4e-4)[0]) - 4

    products = [
        w * math.exp(brentq(partial(excess, width=w), math.log(1e-3), math.log(10), xtol=1e-6)) for w in (1024, 4096)
    ]
    assert products[0] == pytest.approx(products[1], rel=0.03)


def test_alphas_of_llama():
    """The text's numbers from what is stored; and that a gated MLP makes them fall faster than 1/width, by equivalent tokens."""
    curves = pairs()
    models = {s["model"]: (s["alpha"], v["matched"], v["log_apjn"]) for s, v in curves if s["model"]}
    assert [round(matched, 3) for _, matched, _ in models.values()] == [0.200, 0.126, 0.058, 0.042]
    assert [round(log_j, 1) for *_, log_j in models.values()] == [7.2, 8.7, 6.1, 8.7]
    assert all(abs(published / matched - 1) < 0.2 for published, matched, _ in models.values())
    assert models["70B"][1] / models["34B"][1] == pytest.approx(0.72, abs=0.005)
    grid = {(s["width"], s["depth"]): v["matched"] for s, v in curves if not s["model"]}
    by_width = [grid[w, d] / grid[2 * w, d] for w, d in grid if (2 * w, d) in grid]
    by_depth = [grid[w, d] / grid[w, 2 * d] for w, d in grid if (w, 2 * d) in grid]
    assert [min(by_width), max(by_width)] == pytest.approx([2.36, 2.88], abs=0.01)
    assert [min(by_depth), max(by_depth)] == pytest.approx([1.50, 1.82], abs=0.01)

    def excess(log_alpha, width):
        side, alpha = Linear(4e-4 * width), math.exp(log_alpha)
        wide = GatedMLP(Pointwise("silu"), side, side, side.scaled(math.sqrt(11008 / 4096)))
        blocks = transformer(make_norm("dyt", 4 * alpha), Attention(side, side, side, side, scores="uniform"), wide, 1)
        changed = edited(blocks, [Alpha(alpha, "mlp")])
        return float(amplification(BlockStep(changed, 64, 0.2), [32], q0=4e-4 * width)[0]) - 7.25

    alone = [math.exp(brentq(excess, math.log(0.01), math.log(20), (width,), xtol=1e-6)) for width in (2048, 8192)]
    assert alone[0] / alone[1] > 8  # of two matrices it would be 4: the test of equal amplification above


def llama_of(width, depth, alpha, tokens):
    by_site = {"attention": llama.RATIO * alpha, "*": alpha}
    return model_spec(
        "hf:llama", norm="dyt", alpha=by_site, width=width, depth=depth, tokens=tokens, embedding_scale=math.sqrt(width)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("width", "measured", "error"), [(1024, 7.35, 0.11), (2048, 7.25, 0.10)])
def test_llamas_at_their_own_width(width, measured, error):
    matched = next(v["matched"] for s, v in pairs() if (s["width"], s["depth"]) == (width, 16))
    spec = llama_of(width, 16, matched, 64)
    found = predict_sampled(spec.create, spec.inputs(), range(4))
    assert [float(found.log_apjn[0]), float(found.log_apjn_se[0])] == pytest.approx([measured, error], abs=0.01)
    assert abs(measured - llama.LEVEL) < 2 * error


@pytest.mark.parametrize(("model", "expected"), [("7B", 7.8), ("34B", 6.5)])
def test_alphas_of_llama_with_fewer_tokens(model, expected):
    spec = llama_of(*llama.PUBLISHED[model], 16)
    log_j = float(propagate(*spec.read(), samples=4).log_apjn[0])
    assert log_j == pytest.approx(expected, abs=0.06)
