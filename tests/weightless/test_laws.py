"""The law of every large weight against really drawn weights, for families of timm and of Hugging Face transformers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import nn

from criticality.errors import UnknownLawError
from criticality.weightless.building import build_without_weights
from criticality.weightless.laws import law_of, laws_of, measured_law, require_known_laws, unknown_laws
from criticality.weightless.weight import RandomWeight

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

AT_LEAST = 1024
STANDARD_ERRORS = 5.0
SAMPLE_NOISE = 0.003  # relative, of truncated laws that are played by rejection
OUTLIER = 20.0  # standard deviations: timm's truncated normal in single precision draws one such entry in 2^24

TIMM: dict[str, dict[str, object]] = {
    "hiera_tiny_224": {},
    "vit_tiny_patch16_224": {"depth": 2, "weight_init": "jax"},
    "convnext_atto": {},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1)},
    "deit3_small_patch16_224": {"depth": 2},
    "mixer_s32_224": {},
    "eva02_tiny_patch14_224": {"depth": 2},
    "efficientnet_b0": {},
    "maxvit_nano_rw_256": {},
    "cait_xxs24_224": {"depth": 2},
    "xcit_nano_12_p8_224": {"depth": 2},
    "convit_tiny": {"depth": 2},
    "resmlp_12_224": {},
    "resnet18": {},
}

WIDTH = 64
COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 500,
    "pad_token_id": 3,
}
D_MODEL = {
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 500,
    "pad_token_id": 3,
    "max_source_positions": 100,
    "max_target_positions": 100,
}
GPT2 = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "vocab_size": 500, "n_positions": 64}
TYPES_OF_LAYERS = {"layer_types": ["linear_attention", "full_attention"]}

HUGGING_FACE = {
    "llama": COMMON,
    "gpt2": GPT2,
    "t5": {"d_model": WIDTH, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 500},
    "bert": COMMON,
    "opt": {**COMMON, "ffn_dim": 128, "word_embed_proj_dim": WIDTH, "max_position_embeddings": 64},
    "gemma2": {**COMMON, "head_dim": 16},
    "mixtral": {**COMMON, "num_local_experts": 4},
    "mamba": {"hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 16, "vocab_size": 500},
    "mamba2": {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 1,
        "vocab_size": 500,
    },
    "deepseek_v3": {
        **COMMON,
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "q_lora_rank": 32,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 32,
    },
    "qwen3_next": {**COMMON, **TYPES_OF_LAYERS, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "albert": {**COMMON, "embedding_size": 32},
    "deberta-v2": {**COMMON, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32},
    "bloom": {"hidden_size": WIDTH, "n_layer": 2, "n_head": 4, "vocab_size": 500},
    "xlnet": {"d_model": WIDTH, "n_layer": 2, "n_head": 4, "d_inner": 128, "vocab_size": 500},
    "gpt_neox": COMMON,
    "modernbert": COMMON,
    "falcon": {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 500},
    "clip": {"text_config": {**COMMON}, "vision_config": {**COMMON, "image_size": 32, "patch_size": 8}},
    "whisper": D_MODEL,
    "bart": {**D_MODEL, "max_position_embeddings": 64},
    "wav2vec2": {
        **COMMON,
        "conv_dim": (32, 32),
        "conv_kernel": (3, 3),
        "conv_stride": (2, 2),
        "num_feat_extract_layers": 2,
    },
    "marian": {**D_MODEL, "max_position_embeddings": 64, "decoder_start_token_id": 3},
}


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, **TIMM[name])


def _hugging_face(kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **HUGGING_FACE[kind]))

    return build


def assert_same(bare: nn.Module, real: nn.Module) -> int:
    """Names, shapes, ties, laws and buffers agree; how many weights are random."""
    ours, theirs = (dict(model.named_parameters(remove_duplicate=False)) for model in (bare, real))
    assert [(n, p.shape, p.dtype, p.requires_grad) for n, p in ours.items()] == [
        (n, p.shape, p.dtype, p.requires_grad) for n, p in theirs.items()
    ]
    assert sorted(Counter(map(id, ours.values())).values()) == sorted(Counter(map(id, theirs.values())).values())
    for name, weight in ours.items():
        if isinstance(weight, RandomWeight):
            assert_law(name, weight, theirs[name].detach())
        elif (theirs[name] == theirs[name].flatten()[0]).all():
            assert torch.equal(weight, theirs[name]), name
    buffers = dict(real.named_buffers())
    for name, buffer in bare.named_buffers():
        assert type(buffer) is torch.Tensor, name
        torch.testing.assert_close(buffer, buffers[name], rtol=0, atol=0, equal_nan=True)
    return sum(isinstance(weight, RandomWeight) for weight in ours.values())


def assert_law(name: str, weight: RandomWeight, real: torch.Tensor) -> None:
    law = law_of(weight)
    usual = (real.double() - law.mean).abs() <= OUTLIER * law.variance**0.5
    actual = measured_law(real[usual] if law.variance > 0 else real)
    error = STANDARD_ERRORS / math.sqrt(weight.numel()) + SAMPLE_NOISE
    assert law.mean == pytest.approx(actual.mean, abs=error * law.variance**0.5 + 1e-12), name
    spread = law.sample.square().std(correction=0).item()
    tolerance = error * max(spread, law.second_moment) + 1e-12
    assert law.second_moment == pytest.approx(actual.second_moment, abs=tolerance), name


@pytest.mark.parametrize("name", TIMM)
def test_laws_of_timm(name: str) -> None:
    assert assert_same(build_without_weights(_timm(name), at_least=AT_LEAST), _timm(name)()) > 5


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_laws_of_hugging_face(kind: str) -> None:
    factory = _hugging_face(kind)
    bare = build_without_weights(factory, at_least=AT_LEAST)
    assert assert_same(bare, factory()) > 3
    assert unknown_laws(bare) == []


def test_seventy_billion_parameters() -> None:
    config = transformers.LlamaConfig(
        vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_attention_heads=64, num_hidden_layers=80
    )
    model = build_without_weights(lambda: transformers.AutoModel.from_config(config))
    assert sum(p.numel() for p in model.parameters()) > 7e10
    assert laws_of(model)["layers.79.mlp.up_proj.weight"].second_moment == pytest.approx(config.initializer_range**2)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(64, 100),
    "attention": lambda: nn.MultiheadAttention(64, 4),
    "transformer": lambda: nn.TransformerEncoderLayer(64, 4, 128),
    "convolution": lambda: nn.Conv2d(16, 32, 3),
    "transposed convolution": lambda: nn.ConvTranspose1d(32, 48, 5),
    "embedding with padding": lambda: nn.Embedding(300, 64, padding_idx=7),
    "recurrent": lambda: nn.LSTM(64, 64, 2, bidirectional=True),
    "bilinear": lambda: nn.Bilinear(16, 16, 32),
    "norm over many entries": lambda: nn.LayerNorm((32, 64)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(64, 100)),
    "double precision": lambda: nn.Linear(64, 100, dtype=torch.float64),
    "cast": lambda: nn.Linear(64, 100).to(torch.bfloat16),
}


@pytest.mark.parametrize("name", MODULES)
def test_laws_of_torch_modules(name: str) -> None:
    assert_same(build_without_weights(MODULES[name], at_least=AT_LEAST), MODULES[name]())


def lazy() -> nn.Module:
    module = nn.LazyLinear(100)
    module(torch.zeros(2, 64))
    return module


def legacy() -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.Tensor(64, 100).normal_(0, 0.5))
    module.stacked = nn.Parameter(torch.stack([torch.randn(64, 100) * scale for scale in (1, 2)]))
    module.step = nn.Parameter(torch.exp(torch.rand(4000) * 4.6 - 6.9).clamp(min=1e-3))
    return module


@pytest.mark.parametrize("factory", [lazy, legacy])
def test_laws_of_other_ways_to_allocate(factory: Callable[[], nn.Module]) -> None:
    assert_same(build_without_weights(factory, at_least=AT_LEAST), factory())


def test_spectral_norm_is_computed_of_weights_that_are_then_drawn() -> None:
    module = build_without_weights(
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(64, 100)), at_least=AT_LEAST
    )
    weight = module.parametrizations.weight.original
    assert not isinstance(weight, RandomWeight)
    assert weight.square().mean().item() == pytest.approx(1 / 192, rel=0.1)
    assert torch.linalg.matrix_norm(module.eval().weight, 2).item() == pytest.approx(1.0, abs=0.05)


INITIALIZERS: dict[str, Callable[[torch.Tensor], object]] = {
    "normal": lambda w: nn.init.normal_(w, 0.3, 0.1),
    "kaiming uniform": lambda w: nn.init.kaiming_uniform_(w, a=5**0.5),
    "kaiming normal": lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "xavier": nn.init.xavier_uniform_,
    "xavier of each chunk": lambda w: [nn.init.xavier_uniform_(part) for part in w.chunk(3)],
    "truncated, rejected": lambda w: nn.init.trunc_normal_(w, std=0.5, a=-0.7, b=0.6),
    "truncated, far out": lambda w: nn.init.trunc_normal_(w, std=1, a=2, b=3),
    "orthogonal": lambda w: nn.init.orthogonal_(w, gain=1.7),
    "orthogonal, transposed": lambda w: nn.init.orthogonal_(w.t()),
    "sparse": lambda w: nn.init.sparse_(w, 0.3),
    "identity": nn.init.eye_,
    "dirac": lambda w: nn.init.dirac_(w[:, :, None]),
    "exponential": lambda w: w.exponential_(3).log_().neg_(),
    "data": lambda w: setattr(w, "data", nn.init.trunc_normal_(w.data.double(), std=0.2).to(w.dtype)),
    "real data": lambda w: setattr(w, "data", torch.arange(float(w.numel())).view_as(w)),
    "from numbers": lambda w: w.copy_(torch.linspace(-1, 1, w.numel()).view_as(w)),
    "product of two": lambda w: w.copy_(torch.randn_like(w) * torch.rand_like(w) + 1),
    "columns apart": lambda w: [nn.init.normal_(w[:, :20], std=3), nn.init.zeros_(w[:, 20:])],
    "row norms": lambda w: w.normal_().div_(w.norm(dim=1, keepdim=True)),
    "symmetric": lambda w: w.normal_().copy_((w[:48, :48] + w[:48, :48].T).repeat(2, 2)[: len(w), : w.shape[1]]),
    "boolean mask": lambda w: w.normal_().masked_fill_(torch.rand_like(w) < 0.5, 0.0),
    "mean of tensor": lambda w: w.copy_(torch.normal(torch.zeros_like(w), 0.4)),
    "in another dtype": lambda w: w.copy_(torch.randn(w.shape, dtype=torch.float64).half()),
}


class Initialized(nn.Module):
    def __init__(self, initializer: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(96, 80))
        with torch.no_grad():
            initializer(self.weight)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_laws_of_initializers(name: str) -> None:
    bare, real = (make(lambda: Initialized(INITIALIZERS[name])) for make in (_bare, lambda factory: factory()))
    law, actual = law_of(bare.weight), measured_law(real.weight)
    error = 6 * 2**0.5 / math.sqrt(96 * 80)
    assert law.mean == pytest.approx(actual.mean, abs=error * actual.variance**0.5 + 1e-9)
    assert law.second_moment == pytest.approx(actual.second_moment, rel=2 * error)
    drawn = bare.weight.draw() if isinstance(bare.weight, RandomWeight) else bare.weight
    assert drawn.detach().double().square().mean().item() == pytest.approx(actual.second_moment, rel=2 * error)


TRUNCATED: dict[str, tuple[Callable[[torch.Tensor], object], tuple[float, float, float, float]]] = {
    "torch, rejected": (lambda w: nn.init.trunc_normal_(w, 0.1, 0.5, -0.7, 0.6), (0.1, 0.5, -0.7, 0.6)),
    "torch, within one": (lambda w: nn.init.trunc_normal_(w, std=0.3, a=-0.3, b=0.3), (0.0, 0.3, -0.3, 0.3)),
    "torch, in a tail": (lambda w: nn.init.trunc_normal_(w, std=1, a=2, b=3), (0.0, 1.0, 2.0, 3.0)),
    "torch, far out": (lambda w: nn.init.trunc_normal_(w, std=0.02), (0.0, 0.02, -2.0, 2.0)),
    "timm": (lambda w: timm.layers.trunc_normal_(w, std=0.3, a=-0.3, b=0.5), (0.0, 0.3, -0.3, 0.5)),
    "timm, far out": (lambda w: timm.layers.trunc_normal_(w, std=0.02), (0.0, 0.02, -2.0, 2.0)),
    "timm, of units": (lambda w: timm.layers.trunc_normal_tf_(w, 0.1, 0.02), (0.1, 0.02, 0.06, 0.14)),
}


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_normals_have_the_moments_of_their_law(name: str) -> None:
    initializer, (mean, std, low, high) = TRUNCATED[name]
    law = law_of(_bare(lambda: Initialized(initializer)).weight)
    exact = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    assert law.mean == pytest.approx(exact.mean(), rel=1e-4, abs=1e-4 * std)
    assert law.variance == pytest.approx(exact.var(), rel=1e-4)
    assert law.second_moment == pytest.approx(exact.moment(2), rel=1e-4)


def _bare(factory: Callable[[], nn.Module]) -> nn.Module:
    return build_without_weights(factory, at_least=AT_LEAST)


class Buffers(nn.Module):
    """Tables that are computed from large allocations, and a weight that is tied to another."""

    def __init__(self) -> None:
        super().__init__()
        positions = torch.zeros(100, 64)
        positions[:, 0::2] = torch.sin(torch.arange(100.0)[:, None] * torch.arange(32))
        positions[:, 1::2] = torch.cos(torch.arange(100.0)[:, None] * torch.arange(32))
        self.register_buffer("positions", positions)
        self.register_buffer("mask", torch.full((100, 100), -math.inf).triu(1))
        self.register_buffer("ones", torch.tril(torch.ones(100, 100)))
        self.register_buffer("rotations", torch.outer(torch.arange(100.0), torch.arange(32.0)).cos())
        self.register_buffer("cache", torch.zeros(2, 100, 64))
        self.plain = torch.ones(100, 64) * 3
        self.embedding = nn.Embedding(200, 64, padding_idx=3)
        self.head = nn.Linear(64, 200, bias=False)
        self.head.weight = self.embedding.weight


def test_buffers_are_real_and_equal_and_ties_are_kept() -> None:
    bare = _bare(Buffers)
    assert_same(bare, Buffers())
    assert bare.head.weight is bare.embedding.weight
    assert isinstance(bare.head.weight, RandomWeight)


class Forgotten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(100, 100))
        self.cache = nn.Buffer(torch.empty(5))


class ForgottenInPart(Forgotten):
    """Small ones, real when they are built; the rest of the first is written to."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.weight)
        self.scale = nn.Parameter(torch.Tensor(7))
        nn.init.ones_(self.scale[:5])
        self.gain = nn.Parameter(torch.empty_like(self.scale, dtype=torch.bfloat16))
        self.lazy = nn.LazyLinear(3)


def test_an_unknown_law_is_a_sentence_that_names_the_parameter() -> None:
    model = nn.Sequential(nn.Linear(4, 4), _bare(Forgotten))
    assert unknown_laws(model) == ["1.weight"]
    with pytest.raises(UnknownLawError, match=r"the law of 1\.weight is unknown, .*initialize\(model, init\)"):
        require_known_laws(model)
    part = _bare(ForgottenInPart)
    assert unknown_laws(part) == ["scale", "gain"]
    assert not part.cache.any()


def test_laws_of_real_weights_are_measured_on_all_entries() -> None:
    model = nn.Linear(300, 200, dtype=torch.bfloat16)
    law = laws_of(model)["weight"]
    assert law.second_moment == pytest.approx(model.weight.double().square().mean().item(), rel=1e-12)
    assert len(law.sample) == 16_384
