"""Bad arguments of the library's public functions: every argument in turn, by its annotation; a typed error of one sentence."""

import importlib
import inspect
import math
import os
import pkgutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import criticality
from criticality import (
    laboratory,
    measurement,
    models,
    phases,
    pointwise,
    prescription,
    reader,
    reports,
    stream,
    studies,
    sweeps,
    theory,
    weightless,
)
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


def pointwise_stream():
    model = Stream()
    models.replace_norms(model, "dyt", 0.5)
    return model


TANH = FUNCTIONS["tanh"]
NETWORK = resnet(make_norm("dyt"), 4)
BATCH = torch.ones(2, 3, 8).cumsum(1)
MADE = prescription.prescribe(NETWORK, SymmetricKernel.of(1.0), 1.0, "schedule")
PROFILE = measurement.measure(Stream(), BATCH)
COMPARISON = studies.Comparison("timm:vit_tiny_patch16_224")
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
    (criticality.write_dataset, {"dataset": PROFILE, "path": "/proc/nowhere.nc"}),
    (criticality.check, {"model": "timm:nosuch", "changes": {"depth": 2}, "budget": 1.0, "seeds": 1, "samples": 2}),
    (criticality.classify, {"network": ResidualStep(LayerNorm()), "q0": 1.0, "rho0": 0.1, "tokens": 2}),
    (criticality.predict, {"model": "timm:nosuch", "seeds": 1}),
    (criticality.read_network, {"model": Stream(), "inputs": BATCH, "points": ["layers.0"]}),
    (PointwiseFunction, {"name": "mine", "value": np.tanh, "derivative": np.cos, "kinks": (0.0,)}),
    (Rotary, {"frequencies": (1.0, 2.0)}),
    (theory.Alpha, {"value": 1.0, "at": "all"}),
    (theory.BranchGain, {"factor": 1.0, "at": "all"}),
    (theory.OtherNorm, {"norm": "dyt", "alpha": 1.0, "names": ("x",)}),
    (theory.Schedule, {"c": 1.0}),
    (theory.WeightGain, {"factor": 1.0, "names": ("x",)}),
    (theory.alphas_of, {"network": NETWORK}),
    (theory.collapse_exponents, {"block": NETWORK.sublayers[:1], "q": 1.0, "tokens": 2}),
    (theory.edited, {"network": NETWORK, "edits": (theory.BranchGain(2.0),)}),
    (theory.log_apjn_variance, {"pointwise": Pointwise("tanh"), "depth": 2, "width": 8, "walks": 10, "seed": 0}),
    (theory.mean_network, {"networks": [NETWORK]}),
    (theory.propagate_between, {"network": NETWORK, "inputs": SymmetricKernel.of(1.0), "targets": [1.0], "samples": 2}),
    (theory.read_edits, {"path": "nowhere.json"}),
    (theory.write_edits, {"edits": (theory.Alpha(1.0),), "path": "/proc/nowhere.json"}),
    (measurement.input_kernels, {"model": Stream(), "inputs": BATCH, "device": "cpu"}),
    (measurement.output_kernels, {"model": Stream(), "inputs": BATCH, "seed": 0}),
    (measurement.log_mean, {"log_values": np.zeros((2, 3))}),
    (measurement.measure_chains, {"model": Stream(), "inputs": BATCH}),
    (measurement.measure_forward_ensemble, {"build": lambda seed: Stream(), "inputs": BATCH, "seeds": range(1)}),
    (models.OwnSpec, {"name": "nowhere.py:f", "norm": "dyt", "alpha": 1.0, "init": "own"}),
    (models.initialize, {"blocks": [nn.Linear(2, 2)], "init": "fan-in"}),
    (models.initialize_branches, {"model": Stream(), "init": "fan-in", "inputs": BATCH, "only": ["*"]}),
    (models.load_pretrained, {"folder": "nowhere"}),
    (models.write_weights, {"model": Stream(), "path": "/proc/nowhere.safetensors"}),
    (phases.collapse_map, {"function": TANH, "sigma_w": [1.0], "attention_weight": [1.0], "mlp_weight": [1.0]}),
    (
        phases.exponents_map,
        {"network": NETWORK, "depth": 2, "alpha": np.array([0.5, 1.0]), "tokens": 4, "q0": 1.0, "rho0": 0.1},
    ),
    (phases.crossover_depth, {"function": TANH, "alpha": 1.0, "weight_variance": 1.0, "q0": 1.0}),
    (phases.crossover_depth_small_alpha, {"function": TANH, "alpha": 1.0, "weight_variance": 1.0}),
    (phases.law_of, {"step": ResidualStep(LayerNorm()), "q0": 1.0}),
    (phases.layer_norm_critical_bias, {"function": TANH, "weight_variance": 1.5}),
    (phases.layer_norm_exponent_with_attention, {"value_output_variance": 1.0, "mlp_variance": 1.0}),
    (phases.stretched_scale, {"value_output_variance": 1.0, "mlp_variance": 1.0, "alpha": 1.0}),
    (phases.zoo_function, {"name": "tanh"}),
    (prescription.apply_edits, {"edits": (theory.Alpha(1.0),), "model": pointwise_stream(), "strict": False}),
    (prescription.apply_prescription, {"prescription": MADE, "model": pointwise_stream(), "keep": ["norms.0"]}),
    (prescription.least_amplification, {"network": NETWORK, "inputs": SymmetricKernel.of(1.0), "branch_share": 0.5}),
    (prescription.lightning_callback, {"monitor": prescription.Monitor(Stream(), BATCH)}),
    (prescription.planned_changes, {"prescription": MADE, "model": pointwise_stream(), "inputs": BATCH}),
    (prescription.scheduled_log_apjn, {"pointwise": Pointwise("tanh"), "c": 1.0, "depth": 3, "weight_variance": 1.0}),
    (
        prescription.trade_off,
        {"network": NETWORK, "inputs": SymmetricKernel.of(1.0), "kind": "constant", "values": [1.0]},
    ),
    (studies.steps_per_case, {"comparison": COMPARISON}),
    (studies.summary, {"result": PROFILE}),
    (reports.apjn_figure, {"result": PROFILE}),
    (reports.heat_map, {"pairs": PROFILE, "title": "t"}),
    (stream.stream, {"model": Stream(), "inputs": BATCH}),
    (stream.trace, {"model": Stream(), "inputs": BATCH}),
    (sweeps.Store, {"path": "nowhere.zarr"}),
    (sweeps.Study, {"name": "s", "compute": "predict", "grid": {"alpha": [1.0]}, "memory_gb": 1.0}),
    (sweeps.export_study, {"path": "nowhere.zarr", "out": "x.nc"}),
    (sweeps.pack_study, {"path": "nowhere.zarr", "out": "x.zip"}),
    (sweeps.packed_dataset, {"path": "nowhere.zip"}),
    (sweeps.read_study, {"path": "nowhere.yaml"}),
    (weightless.WeightsIntegratedOut, {"weights": {}, "seed": 0, "model": Stream()}),
    (weightless.build_without_weights, {"factory": Stream, "at_least": 16, "seed": 0}),
    (weightless.laws_of, {"model": Stream()}),
    (weightless.predict_sampled, {"model": Stream(), "inputs": BATCH, "seeds": 1, "probe": "normal", "init": "own"}),
    (laboratory.ResidualRun, {"task": "fashion-resnet", "norm": "dyt", "alpha": 1.0, "mu": 1.0, "depth": 2}),
    (laboratory.geometric_steps, {"steps": 3}),
    (laboratory.train_together, {"runs": []}),
]
LISTED = {"target", "only", "points"}


