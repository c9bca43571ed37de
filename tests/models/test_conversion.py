"""Norms are swapped in place, faithfully or not at all."""

import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from criticality.models import DynamicPointwise, model_spec, replace_norms, write_weights

MODELS = {
    "timm:vit_tiny_patch16_224": {"depth": 2, "width": 64, "image_size": 32},
    "timm:deit3_small_patch16_224": {"depth": 2, "width": 64, "image_size": 32},
    "timm:eva02_tiny_patch14_224": {"depth": 2, "width": 64, "image_size": 28},
    "hf:gpt2": {"depth": 2, "width": 64, "heads": 4},
    "hf:llama": {"depth": 2, "width": 64, "heads": 4},
    "hf:qwen3": {"depth": 2, "width": 64, "heads": 4},
    "hf:bert": {"depth": 2, "width": 64, "heads": 4},
    "hf:vit": {"depth": 2, "width": 64, "heads": 4, "image_size": 32},
}


def run(model, inputs):
    output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return getattr(output, "last_hidden_state", output)


@pytest.mark.parametrize("norm", ["dyt", "derf", "rms"])
@pytest.mark.parametrize("name", MODELS)
def test_every_family_is_converted_and_restored(name, norm):
    description = model_spec(name, **MODELS[name])
    model = description.build().eval()
    inputs = description.inputs()
    before, state = run(model, inputs), {key: value.clone() for key, value in model.state_dict().items()}
    conversion = replace_norms(model, norm, 0.7 if norm != "rms" else None)
    assert len(conversion.replacements) >= 4
    left = [
        n
        for n, m in model.named_modules()
        if "norm" in type(m).__name__.lower() and not n.endswith(("q_norm", "k_norm"))
    ]
    assert norm == "rms" or not [n for n in left if not isinstance(model.get_submodule(n), nn.Identity)]
    after = run(model, inputs)
    assert torch.isfinite(after).all()
    assert norm == "rms" or not torch.allclose(after, before)  # Llama's are RMSNorms already
    assert len(str(conversion).splitlines()) == len(conversion.replacements)
    conversion.undo()
    assert model.state_dict().keys() == state.keys()
    torch.testing.assert_close(run(model, inputs), before)


def test_parameters_device_dtype_and_mode_are_kept():
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.LayerNorm(6, elementwise_affine=False)).double().eval()
    nn.init.normal_(model[1].weight)
    weight, bias = model[1].weight, model[1].bias
    replace_norms(model, "derf", 0.5)
    assert model[1].weight is weight
    assert model[1].bias is bias
    assert model[1].alpha.dtype == torch.float64
    assert not model[1].training
    assert model[2].weight is None
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(model[1](x), torch.erf(0.5 * x) * weight + bias)
    torch.testing.assert_close(model[2](x), torch.erf(0.5 * x))


def test_names_are_those_of_the_published_code():
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    replace_norms(model, "derf", 0.5)
    names = ("alpha", "shift", "weight", "bias")
    assert sorted(model.state_dict()) == sorted(f"{i}.{name}" for i in (0, 1) for name in names)


def test_pointwise_norms_are_replaced_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    replace_norms(model, "dyt", 0.5)
    weight = model[1].weight
    replace_norms(model, "derf", 2.0)
    assert (model[1].function, model[1].initial_alpha) == ("erf", 2.0)
    replace_norms(model, "ln")
    assert isinstance(model[1], nn.LayerNorm)
    assert model[1].weight is weight


def test_a_shared_norm_stays_shared():
    norm = nn.LayerNorm(4)
    model = nn.ModuleDict({"a": norm, "b": nn.ModuleDict({"c": norm})})
    replace_norms(model, "dyt")
    assert model["a"] is model["b"]["c"]


def test_images_with_channels_first():
    from timm.layers import LayerNorm2d

    model = nn.Sequential(nn.Conv2d(3, 8, 1), LayerNorm2d(8))
    replace_norms(model, "dyt", 0.3)
    x = torch.randn(2, 8, 5, 4)
    nn.init.normal_(model[1].weight)
    expected = torch.tanh(0.3 * x) * model[1].weight[:, None, None] + model[1].bias[:, None, None]
    torch.testing.assert_close(model[1](x), expected)
    torch.testing.assert_close(model[1](x.contiguous(memory_format=torch.channels_last)), expected)


class GemmaRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))


@pytest.mark.parametrize(
    ("model", "norm", "message"),
    [
        (
            nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4)),
            "dyt",
            "norm '1' must be a LayerNorm or RMSNorm, but is a Batch",
        ),
        (nn.Sequential(nn.GroupNorm(2, 4)), "dyt", "norm '0' must be a LayerNorm or RMSNorm, but is a GroupNorm"),
        (nn.Sequential(nn.LayerNorm((3, 4))), "dyt", "norm '0' must act on one axis of channels"),
        (nn.Sequential(GemmaRMSNorm()), "dyt", "scales by 1 + weight"),
        (nn.Sequential(nn.Linear(2, 2)), "dyt", "model Sequential must have a LayerNorm or RMSNorm to replace"),
        (nn.LayerNorm(4), "dyt", "model must contain its norms"),
        (nn.Sequential(nn.LayerNorm(4)), "nope", "norm 'nope' is unknown"),
        (nn.Sequential(nn.LayerNorm(4)), "ln2", "norm 'ln2' is unknown"),
    ],
)
def test_what_cannot_be_replaced_is_refused_and_nothing_changes(model, norm, message):
    before = str(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        replace_norms(model, norm)
    assert str(model) == before


def test_weights_are_written_whole(tmp_path):
    model = model_spec("hf:gpt2", **MODELS["hf:gpt2"]).build()
    replace_norms(model, "derf", 0.5)
    path = write_weights(model, tmp_path / "w.safetensors")
    stored = load_file(path)
    assert stored.keys() == model.state_dict().keys()
    assert torch.equal(stored["h.0.ln_1.alpha"], model.h[0].ln_1.alpha)
    assert isinstance(model.h[0].ln_1, DynamicPointwise)


def test_norms_of_queries_and_keys_as_wide_as_the_stream_are_found_in_the_data_flow():
    changes = {"depth": 1, "width": 64, "heads": 4, "tokens": 4}
    description = model_spec("hf:olmo2", **changes)
    kept = ("layers.0.self_attn.q_norm", "layers.0.self_attn.k_norm")
    plain = description.build()
    conversion = replace_norms(plain, "dyt", inputs=description.inputs())
    assert {one.name for one in conversion.kept} == {*kept}
    model = model_spec("hf:olmo2", **changes, norm="dyt").build()
    assert not any(isinstance(model.get_submodule(name), DynamicPointwise) for name in kept)
    assert isinstance(model.layers[0].post_attention_layernorm, DynamicPointwise)
    open_by_shape = replace_norms(description.build(), "dyt")
    assert all("seen with inputs" in one.note for one in open_by_shape.replacements if one.name in kept)


class Called(nn.Module):
    """Norms that are functions, or modules that are in no module, beside one that is."""

    def __init__(self, plain):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.plain = [nn.LayerNorm(8) for _ in range(3)] if plain else None
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = x + layer(self.plain[number](x) if self.plain else functional.layer_norm(x, (8,)))
        return self.norm(x)


@pytest.mark.parametrize("plain", [False, True])
def test_norms_of_the_stream_that_are_no_modules_are_said_to_be_left(plain):
    x = torch.randn(2, 3, 8)
    found = replace_norms(Called(plain), "dyt", inputs=x)
    assert [one.name for one in found.replacements] == ["norm"]
    assert [str(one) for one in found.kept] == [
        f"'after layers.{number}': layer_norm kept, as it is a call and no module" for number in range(3)
    ]
    with pytest.raises(ValueError, match=r"norm at 'after layers.0' must be a module, and is a call of layer_norm"):
        replace_norms(Called(plain), "dyt", inputs=x, strict=True)


def test_what_is_converted_under_inference_mode_can_be_trained():
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
    with torch.inference_mode():
        replace_norms(model, "dyt")
    model(torch.randn(2, 8)).sum().backward()
    assert model[0].alpha.grad is not None


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_models_that_cannot_be_changed_yet_or_any_more_are_refused():
    scripted = torch.jit.script(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)))
    for model, said in (
        (scripted, "must be the one that torch.jit made it of"),
        (nn.Sequential(nn.LayerNorm(8), nn.LazyLinear(8)), "parameter '1.weight' must have a shape"),
    ):
        with pytest.raises(ValueError, match=said):
            replace_norms(model, "dyt")
