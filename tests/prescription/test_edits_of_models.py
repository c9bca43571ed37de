"""The same edits of a model and of its description; what they do is undone bit for bit, and is the same elsewhere from a file."""

import pytest
import torch

from criticality.errors import ArgumentError
from criticality.models import ViTSpec, replace_norms
from criticality.prescription import apply_edits, apply_prescription, prescribe
from criticality.prescription.tune import tune
from criticality.theory import (
    Alpha,
    BranchGain,
    OtherNorm,
    Schedule,
    WeightGain,
    alphas_of,
    edited,
    read_edits,
    write_edits,
)

SMALL = ViTSpec("vit_tiny_patch16_224", norm="dyt", depth=2, width=48, image_size=32, init="fan-in")


def build():
    torch.manual_seed(0)
    return SMALL.build()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_and_its_description_are_edited_alike():
    edits = [Alpha(0.4), Alpha(0.7, 2), BranchGain(0.5, 1), WeightGain(1.2)]
    model, before = build(), state(build())
    applied = apply_edits(edits, model, SMALL.inputs(0))
    network = edited(SMALL.read(0)[0], edits)
    norms = [norm for block in model.blocks for norm in (block.norm1, block.norm2)]
    assert [float(norm.alpha) for norm in norms] == pytest.approx(alphas_of(network))
    assert float(model.norm.alpha) == pytest.approx(0.4)
    plain = SMALL.read(0)[0].sublayers[1].branch
    edited_branch = network.sublayers[1]
    for name, described, factor in (
        ("blocks.0.mlp.fc1.weight", edited_branch.branch.up.weight_variance / plain.up.weight_variance, 1.0),
        (
            "blocks.0.mlp.fc2.weight",
            edited_branch.branch.down.weight_variance / plain.down.weight_variance,
            edited_branch.scale,
        ),
    ):
        ratio = model.state_dict()[name] / before[name]
        assert float(ratio.square().mean()) == pytest.approx(described * factor**2, rel=1e-5)
    applied.undo()
    assert same(state(model), before)


def test_norms_and_schedules_are_edits_and_are_undone():
    model, before, batch = build(), state(build()), SMALL.inputs(0)
    applied = apply_edits([OtherNorm("derf", 0.8), Schedule(1.1)], model, batch)
    assert type(model.blocks[0].norm1).__name__ == "DynamicPointwise"
    assert "erf" in str(model.blocks[0].norm1)
    assert float(model.blocks[1].norm2.alpha) != pytest.approx(0.8)
    applied.undo()
    assert same(state(model), before)
    assert "tanh" in str(model.blocks[0].norm1)
    with pytest.raises(ArgumentError, match="at=9 must be the number of a norm of VisionTransformer, which has 4"):
        apply_edits([OtherNorm("derf"), Alpha(1.0, 9)], model, batch)
    assert same(state(model), before)
    assert "tanh" in str(model.blocks[0].norm1)


def test_a_prescription_is_applied_elsewhere_from_its_file(tmp_path):
    found = prescribe(*SMALL.read(0), target=0.5, kind="schedule", samples=4)
    kept = read_edits(write_edits(found.edits, tmp_path / "edits.json"))
    assert kept == found.edits
    one, other = build(), build()
    apply_prescription(found, one)
    apply_edits(kept, other)
    assert same(state(one), state(other))
    assert not same(state(one), state(build()))


def test_tuning_and_conversion_speak_in_edits():
    model, batch = build(), SMALL.inputs(0)
    tuned = tune(model, batch, 0.4, keep=True, max_passes=2)
    other = build()
    apply_edits(tuned.edits, other, batch)
    for name, value in state(other).items():
        torch.testing.assert_close(value, model.state_dict()[name])
    assert not same(state(other), state(build()))
    converted = build()
    edits = replace_norms(converted, "derf", {"*norm1": 0.3, "*": 0.6}).edits
    other = build()
    apply_edits(edits, other, batch)
    assert same(state(converted), state(other))
    assert len(edits) == 2