def bad_values(name, value):
    """What must be refused in the place of a good value, by what that is."""
    if isinstance(value, bool):
        return [None, "yes", 3]
    if isinstance(value, int):
        return [None, "3", 1.5, math.nan, -3, 10**12, 10**400, True, [1], np.int64(-5), torch.tensor([1, 2]), object()]
    if isinstance(value, float):
        return [None, "x", math.nan, math.inf, -math.inf, 1e300, 10**400, 1j, True, object()]
    if isinstance(value, (str, os.PathLike)):
        return [None, 3, "nosuch", "", "a\0b", "x" * 10_000, b"ln", [1], object()]
    if isinstance(value, (Mapping, Sequence, np.ndarray)):
        return [None, "x", 3, object(), [None], [object()], np.empty(0), np.array([1j]), np.array(["a"])]
    if isinstance(value, torch.Tensor):
        return [None, "x", b"x", 3, object(), [], {}, torch.empty(2, 0, 8), torch.ones(2, 3, 7), {"nosuch": value}]
    if isinstance(value, nn.Module):
        return [None, "nosuch", 3, object(), Stream, [value], nn.Module(), nn.Linear(8, 8)]
    return [None, "nosuch", 3, object(), Number]


ALWAYS: dict[Callable, dict] = {prescription.Monitor: {"inputs": BATCH}}
MAY_BE = {
    ("every", 10**12), ("steps", 10**12), ("depth", 10**12), ("at_least", 10**12), ("name", ""), ("path", "nosuch"), ("at", 3),
    ("points", None), ("targets", None), ("memory_gb", None), ("memory_gb", 1e300), ("weights", None),
    ("alpha", None), ("inputs", None), ("budget", None), ("device", None), ("norm", None), ("window", None), ("depth", None),
    ("name", None), ("name", "nosuch"), ("kinks", None), ("keep", None), ("target", 1.0), ("depths", 3), ("bias_deviations", 3),
}  # fmt: skip
"""Values that some of these do take."""


