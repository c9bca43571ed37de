"""Bad arguments of the library's public functions: every argument in turn, by its annotation; a typed error of one sentence."""

import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

import criticality
from criticality import measurement, models, phases, pointwise, prescription, studies
from criticality.arguments import Finite, Number, Whole, check
from criticality.errors import CriticalityError
from criticality.phases import ResidualStep, fixed_point_of
from criticality.pointwise import FUNCTIONS, Pointwise, PointwiseFunction, pointwise_function
from criticality.prescription.tune import tune
from criticality.theory import (
    MLP,
    Attention,
    GatedMLP,
    HeadNorm,
    LayerNorm,
    Linear,
    Network,
    Normed,
    Parallel,
    PointwiseNorm,
    RMSNorm,
    Rotary,
    ScoreSampling,
    Sublayer,
    SymmetricKernel,
    TokenKernel,
    make_norm,
    propagate,
    resnet,
    transformer,
)


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        return x


TANH = FUNCTIONS["tanh"]
NETWORK = resnet(make_norm("dyt"), 4)
BATCH = torch.ones(2, 3, 8).cumsum(1)
CALLS: list[tuple[Callable, dict]] = [
    (Pointwise, {"function": "tanh", "alpha": 1.0, "shift": 0.0, "gamma": 1.0, "beta": 0.0}),
    (Pointwise("tanh").V, {"q": 1.0}),
    (Pointwise("relu").D, {"q": 1.0}),
    (Pointwise("gelu_tanh", shift=0.1).C, {"q_a": 1.0, "q_b": 2.0, "rho": 0.5}),
    (pointwise_function, {"value": np.tanh, "name": "mine", "kinks": (0.0,)}),
    (pointwise.get_function, {"name": "tanh"}),
    (Linear, {"weight_variance": 1.0, "bias_variance": 0.0}),
    (MLP, {"activation": Pointwise("gelu"), "up": Linear(), "ratio": 4.0}),
    (GatedMLP, {"activation": Pointwise("silu"), "gate": Linear()}),
    (
        Attention,
        {"query": Linear(), "heads": 4, "scores": "uniform", "causal": True, "window": 2, "score_scale": 1.0},
    ),
    (HeadNorm, {"epsilon": 1e-6, "gamma": 1.0, "centred": False}),
    (Rotary.standard, {"head_dim": 8, "base": 100.0, "fraction": 1.0}),
    (ScoreSampling, {"samples": 8, "seed": 0}),
    (LayerNorm, {"epsilon": 1e-6, "gamma": 1.0, "beta": 0.0}),
    (RMSNorm, {"epsilon": 1e-6}),
    (PointwiseNorm, {"pointwise": Pointwise("tanh")}),
    (Normed, {"norm": LayerNorm(), "branch": Linear()}),
    (Parallel, {"branches": (Linear(),)}),
    (Sublayer, {"branch": Linear(), "norm": LayerNorm(), "scale": 1.0, "placement": "pre"}),
    (Network, {"sublayers": (Sublayer(Linear()),), "sublayers_per_block": 1, "name": "n"}),
    (SymmetricKernel.of, {"q": 1.0, "p": 0.5, "tokens": 2}),
    (TokenKernel.of, {"matrix": np.eye(2)}),
    (make_norm, {"name": "dyt", "alpha": 1.0, "epsilon": 1e-6}),
    (resnet, {"norm": LayerNorm(), "depth": 3, "weight_variance": 1.0, "bias_variance": 0.0}),
    (transformer, {"norm": LayerNorm(), "attention": Attention(), "mlp": Linear(), "depth": 2, "scale": 1.0}),
    (propagate, {"network": NETWORK, "inputs": SymmetricKernel.of(1.0), "samples": 2, "seed": 0}),
    (ResidualStep, {"norm": LayerNorm(), "weight_variance": 1.0, "bias_variance": 0.0}),
    (phases.amplification, {"step": ResidualStep(make_norm("dyt")), "depths": [3], "q0": 1.0}),
    (phases.amplification_map, {"function": TANH, "depth": 2, "alpha": 1.0, "weight_variance": 1.0, "q0": 1.0}),
    (phases.critical_line, {"function": TANH, "bias_deviations": [0.1]}),
    (fixed_point_of, {"function": TANH, "weight_variance": 0.5, "bias_variance": 0.1, "alpha": 1.0}),
    (phases.stretched_growth, {"function": TANH, "alpha": 1.0, "weight_variance": 1.0, "bias_variance": 0.0}),
    (phases.linear_rate, {"function": TANH, "alpha": 1.0, "weight_variance": 1.0}),
    (phases.layer_norm_exponent, {"function": TANH, "weight_variance": 1.0, "bias_variance": 0.0}),
    (phases.layer_norm_susceptibility, {"function": TANH, "weight_variance": 1.0, "bias_variance": 0.0, "skip": 0.5}),
    (phases.saturated_correlation, {"value_output_variance": 1.0, "mlp_variance": 1.0}),
    (phases.tail_of, {"function": TANH}),
    (measurement.measure, {"model": Stream(), "inputs": BATCH, "probes": 1, "seed": 0, "device": "cpu"}),
    (measurement.measure_between, {"model": Stream(), "inputs": BATCH, "seed": 0}),
    (measurement.measure_forward, {"model": Stream(), "inputs": BATCH, "tangents": 1, "start": 0}),
    (measurement.measure_ensemble, {"build": lambda seed: Stream(), "inputs": BATCH, "seeds": range(2), "probes": 1}),
    (models.replace_norms, {"model": Stream(), "norm": "dyt", "alpha": 1.0, "keep": ["norms.0"]}),
    (models.model_spec, {"model": "timm:vit_tiny_patch16_224"}),
    (models.ViTSpec, {"name": "vit_tiny_patch16_224", "norm": "dyt", "alpha": 1.0, "depth": 2, "init": "timm"}),
    (models.HuggingFaceSpec, {"name": "gpt2", "norm": "dyt", "alpha": 1.0, "depth": 2, "text": "bytes"}),
    (models.DynamicPointwise, {"width": 4, "function": "dyt", "alpha": 1.0}),
    (models.photographs, {"size": 32}),
    (models.source_bytes, {"sequences": 2, "tokens": 8, "seed": 0}),
    (models.random_tokens, {"sequences": 2, "tokens": 8, "vocabulary": 9, "seed": 0}),
    (models.gaussian_inputs, {"tokens": 2, "width": 8, "seed": 0}),
    (models.ResidualNetwork, {"width": 8, "depth": 2, "norm": "dyt", "alpha": 1.0, "weight_deviation": 1.0}),
    (prescription.prescribe, {"network": NETWORK, "inputs": SymmetricKernel.of(1.0), "target": 1.0, "kind": "gain"}),
    (prescription.power_law, {"depth": 3, "log_apjn": 1.0}),
    (prescription.Monitor, {"model": Stream(), "every": 10, "budget": 3.0}),
    (prescription.schedule_from_data, {"model": Stream(), "inputs": BATCH, "c": 1.0}),
    (tune, {"model": Stream(), "inputs": BATCH, "target": 1.0, "max_passes": 1, "probes": 2, "tolerance": 0.1}),
    (
        studies.Comparison,
        {"model": "timm:vit_tiny_patch16_224", "norms": ("ln",), "seeds": 2, "samples": 2, "device": "cpu"},
    ),
    (criticality.read_dataset, {"path": "nowhere.nc"}),
]
LISTED = {"target", "only", "points"}


