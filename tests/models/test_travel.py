"""Converted models go where others go: pickled, exported, traced, saved and loaded again, and give the same numbers."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from criticality.models import DynamicPointwise, HuggingFaceSpec, load_pretrained, replace_norms
from criticality.models.functions import TORCH_FUNCTIONS
from criticality.pointwise import FUNCTIONS, ZOO, Pointwise, get_function, pointwise_function


class Mixer(nn.Module):
    """A stream of tokens, mixed along both axes."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.along = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.across = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, x):
        for n in range(2):
            x = x + self.along[n](self.norms[2 * n](x).transpose(1, 2)).transpose(1, 2)
            x = x + torch.relu(self.across[n](self.norms[2 * n + 1](x)))
        return x


NORMS = {"norms.0": "dyt", "norms.1": "derf", "norms.2": "gelu", "norms.3": "smoothsign"}
X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mixer():
    """With a norm of each way in which ``DynamicPointwise`` computes."""
    torch.manual_seed(0)
    model = Mixer().eval()
    for place, norm in NORMS.items():
        replace_norms(model, norm, 0.7, only=[place])
    return model


def ways(model, batch):
    """What torch makes of a model, by the name of the way."""
    from torch.fx.experimental.proxy_tensor import make_fx

    exported = torch.export.export(model, (X[:2],), dynamic_shapes=({0: batch},))
    yield "export", exported.module()
    yield "lowered", exported.run_decompositions().module()
    yield "make_fx", make_fx(model, tracing_mode="symbolic", _allow_non_fake_inputs=True)(X)
    yield "fx", torch.fx.symbolic_trace(model)
    yield "pickle", pickle.loads(pickle.dumps(model))
    yield "copy", copy.deepcopy(model)
    yield "trace", (traced := torch.jit.trace(model, X))
    torch.jit.save(traced, file := io.BytesIO())
    file.seek(0)
    yield "traced and saved", torch.jit.load(file)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning:torch", "ignore::DeprecationWarning"
)  # torch's own: jit is deprecated
def test_what_torch_makes_of_a_converted_model_gives_the_same(mixer):
    expected = mixer(X)
    for way, again in ways(mixer, torch.export.Dim("batch", min=2, max=64)):
        torch.testing.assert_close(again(X), expected, msg=lambda text, way=way: f"{way}: {text}")
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert mixer(mode.from_tensor(X)).shape == expected.shape
    with pytest.raises(ValueError, match=r"by torch.export.export, or recorded by torch.jit.trace"):
        torch.jit.script(mixer)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own, of its older way
def test_onnx_gives_the_same(dynamo, mixer, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    with torch.no_grad():
        torch.onnx.export(mixer, (X,), tmp_path / "model.onnx", dynamo=dynamo, verbose=False, input_names=["x"])
        (found,) = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx")).run(None, {"x": X.numpy()})
        np.testing.assert_allclose(found, mixer(X).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["dyt", "gelu", "rms", "none"])
@pytest.mark.parametrize("first", [True, False])
def test_an_encoder_of_torch_never_fuses_another_norm(norm, first):
    """In evaluation mode torch runs a kernel of its own, on nested tensors where a mask says what is padding."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: norm_first has no nested tensors
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=first), 2
        )
    switches = [vars(module).copy() for module in encoder.modules()]
    conversion = replace_norms(encoder, norm, 0.5 if norm in ("dyt", "gelu") else None)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    for mask in (None, padding):
        trained = encoder.train()(X, src_key_padding_mask=mask)
        with torch.inference_mode():
            run = encoder.eval()(X, src_key_padding_mask=mask)
        real = slice(None) if mask is None else ~padding
        torch.testing.assert_close(run[real], trained.detach()[real])
    conversion.undo()
    assert [vars(module) for module in encoder.train().modules()] == switches
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=first)
    replace_norms(layer, norm, 0.5 if norm in ("dyt", "gelu") else None)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        nn.TransformerEncoder(layer, 2).eval()(X, src_key_padding_mask=padding)  # copies of a layer converted before


def softsign(x):
    return x / (1 + np.abs(x))


def test_functions_and_their_moments_pickle():
    names = [*FUNCTIONS, *ZOO, "dyt", "derf"]
    assert set(TORCH_FUNCTIONS) <= {*names}
    x = np.linspace(-3, 3, 7)
    for name in names:
        for function in (name, get_function(name)):
            pointwise = Pointwise(function, alpha=0.7, beta=0.1)
            again = pickle.loads(pickle.dumps(pointwise))
            assert again == pointwise
            np.testing.assert_array_equal(again(x), pointwise(x))
        module = DynamicPointwise(4, name, 0.3)
        torch.testing.assert_close(pickle.loads(pickle.dumps(module))(X[..., :4]), module(X[..., :4]))
    own = pointwise_function(softsign)
    again = pickle.loads(pickle.dumps(own))
    np.testing.assert_array_equal(again.derivative(x), own.derivative(x))


def llama(kind="LlamaForCausalLM"):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=64
    )
    torch.manual_seed(0)
    return getattr(transformers, kind)(config).eval()


IDS = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(0))


def drawn(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("norm", ["derf", "gelu", "ln", "none"])
def test_a_model_of_transformers_is_saved_and_loaded_as_it_is(norm, tmp_path):
    model = llama()
    alpha = {"*.input_layernorm": 0.8, "*": 0.3} if norm in ("derf", "gelu") else None
    replace_norms(model, norm, alpha)
    expected = drawn(model)(IDS).logits
    model.save_pretrained(tmp_path)
    again, told = load_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not any(told.values())
    torch.testing.assert_close(again(IDS).logits, expected, rtol=0, atol=0)
    assert str(again) == str(model)
    body = load_pretrained(tmp_path, type(model.model))  # without its head
    torch.testing.assert_close(body(IDS)[0], model.model(IDS)[0], rtol=0, atol=0)


def test_what_a_config_says_of_its_norms(tmp_path):
    model = llama()
    first = replace_norms(model.model, "dyt", 0.5)  # a part that shares the config
    after = model.config.to_json_string()
    replace_norms(model, "rms").undo()
    assert model.config.to_json_string() == after
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(load_pretrained(tmp_path)(IDS).logits, model(IDS).logits, rtol=0, atol=0)
    built = HuggingFaceSpec(str(tmp_path)).create()  # by its folder, with random weights
    assert str(built.norm) == str(model.model.norm)
    with pytest.raises(ValueError, match="depth must be left out without a norm"):
        HuggingFaceSpec(str(tmp_path), depth=4)
    assert str(HuggingFaceSpec(str(tmp_path), norm="derf", alpha=1.0, depth=1).create().norm).count("erf") == 1
    first.undo()
    assert "criticality" not in model.config.to_json_string()
    with pytest.raises(ValueError, match="must be a folder with a checkpoint"):
        load_pretrained(tmp_path / "nothing")
