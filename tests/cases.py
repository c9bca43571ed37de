"""The one table of sub-layers that theory tests run over."""

from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, LayerNorm, Linear, NoNorm, PointwiseNorm, RMSNorm, Sublayer, make_norm

DYT, DERF, LN = make_norm("dyt", 0.8), make_norm("derf", 1.5), LayerNorm()
AFFINE_DERF = PointwiseNorm(Pointwise("erf", alpha=0.9, shift=0.4, gamma=1.2, beta=0.3))
ATTENTION = Attention(0.9, 1.3, 1.1, 0.8, heads=16)
BIASED_ATTENTION = Attention(0.9, 1.3, 1.1, 0.8, 0.2, 0.1, 0.3, 0.1, heads=16)
GELU_MLP = MLP(Pointwise("gelu"), 1.2, 1.7, 0.1, 0.2)

SUBLAYERS = {
    "linear, no norm": Sublayer(Linear(1.4, 0.3)),
    "linear, DyT": Sublayer(Linear(1.4, 0.3), DYT),
    "linear, Derf with shift, gamma, beta": Sublayer(Linear(0.9), AFFINE_DERF),
    "linear, LayerNorm": Sublayer(Linear(1.4), LN),
    "linear, RMSNorm with gamma, beta": Sublayer(Linear(1.1), RMSNorm(1e-6, 1.3, 0.2)),
    "MLP GELU, Derf": Sublayer(GELU_MLP, DERF),
    "MLP SiLU, LayerNorm, branch scale": Sublayer(MLP(Pointwise("silu"), 2.0, 2.0), LN, 0.6),
    "MLP ReLU, DyT": Sublayer(MLP(Pointwise("relu"), 2.0, 1.0), DYT),
    "attention, DyT": Sublayer(ATTENTION, DYT),
    "attention, LayerNorm": Sublayer(ATTENTION, LN),
    "attention with biases, Derf": Sublayer(BIASED_ATTENTION, DERF),
    "attention, no norm": Sublayer(ATTENTION, NoNorm()),
    "post-norm MLP": Sublayer(GELU_MLP, LN, placement="post"),
    "sandwich attention": Sublayer(ATTENTION, LN, placement="sandwich", output_norm=RMSNorm()),
    "sandwich MLP": Sublayer(GELU_MLP, DYT, 0.7, placement="sandwich", output_norm=LN),
}