def bad_values(name, value):
    """What must be refused in the place of a good value, by what that is."""
    if isinstance(value, bool):
        return [None, "yes", 3]
    if isinstance(value, int):
        return [None, "3", 1.5, math.nan, -3, 10**12, True, [1], object()]
    if isinstance(value, float):
        return [None, "x", math.nan, math.inf, -math.inf, 1e300, 1j, True, object()]
    if isinstance(value, (str, os.PathLike)):
        return [None, 3, "nosuch", b"ln", [1], object()]
    if isinstance(value, (Mapping, Sequence, np.ndarray)):
        return [None, "x", 3, object(), [None], [object()]]
    return [None, "nosuch", 3, object(), Number]


ALWAYS: dict[Callable, dict] = {prescription.Monitor: {"inputs": BATCH}}
MAY_BE = {
    ("every", 10**12),
    ("alpha", None), ("inputs", None), ("budget", None), ("device", None), ("norm", None), ("window", None), ("depth", None),
    ("name", None), ("name", "nosuch"), ("kinks", None), ("keep", None), ("target", 1.0), ("depths", 3), ("bias_deviations", 3),
}  # fmt: skip
"""Values that some of these do take."""


def cases():
    for call, good in CALLS:
        for name, value in good.items():
            yield pytest.param(call, good, name, value, id=f"{getattr(call, '__qualname__', call)}-{name}")