def cases():
    for call, good in CALLS:
        for name, value in good.items():
            yield pytest.param(call, good, name, value, id=f"{getattr(call, '__qualname__', call)}-{name}")


LOOSE = {
    "Monitor-model", "laws_of-model", "WeightsIntegratedOut-model", "predict_sampled-model", "predict_sampled-seeds",
    "PointwiseFunction-value", "PointwiseFunction-derivative", "critical_line-bias_deviations", "initialize-blocks",
    "collapse_map-sigma_w", "collapse_map-attention_weight", "collapse_map-mlp_weight",
}  # fmt: skip
"""Arguments of which some of the values are good ones, too: any module, a class for a function, an empty array."""


@pytest.mark.parametrize(("call", "good", "name", "value"), [*cases()])
def test_bad_arguments_are_one_sentence(call, good, name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for bad in bad_values(name, value):
        found, refusal = outcome(lambda bad=bad: call(**{**ALWAYS.get(call, {}), **good, name: bad}))
        if refusal is None:
            loose = f"{getattr(call, '__qualname__', call)}-{name}" in LOOSE
            assert loose or isinstance(bad, (str, int, float, type(None))), (bad, found)
            assert loose or (name, bad) in MAY_BE, (bad, found)
        else:
            assert isinstance(refusal, CriticalityError) or "criticality" in _origin(refusal), (bad, refusal)
            assert "\n" not in str(refusal), (bad, refusal)
            assert len(str(refusal)) < 310, (bad, refusal)


PACKAGES = (
    criticality, laboratory, measurement, models, phases, pointwise, prescription, reader, reports, stream, studies, sweeps, theory,
    weightless,
)  # fmt: skip
ELSEWHERE = {
    "compare", "run_study", "unpack_study", "compute_cell", "transformer_map", "zoo_table", "fashion_mnist", "train_stacked",
    "trainer_callback", "to_tensorboard", "save_figure", "write_report", "kernel_figure", "correlation_figure", "named_points",
    "profile", "ensemble_dataset", "ensemble_profiles", "unknown_laws", "check_up", "predict",
}  # fmt: skip
"""Functions that take long, write, or are halves of those tried here; most are tried by way of their verbs."""


def public():
    for package in PACKAGES:
        for name in package.__all__:
            yield package.__name__, name, getattr(package, name)


def test_every_public_function_checks_its_arguments():
    tried = {inspect.unwrap(call) for call, _ in CALLS} | {tune}
    for package, name, value in public():
        if isinstance(value, FunctionType):
            assert hasattr(value, "__wrapped__") or value is stream.trace, f"{package}.{name} is not checked"
            known = inspect.unwrap(value) in tried or value.__name__ in ELSEWHERE
            assert known, f"{package}.{name} is tried nowhere"


def test_no_public_name_is_hidden_by_a_module_that_is_called_the_same():
    for package in PACKAGES:
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    hidden = [f"{package}.{name}" for package, name, value in public() if isinstance(value, ModuleType)]
    assert hidden == ["criticality.stream"]  # a package, and said to be one
    assert callable(criticality.tune)
    assert criticality.tune is prescription.tune is tune


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
