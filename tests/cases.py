"""The one table of sub-layers that theory tests run over."""

import numpy as np

from criticality.pointwise import Pointwise
from criticality.theory import (
    MLP,
    Attention,
    GatedMLP,
    HeadNorm,
    LayerNorm,
    Linear,
    NoNorm,
    Normed,
    Parallel,
    PointwiseNorm,
    RMSNorm,
    Rotary,
    Sublayer,
    make_norm,
)

DYT, DERF, LN = make_norm("dyt", 0.8), make_norm("derf", 1.5), LayerNorm()
AFFINE_DERF = PointwiseNorm(Pointwise("erf", alpha=0.9, shift=0.4, gamma=1.2, beta=0.3))
ATTENTION = Attention(Linear(0.9), Linear(1.3), Linear(1.1), Linear(0.8), heads=16)
BIASED_ATTENTION = Attention(Linear(0.9, 0.2), Linear(1.3, 0.1), Linear(1.1, 0.3), Linear(0.8, 0.1), heads=16)
GELU_MLP = MLP(Pointwise("gelu"), Linear(1.2, 0.1), Linear(1.7, 0.2))

SWIGLU = GatedMLP(Pointwise("silu"), Linear(1.3), Linear(1.1), Linear(0.9))
POSITIONS = np.array([[0.0, 0.0, 0.0], [0.5, 1.0, 0.2], [2.0, 0.3, 0.1], [1.0, 3.0, 0.7]])

SUBLAYERS = {
    "linear, no norm": Sublayer(Linear(1.4, 0.3)),
    "linear, DyT": Sublayer(Linear(1.4, 0.3), DYT),
    "linear, Derf with shift, gamma, beta": Sublayer(Linear(0.9), AFFINE_DERF),
    "linear, LayerNorm": Sublayer(Linear(1.4), LN),
    "linear, RMSNorm with gamma, beta": Sublayer(Linear(1.1), RMSNorm(1e-6, 1.3, 0.2)),
    "MLP GELU, Derf": Sublayer(GELU_MLP, DERF),
    "MLP SiLU, LayerNorm, branch scale": Sublayer(MLP(Pointwise("silu"), Linear(2.0), Linear(2.0)), LN, 0.6),
    "MLP ReLU, DyT": Sublayer(MLP(Pointwise("relu"), Linear(2.0)), DYT),
    "attention, DyT": Sublayer(ATTENTION, DYT),
    "attention, LayerNorm": Sublayer(ATTENTION, LN),
    "attention with biases, Derf": Sublayer(BIASED_ATTENTION, DERF),
    "attention, no norm": Sublayer(ATTENTION, NoNorm()),
    "gated MLP, RMSNorm": Sublayer(SWIGLU, RMSNorm()),
    "gated MLP with biases, DyT": Sublayer(
        GatedMLP(Pointwise("gelu"), Linear(1.2, 0.2), Linear(0.9, 0.3), Linear(1.3, 0.1), ratio=2.0), DYT
    ),
    "head_dim 8, few channels": Sublayer(Attention(Linear(1.1), Linear(1.2), heads=128, head_dim=8), LN),
    "causal attention": Sublayer(Attention(Linear(1.1), Linear(1.2), heads=16, causal=True), DYT),
    "causal attention, window 2, uniform": Sublayer(
        Attention(Linear(1e-8), heads=8, causal=True, window=2, scores="uniform"), LN
    ),
    "rotary attention": Sublayer(
        Attention(Linear(1.5), Linear(1.4), heads=32, head_dim=32, causal=True, rotary=Rotary.standard(32, 10.0)), LN
    ),
    "rotary attention, partial, given positions": Sublayer(
        Attention(Linear(1.5), Linear(1.4), heads=32, head_dim=32, rotary=Rotary(positions=POSITIONS)), DERF
    ),
    "grouped-query attention": Sublayer(
        Attention(Linear(1.1), Linear(1.2), heads=16, key_value_heads=4, head_dim=64), LN
    ),
    "multi-query attention, wide heads": Sublayer(
        Attention(Linear(1.1), Linear(1.2), heads=16, key_value_heads=1, head_dim=96), DYT
    ),
    "QK-norm attention": Sublayer(
        Attention(
            Linear(3.0),
            Linear(0.2),
            heads=32,
            head_dim=32,
            query_norm=HeadNorm(gamma=1.2),
            key_norm=HeadNorm(centred=True),
        ),
        DYT,
    ),
    "QK-norm, rotary, causal, scaled scores": Sublayer(
        Attention(
            heads=32,
            head_dim=32,
            causal=True,
            rotary=Rotary.standard(32, 100.0),
            query_norm=HeadNorm(),
            key_norm=HeadNorm(),
            score_scale=1.5,
        ),
        LN,
    ),
    "parallel attention and MLP": Sublayer(Parallel((ATTENTION, GELU_MLP)), LN, 0.8),
    "parallel with norms of their own": Sublayer(Parallel((Normed(LN, ATTENTION), Normed(DYT, GELU_MLP)))),
    "DeepNorm": Sublayer(GELU_MLP, LN, 0.7, placement="post", skip_scale=1.8),
    "post-norm MLP": Sublayer(GELU_MLP, LN, placement="post"),
    "sandwich attention": Sublayer(ATTENTION, LN, placement="sandwich", output_norm=RMSNorm()),
    "sandwich MLP": Sublayer(GELU_MLP, DYT, 0.7, placement="sandwich", output_norm=LN),
}