@pytest.mark.parametrize(("call", "good", "name", "value"), cases())
def test_bad_arguments_are_one_sentence(call, good, name, value):
    for bad in bad_values(name, value):
        found, refusal = outcome(lambda bad=bad: call(**{**ALWAYS.get(call, {}), **good, name: bad}))
        if refusal is None:
            assert isinstance(bad, (str, int, float, type(None))), (bad, found)
            assert (name, bad) in MAY_BE, found
        else:
            assert isinstance(refusal, CriticalityError) or "criticality" in _origin(refusal), (bad, refusal)
            assert "\n" not in str(refusal), (bad, refusal)
            assert len(str(refusal)) < 310, (bad, refusal)


def outcome(call):
    """What it returns, or the error of the library; no warning, no other error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return call(), None
        except ValueError as refusal:
            return None, refusal


def _origin(error):
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename


@pytest.mark.parametrize("function", sorted(FUNCTIONS) + sorted(pointwise.ZOO))
def test_extremes_are_finite_or_refused(function):
    for alpha in (1e-24, 1e-3, 1e24):
        for q in (0.0, 1e-200, 1.0, 1e200):
            f = Pointwise(function, alpha=alpha, gamma=1e24)
            values, refusal = outcome(lambda f=f, q=q: (f.V(q), f.D(q)))
            assert refusal is not None or np.isfinite(values).all(), (function, alpha, q, values)
            assert refusal is None or "must" in str(refusal), (function, alpha, q, refusal)


def test_a_check_says_what_is_allowed():
    for kind, value, said in (
        (Number(low=0, above=True), -1, "x=-1 must be a finite number above 0"),
        (Whole(low=2, even=True), 3, "x=3 must be an even number, 2 or above"),
    ):
        with pytest.raises(CriticalityError, match=said):
            kind.check("x", value)
    check(Finite | None, "x", None)
    for values in ((1.0, 2.0, 3.0), [1.0, 2.0, 3.0], (), range(3)):
        check(Sequence[float], "x", values)  # a tuple is a sequence of any length
        check(tuple[float, ...], "x", tuple(values))
    for hint, value, said in (
        (Sequence[Finite], (1.0, 2.0, "y"), r"^x\[2\]='y' must be"),
        (tuple[float, int], (1.0, "y"), r"^x\[1\]='y' must be"),
        (tuple[float, int], (1.0, 2, 3), r"^x=\(1.0, 2, 3\) must be a tuple of 2 values"),
        (Mapping[str, float], {"a": 1.0, "b": None}, r"^x\['b'\]=None must be"),
        (Mapping[str, float], {3: 1.0}, r"^a key of x=3 must be text"),
        (Sequence[tuple[str, float]], (("a", 1.0), ("b", "c")), r"^x\[1\]\[1\]='c' must be"),
    ):
        with pytest.raises(CriticalityError, match=said):
            check(hint, "x", value)
    with pytest.raises(CriticalityError, match="or None"):
        check(Finite | None, "x", "y")
    assert inspect.signature(propagate).parameters["samples"].default == 8  # the wrapper keeps it
    assert isinstance(TANH, PointwiseFunction)
