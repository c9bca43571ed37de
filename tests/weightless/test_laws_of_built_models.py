"""The law that is read off an initialization is that of the weights that the initialization really draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from criticality.errors import UnknownLawError
from criticality.weightless import build_without_weights, laws_of, unknown_laws
from criticality.weightless.entries import AT_LEAST
from criticality.weightless.initializing import initialize
from criticality.weightless.law import Law
from criticality.weightless.laws import law_of, require_known_laws
from criticality.weightless.weight import RandomWeight

FINITE_SAMPLE = 0.02
"""Of the law's 16,384 entries: a relative error of their second moment of sqrt(2 / 16384) = 0.011 for a Gaussian without strata."""


def agree(name: str, law: Law, real: Tensor) -> None:
    """Mean and second moment within six standard errors of the real ones, from the number of entries and the fourth moment."""
    w = real.detach().double()
    second, fourth = w.square().mean().item(), w.pow(4).mean().item()
    mean_error = (w.var(correction=0).item() / w.numel()) ** 0.5
    second_error = (max(0.0, fourth - second**2) / w.numel()) ** 0.5
    assert abs(law.mean - w.mean().item()) <= 6 * mean_error + FINITE_SAMPLE * second**0.5, name
    assert abs(law.second_moment - second) <= 6 * second_error + FINITE_SAMPLE * second, name


def compare(factory: Callable[[], nn.Module], at_least_large: int = 1) -> nn.Module:
    """All parameters and buffers of the model without weights against those of the real one."""
    torch.manual_seed(1)
    real = factory()
    model = build_without_weights(factory)
    parameters, numbers = dict(model.named_parameters()), dict(real.named_parameters())
    assert list(parameters) == list(numbers)
    assert not unknown_laws(model)
    assert _ties(model) == _ties(real)
    large = 0
    for name, parameter in parameters.items():
        assert (parameter.shape, parameter.dtype) == (numbers[name].shape, numbers[name].dtype), name
        if parameter.numel() >= AT_LEAST:
            agree(name, law_of(parameter), numbers[name])
        else:
            assert not isinstance(parameter, RandomWeight), name
            assert torch.isfinite(parameter).all(), name
        large += isinstance(parameter, RandomWeight)
    assert large == _large(real) >= at_least_large
    buffers = dict(real.named_buffers())
    assert [name for name, _ in model.named_buffers()] == list(buffers)
    for name, buffer in model.named_buffers():
        assert not isinstance(buffer, RandomWeight), name
        assert torch.equal(buffer, buffers[name]), name
    return model


def _large(model: nn.Module) -> int:
    """Large parameters whose entries are not all alike."""
    return sum(p.numel() >= AT_LEAST and bool((p != p.flatten()[0]).any()) for p in model.parameters())


