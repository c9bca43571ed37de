"""Edits of descriptions reach every norm and branch in the order of the flow, do what they say, and survive JSON."""

import json
import math
from dataclasses import replace

import pytest

from criticality.errors import ArgumentError, UndescribedError
from criticality.pointwise import Pointwise
from criticality.theory import (
    MLP,
    Alpha,
    AlphaGain,
    Attention,
    BranchGain,
    LayerNorm,
    Linear,
    Network,
    NoNorm,
    Normed,
    OtherNorm,
    Parallel,
    PointwiseNorm,
    Schedule,
    Sublayer,
    SymmetricKernel,
    WeightGain,
    alphas_of,
    edited,
    make_norm,
    propagate,
    read_edits,
    transformer,
    write_edits,
)
from criticality.theory.edits import edits_of_record, edits_record

GELU = MLP(Pointwise("gelu"), Linear(1.2, 0.1), Linear(0.9, 0.2))
DYT = [make_norm("dyt", 1 + k / 10) for k in range(6)]
TOKENS = SymmetricKernel.of(0.8, 0.2, 20)
NESTED = Network(
    (
        Sublayer(Parallel((Normed(DYT[0], Attention()), Normed(DYT[1], GELU)))),
        Sublayer(GELU, DYT[2], placement="sandwich", output_norm=DYT[3]),
        Sublayer(Normed(DYT[4], GELU), DYT[5], placement="post"),
    )
)
PRE = replace(NESTED, sublayers=NESTED.sublayers[:2])
EDITS = (
    Alpha(0.5),
    Alpha(0.3, 2),
    Alpha(1.0, "final"),
    Alpha(0.7, "attention"),
    AlphaGain(1.5),
    Schedule(1.2),
    BranchGain(0.5, 1),
    WeightGain(2.0),
    OtherNorm("ln"),
)


def log_j(network):
    return float(propagate(network, TOKENS).log_apjn[0])


def test_norms_are_numbered_as_values_reach_them():
    assert alphas_of(NESTED) == pytest.approx([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    for number in range(6):
        changed = alphas_of(edited(NESTED, [Alpha(0.25, number)]))
        assert changed == pytest.approx([0.25 if n == number else 1 + n / 10 for n in range(6)])
    assert alphas_of(edited(NESTED, [Alpha(0.5)])) == (0.5,) * 6
    assert edited(NESTED, [Alpha(0.5, "final")]) == NESTED


def test_norms_of_a_kind_of_branch():
    """Of parallel branches by each branch's own norm, of a shared one by attention, of sub-layers by all that is in them."""
    assert alphas_of(edited(NESTED, [Alpha(0.25, "attention")])) == pytest.approx([0.25, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert alphas_of(edited(NESTED, [Alpha(0.25, "mlp")])) == pytest.approx([1.0, *[0.25] * 5])
    assert alphas_of(edited(NESTED, [AlphaGain(2.0)])) == pytest.approx([2.0, 2.2, 2.4, 2.6, 2.8, 3.0])
    shared = Network((Sublayer(Parallel((Attention(), GELU)), DYT[0]),))
    assert alphas_of(edited(shared, [Alpha(0.25, "attention")])) == (0.25,)
    with pytest.raises(
        ArgumentError, match="at='mlp' of Alpha must be of a pointwise norm, and 'network' has none there"
    ):
        edited(shared, [Alpha(0.25, "mlp")])


def test_a_schedule_is_of_what_each_norm_sees():
    """``alpha^2 K = c^2`` at every norm, the kernels recorded on the way by norms that look."""
    seen = []

    class Looking(PointwiseNorm):
        def forward(self, kernel):
            seen.append(self.pointwise.alpha * math.sqrt(float(kernel.mean_diagonal())))
            return super().forward(kernel)

    scheduled = edited(NESTED, [Schedule(1.3)], [TOKENS])
    looked, kernel = scheduled, TOKENS
    for number, _ in enumerate(alphas_of(scheduled)):
        from criticality.theory.edits import _with_nth

        looked = _with_nth(looked, number, lambda norm: Looking(norm.pointwise))
    from criticality.theory import ScoreSampling

    for part in looked.sublayers:
        kernel = part.forward(kernel, ScoreSampling(2))
    assert seen == pytest.approx([1.3] * 6)


def test_a_gain_of_parallel_branches_is_that_of_the_sublayer():
    """All of them scaled one by one, or together; with biases."""
    first = Network(PRE.sublayers[:1])
    together = edited(first, [BranchGain(0.7)])
    one_by_one = edited(first, [BranchGain(0.7, 0), BranchGain(0.7, 1)])
    assert log_j(together) == pytest.approx(log_j(one_by_one), rel=1e-12)
    assert log_j(together) < log_j(first)
    assert edited(PRE, [BranchGain(0.5, 2)]).sublayers[1].scale == 0.5
    weights = edited(first, [WeightGain(1.5)]).sublayers[0].branch.branches[1].branch
    assert (weights.up.weight_variance, weights.up.bias_variance) == pytest.approx((1.2 * 2.25, 0.1))


def test_another_norm_keeps_what_scales_and_shifts():
    norm = PointwiseNorm(Pointwise("erf", alpha=0.4, gamma=1.3, beta=0.2))
    network = edited(transformer(norm, Attention(), GELU, 2), [OtherNorm("ln")])
    assert {part.norm for part in network.sublayers} == {LayerNorm(gamma=1.3, beta=0.2)}
    back = edited(network, [OtherNorm("derf", 0.4)])
    assert [part.norm.pointwise.alpha for part in back.sublayers] == [0.4] * 4
    assert back.sublayers[0].norm.pointwise.gamma == 1.3
    assert edited(network, [OtherNorm("none")]).sublayers[0].norm == NoNorm()


def test_edits_survive_json(tmp_path):
    assert edits_of_record(json.loads(json.dumps(edits_record(EDITS)))) == EDITS
    assert read_edits(write_edits(EDITS, tmp_path / "edits.json")) == EDITS
    named = (OtherNorm("dyt", None, ("blocks.0.norm1",)),)
    assert read_edits(write_edits(named, tmp_path / "named.json")) == named


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: edited(NESTED, [Alpha(1.0, 6)]), ArgumentError, "at=6 of Alpha must be the number of a norm"),
        (lambda: edited(PRE, [BranchGain(1.0, 3)]), ArgumentError, "at=3 of BranchGain must be the number of a branch"),
        (lambda: edited(NESTED, [BranchGain(0.5)]), UndescribedError, "must be used with pre-norm"),
        (lambda: edited(PRE, [Schedule(1.0)]), ArgumentError, "must hold a kernel"),
        (lambda: edited(Network((Sublayer(GELU),)), [Alpha(1.0)]), UndescribedError, "must have pointwise norms"),
        (lambda: edited(PRE, [OtherNorm("ln", names=("a",))]), UndescribedError, "whose parts have none"),
        (lambda: edited(PRE, [WeightGain(2.0, names=("a",))]), UndescribedError, "whose parts have none"),
        (lambda: edits_of_record([{"edit": "alpah"}]), ArgumentError, "must be a list of mappings"),
        (lambda: edits_of_record([{"edit": "alpha", "factor": 1.0}]), ArgumentError, "must have the fields of Alpha"),
        (lambda: Alpha(-1.0), ValueError, "value=-1.0 of Alpha"),
        (lambda: OtherNorm("layrnorm"), ValueError, "norm 'layrnorm' is unknown"),
    ],
)
def test_bad_edits_are_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
