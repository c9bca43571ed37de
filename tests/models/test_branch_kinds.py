"""Norms by the branch that they belong to: seen in the data flow, set in models and in their descriptions alike."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from criticality.cli.main import main
from criticality.measurement import measure_ensemble
from criticality.models import DynamicPointwise, model_spec, replace_norms
from criticality.models.sites import norms_by_flow
from criticality.models.survey import survey
from criticality.prescription import apply_edits, prescribe
from criticality.prescription.sampled import prescribe_sampled
from criticality.theory import Alpha, AlphaGain, alphas_of, edited, propagate

VIT = {"depth": 2, "width": 64, "image_size": 32}
TEXT = {"depth": 2, "width": 64, "heads": 4}
KINDS = {
    "timm:vit_tiny_patch16_224": (VIT, {"norm1": "attention", "norm2": "mlp", "norm": "final"}),
    "hf:llama": (TEXT, {"input_layernorm": "attention", "post_attention_layernorm": "mlp", "norm": "final"}),
    "hf:bert": (TEXT, {"attention.output.LayerNorm": "attention", "layer.0.output.LayerNorm": "mlp"}),
    "hf:gemma2": (TEXT, {
        "post_attention_layernorm": "attention", "pre_feedforward_layernorm": "mlp", "post_feedforward_layernorm": "mlp"
    }),
    "hf:gpt_neox": (TEXT, {"input_layernorm": "attention", "post_attention_layernorm": "mlp"}),
    "hf:gptj": ({"depth": 1}, {"ln_1": "attention", "ln_f": "final"}),
    "hf:mixtral": (TEXT, {"input_layernorm": "attention", "post_attention_layernorm": "mlp"}),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_families(name):
    changes, expected = KINDS[name]
    description = model_spec(name, **changes)
    model = description.build()
    if name == "hf:mixtral":
        model.set_attn_implementation("eager")  # a softmax over tokens, beside that over experts
    branches = norms_by_flow(model, description.inputs(), survey(model).norms).branches
    for ending, kind in expected.items():
        found = {branches.get(norm) for norm in survey(model).norms if norm == ending or norm.endswith(f".{ending}")}
        assert found == {kind}, ending


LLAMA = {"norm": "dyt", "depth": 2, "width": 64, "heads": 4, "init": "fan-in"}
BY_KIND = {"attention": 0.8, "*": 0.2}


def test_a_description_and_its_model_have_the_same_alphas():
    mixed = model_spec("hf:llama", alpha=BY_KIND, **LLAMA)
    model = mixed.build()
    assert float(model.layers[1].input_layernorm.alpha) == pytest.approx(0.8)
    assert [float(one.alpha) for one in (model.layers[1].post_attention_layernorm, model.norm)] == pytest.approx(
        [0.2] * 2
    )
    network, kernels = mixed.read()
    assert alphas_of(network) == pytest.approx([0.8, 0.2] * 2)
    edits = [Alpha(0.8, "attention"), Alpha(0.2, "mlp"), Alpha(0.2, "final")]
    plain = model_spec("hf:llama", **LLAMA)
    changed = edited(plain.read()[0], edits)
    np.testing.assert_allclose(propagate(changed, kernels).log_apjn, propagate(network, kernels).log_apjn, atol=1e-6)
    other = plain.build()
    apply_edits(edits, other, plain.inputs())
    for name, module in model.named_modules():
        if hasattr(module, "alpha"):
            assert float(other.get_submodule(name).alpha) == float(module.alpha)


def test_gains_of_alphas_keep_their_ratio():
    mixed = model_spec("hf:llama", alpha=BY_KIND, **LLAMA)
    edits = [Alpha(0.3, 1), AlphaGain(2.0)]
    model = mixed.build()
    applied = apply_edits(edits, model, mixed.inputs())
    network = edited(mixed.read()[0], edits)
    expected = [1.6, 0.6, 1.6, 0.4]
    assert alphas_of(network) == pytest.approx(expected)
    assert [one.after for one in applied.changes] == pytest.approx([*expected, 0.4])
    applied.undo()
    assert float(model.norm.alpha) == pytest.approx(0.2)


def test_prescriptions_keep_their_ratio():
    mixed = model_spec("hf:llama", alpha=BY_KIND, **LLAMA)
    network, kernels = mixed.read()
    found = prescribe(network, kernels, 1.5, "alpha-scale")
    assert found.edits == (AlphaGain(found.value),)
    exact = float(propagate(edited(network, found.edits), kernels, samples=8).log_apjn[0])
    assert exact == pytest.approx(1.5, abs=0.02)
    sampled = prescribe_sampled(mixed.create, mixed.inputs(), 1.5, "alpha-scale", seeds=3, init="fan-in")
    assert sampled.value == pytest.approx(found.value, rel=0.3)
    attention, mlp, final = (edit.value for edit in (*sampled.edits[:2], sampled.edits[-1]))
    assert (attention / mlp, final / mlp, sampled.edits[-1].at) == (pytest.approx(4), pytest.approx(1), "final")


def test_patterns_and_kinds_of_one_model():
    def build():
        torch.manual_seed(0)
        return model_spec("timm:vit_tiny_patch16_224", **VIT).build()

    inputs = torch.randn(2, 3, 32, 32)
    mixed = replace_norms(build(), "dyt", {"blocks.0.*": 0.9, "mlp": 0.4, "*": 0.6}, inputs=inputs)
    assert [one.after.alpha.item() for one in mixed.replacements] == pytest.approx([0.9, 0.9, 0.6, 0.4, 0.6])
    assert len(replace_norms(build(), "dyt", only=["attention"], inputs=inputs).replacements) == 2
    with pytest.raises(ValueError, match="'mlp' is a kind of site that is seen in the data flow: give inputs="):
        replace_norms(build(), "dyt", {"mlp": 0.4, "*": 0.6})
    with pytest.raises(ValueError, match=r"alpha must have a pattern for norm 'norm', such as '\*'"):
        replace_norms(build(), "dyt", {"mlp": 0.4, "attention": 0.6}, inputs=inputs)
    with pytest.raises(ValueError, match="at='attention' of Alpha must be of a norm of Sequential"):
        apply_edits([Alpha(1.0, "attention")], nn.Sequential(Plain(), Plain()), torch.randn(2, 8))


def test_a_norm_that_is_called_as_a_kind_is_meant_by_its_name():
    model = nn.Sequential(Plain(), Plain())
    model.final, model.other = nn.LayerNorm(8), nn.LayerNorm(8)
    assert [one.name for one in replace_norms(model, "dyt", only=["final"]).replacements] == ["final"]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.weight = DynamicPointwise(8, "dyt", 1.0), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight(self.norm(x))


def test_the_embedding_is_scaled_in_theory_and_in_the_model():
    scaled, plain = (model_spec("hf:llama", alpha=1.0, embedding_scale=e, **LLAMA) for e in (50.0, None))
    network, kernels = scaled.read()
    assert float(kernels[0].mean_diagonal()) == pytest.approx(
        2500 * float(plain.read()[1][0].mean_diagonal()), rel=1e-6
    )
    found, expected = (
        measure_ensemble(lambda _: scaled.build(), scaled.inputs(), range(12)),
        propagate(network, kernels),
    )
    assert float(expected.log_apjn[0]) > 0.3
    assert np.all(abs(found.log_apjn - expected.sel(block=found.block).log_apjn) < 3 * found.log_apjn_se + 0.03)
    with pytest.raises(
        ValueError, match=r"embedding_scale=2\.0 must be left out: 'hf:convnextv2' has no token embeddings"
    ):
        model_spec("hf:convnextv2", embedding_scale=2.0).create("meta")


def test_command_line():
    def ran(*words):
        sizes = [] if "resnet" in words else ["--width", "64"]
        return CliRunner().invoke(main, [*words, "--depth", "1", *sizes, "--json"])

    mixed = json.loads(ran("predict", "hf:llama", "--norm", "dyt", "--alpha", "attention=0.8,*=0.2").stdout)
    assert mixed["alpha"] == {"attention": 0.8, "*": 0.2}
    scaled = json.loads(ran("predict", "hf:llama", "--norm", "dyt", "--embedding-scale", "8").stdout)
    assert scaled["q_profile"][0] == pytest.approx(64 * mixed["q_profile"][0])
    rows = json.loads(ran("convert", "hf:llama", "--alpha", "attention=0.8,mlp=0.4,final=1").stdout)["replaced"]
    assert [row["after"].rpartition("=")[2] for row in rows] == ["0.8)", "0.4)", "1)"]
    for words, message in (
        (("predict", "hf:llama", "--norm", "dyt", "--alpha", "attention=x,*=1"), "--alpha of 'attention'='x' must be"),
        (("predict", "hf:llama", "--norm", "dyt", "--alpha", "=1"), "--alpha='=1' must be a number, or pattern=number"),
        (("predict", "hf:llama", "--alpha", "mlp=1,*=1"), "must come with a pointwise norm"),
        (("predict", "resnet", "--alpha", "mlp=1"), "alpha={'mlp': 1.0} must be a finite number"),
    ):
        refused = ran(*words)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