def _ties(model: nn.Module) -> set[tuple[str, ...]]:
    """Names of each parameter that has more than one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {tuple(same) for same in names.values() if len(same) > 1}


LAYERS = {
    "linear": lambda: nn.Linear(256, 512),
    "conv": lambda: nn.Conv2d(64, 128, 3),
    "embedding": lambda: nn.Embedding(1000, 64),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_their_own_initialization(name: str) -> None:
    compare(LAYERS[name])


def test_padding_row_does_not_change_the_law() -> None:
    def factory() -> nn.Module:
        return nn.Embedding(200, 256, padding_idx=3)  # 200 rows: with the zero row the second moment would be 0.995

    model = build_without_weights(factory)
    rows = torch.arange(200) != 3
    agree("embedding", model.weight.law, factory().weight[rows])
    assert model.weight.law.second_moment == pytest.approx(1.0, abs=1e-6)  # the sample is scaled to this
    assert not model.weight.draw(rows=[3]).any()
    assert model.weight.draw(rows=[2]).all()


def _initialized(function: Callable[[Tensor], object], *shape: int) -> Callable[[], nn.Module]:
    def factory() -> nn.Module:
        model = nn.Module()
        model.weight = nn.Parameter(torch.empty(shape))
        function(model.weight)
        return model

    return factory


INITIALIZATIONS: dict[str, Callable[[Tensor], object]] = {
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal_fan_out": lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": lambda w: nn.init.xavier_normal_(w, gain=3.0),
    "trunc_normal": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "trunc_normal_cut": lambda w: nn.init.trunc_normal_(w, mean=0.5, std=1.0, a=-1.0, b=1.0),
}


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_functions_of_torch_nn_init(name: str) -> None:
    compare(_initialized(INITIALIZATIONS[name], 192, 320))


@pytest.mark.parametrize("shape", [(128, 320), (320, 128)])
def test_orthogonal(shape: tuple[int, int]) -> None:
    model = compare(_initialized(lambda w: nn.init.orthogonal_(w, gain=2.0), *shape))
    assert model.weight.law.orthogonal
    drawn = model.weight.draw(torch.Generator().manual_seed(0)).double()
    gram = drawn @ drawn.T if shape[0] < shape[1] else drawn.T @ drawn
    assert torch.allclose(gram, 4.0 * torch.eye(128, dtype=torch.float64), atol=1e-2)  # scaled by the sample's moment


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(512, 64)
        self.head = nn.Linear(64, 512, bias=False)
        self.head.weight = self.table.weight
        nn.init.normal_(self.head.weight, std=0.25)
        self.register_buffer("mask", torch.ones(200, 200).tril())
        self.register_buffer("frequencies", 10_000.0 ** -(torch.arange(0, 40_000) / 40_000))
        self.norm = nn.LayerNorm(64)


def test_ties_buffers_and_small_parameters() -> None:
    model = compare(Tied)
    assert model.head.weight is model.table.weight
    assert model.table.weight.law.second_moment == pytest.approx(0.25**2, rel=1e-6)
    assert set(laws_of(model)) == {"table.weight", "head.weight", "norm.weight", "norm.bias"}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "hiera_tiny_224"])
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    compare(lambda: timm.create_model(name), 10)


def _transformers(kind: str) -> Callable[[], nn.Module]:
    transformers = pytest.importorskip("transformers")
    wide = {"hidden_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "intermediate_size": 256}
    t5 = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "vocab_size": 512}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**wide, **heads),
        "gpt2": lambda: transformers.GPT2Config(n_embd=128, n_layer=2, n_head=4, vocab_size=512, n_positions=128),
        "t5": lambda: transformers.T5Config(**t5),
        "mixtral": lambda: transformers.MixtralConfig(**wide, **heads, num_key_value_heads=2, num_local_experts=4),
        "albert": lambda: transformers.AlbertConfig(**wide, **heads, embedding_size=64),
        "mamba": lambda: transformers.MambaConfig(**wide),
    }
    made = {"t5": "AutoModelForSeq2SeqLM", "albert": "AutoModelForMaskedLM"}.get(kind, "AutoModelForCausalLM")
    return lambda: getattr(transformers, made).from_config(configs[kind]())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "mixtral", "albert", "mamba"])
def test_transformers(kind: str) -> None:
    factory = _transformers(kind)
    model = compare(factory, 4)
    assert bool(_ties(model)) == (kind in ("gpt2", "t5", "albert", "mamba"))  # the output layer is the table


def test_unknown_law_names_the_parameter() -> None:
    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known = nn.Linear(128, 128)
            self.forgotten = nn.Parameter(torch.empty(128, 128))

    model = build_without_weights(Forgotten)
    assert unknown_laws(model) == ["forgotten"]
    with pytest.raises(UnknownLawError, match=r"the law of forgotten is unknown"):
        require_known_laws(model)
    nn.init.normal_(model.forgotten)
    require_known_laws(model)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 384)
        self.small = nn.Linear(96, 64)
        self.conv = nn.Conv2d(32, 96, 3)
        self.table = nn.Embedding(300, 64)
        self.norm = nn.LayerNorm(64)


def test_fan_in_on_real_and_random_weights() -> None:
    models = {"real": Several(), "random": build_without_weights(Several)}
    tables = {kind: law_of(model.table.weight).second_moment for kind, model in models.items()}
    written = {kind: initialize(model, "fan-in") for kind, model in models.items()}
    assert written["real"] == written["random"] == {"linear.weight": 192, "small.weight": 96, "conv.weight": 288}
    assert isinstance(models["random"].linear.weight, RandomWeight)
    for kind, model in models.items():
        for name, fan in written[kind].items():
            weight = model.get_parameter(name)
            exact = isinstance(weight, RandomWeight)  # its sample is scaled to the second moment
            tolerance = 1e-6 if exact else 6 * (2 / weight.numel()) ** 0.5
            assert fan * law_of(weight).variance == pytest.approx(1.0, abs=tolerance), (kind, name)
            assert not model.get_parameter(name.replace("weight", "bias")).any()
        assert law_of(model.table.weight).second_moment == tables[kind]
