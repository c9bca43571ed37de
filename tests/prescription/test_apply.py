"""Prescriptions on real models, by theory and by data, and the tuning of models that the theory does not know."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from criticality.cli.main import main
from criticality.measurement import measure, measure_ensemble
from criticality.models import ResidualNetwork, ViTSpec, gaussian_inputs, model_spec
from criticality.pointwise import Pointwise
from criticality.prescription import (
    apply_prescription,
    planned_changes,
    power_law,
    prescribe,
    schedule_from_data,
)
from criticality.prescription.apply import block_norms, final_norms
from criticality.prescription.tune import tune
from criticality.studies.check import _norms
from criticality.theory import MLP, Network, Normed, Parallel, Sublayer, make_norm


def vit(**changes):
    settings = {"norm": "dyt", "alpha": 1.0, "depth": 6, "width": 192, "image_size": 64, "init": "fan-in", **changes}
    return ViTSpec("vit_base_patch16_224", **settings)


def built(description, seed=0):
    torch.manual_seed(seed)
    return description.build()


@pytest.mark.parametrize("kind", ["constant", "schedule", "branch-scale", "gain"])
def test_what_is_set_is_what_was_predicted(kind):
    """The prescribed model, read again, has the log J that was prescribed."""
    description = vit()
    found = prescribe(*description.read(0), 1.2, kind)
    model = built(description)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    planned = planned_changes(found, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # a dry run
    applied = apply_prescription(found, model)
    assert [(c.name, c.after) for c in planned] == [(c.name, c.after) for c in applied.changes]
    measured = measure_ensemble(lambda seed: _prescribed(description, found), description.inputs(), range(6), probes=2)
    assert float(measured.log_apjn[0]) == pytest.approx(1.2, abs=0.1 + 3 * float(measured.log_apjn_se[0]))
    applied.undo()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def _prescribed(description, found):
    model = description.build()
    apply_prescription(found, model)
    return model


def test_theory_and_data_set_the_same_alphas():
    description = vit(depth=12)
    found = prescribe(*description.read(0), 2.0, "schedule")
    by_data = []
    for seed in range(6):
        applied = schedule_from_data(built(description, seed), description.inputs(), found.value)
        by_data.append([change.after for change in applied.changes])
    mean, error = np.mean(by_data, axis=0), np.std(by_data, axis=0, ddof=1) / np.sqrt(6)
    by_theory = [*found.alphas, found.final_alpha]
    assert np.all(np.abs(mean - by_theory) < 4 * error + 0.01 * np.array(by_theory))


def test_alphas_from_data_are_those_of_the_stream_they_make():
    model = built(vit())
    batch = vit().inputs()
    schedule_from_data(model, batch, 0.7)
    q = measure(model, batch).q.values
    first = [module.alpha.item() for name, module in block_norms(model) if name.endswith("norm1")]
    np.testing.assert_allclose(first, 0.7 / np.sqrt(q[:-1]), rtol=1e-5)
    assert final_norms(model)[0][1].alpha.item() == pytest.approx(0.7 / np.sqrt(q[-1]), rel=1e-5)


def test_a_pass_that_fails_leaves_the_model_as_it_was():
    model = built(vit())
    with torch.no_grad():
        model.blocks[3].mlp.fc1.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"norm 'blocks\.4\.norm1' must see a finite stream"):
        schedule_from_data(model, vit().inputs(), 0.7)
    assert {module.alpha.item() for _, module in block_norms(model)} == {1.0}
    with pytest.raises(ValueError, match="c=0 must be a finite number above 0"):
        schedule_from_data(model, vit().inputs(), 0)


def test_models_that_do_not_fit_are_refused():
    found = prescribe(*vit().read(0), 1.2, "schedule")
    with pytest.raises(
        ValueError, match="must have the 12 pointwise norms that the prescription was made for, and has 8"
    ):
        apply_prescription(found, built(vit(depth=4)))
    with pytest.raises(ValueError, match="must have pointwise norms in its blocks, and has none"):
        apply_prescription(found, built(vit(norm="ln", alpha=None)))


@pytest.mark.parametrize("name", ["hf:gpt2", "hf:llama", "hf:bert"])
def test_hugging_face(name):
    description = model_spec(name, norm="derf", alpha=1.0, depth=3, width=128, init="fan-in")
    network, inputs = description.read(0)
    found = prescribe(network, inputs, 0.5 if name != "hf:bert" else 0.2, "constant")
    model = built(description)
    changes = apply_prescription(found, model).changes
    assert sum(change.what == "alpha" for change in changes) >= 6
    assert {round(module.alpha.item(), 5) for _, module in block_norms(model)} == {round(found.value, 5)}


class Mixer(nn.Module):
    """A block that the theory does not read: its tokens are mixed by a convolution."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.act = nn.SiLU()
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        return x + self.proj(self.act(self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)))


def mixers(depth=6, width=128):
    torch.manual_seed(0)
    model = nn.Module()
    model.blocks = nn.ModuleList(Mixer(width) for _ in range(depth))
    model.forward = lambda x: [x := block(x) for block in model.blocks][-1]
    return model


def test_tuning_hits_its_target():
    model, inputs = mixers(), gaussian_inputs(32, 128, 0)
    before = float(measure(model, inputs).log_apjn[0])
    found = tune(model, inputs, 2.0, max_passes=10)
    assert found.converged, found.reason
    assert abs(before - 2.0) > 0.5
    after = np.mean([float(measure(model, inputs, seed=seed).log_apjn[0]) for seed in range(8)])
    assert after == pytest.approx(2.0, abs=0.3)
    assert found.passes <= 6
    assert found.gains.min() > 1  # it was too calm before


def test_tuning_names_weights_that_blocks_share():
    model, inputs = mixers(depth=3, width=16), gaussian_inputs(4, 16, 0)
    model.blocks[2].proj.weight = model.blocks[0].proj.weight
    shared = "'blocks.0.proj.weight' is one tensor for blocks 0, 2"
    with pytest.raises(ValueError, match=shared):
        tune(model, inputs, 2.0)
    with pytest.raises(ValueError, match=shared):
        tune(model, inputs, 2.0, layers=["proj"])


def test_tuning_stops_honestly():
    model = mixers(depth=3)
    found = tune(model, gaussian_inputs(32, 128, 0), [0.001, 3.0, 0.001], tolerance=0.001, max_passes=2, probes=8)
    assert not found.converged
    assert "after 2 passes" in found.reason
    with torch.no_grad():
        model.blocks[1].proj.weight.zero_()
    dead = tune(model, gaussian_inputs(32, 128, 0), 2.0)
    assert not dead.converged
    assert "adds nothing that a gain could change" in dead.reason
    for target, message in (
        (-1.0, "target=-1.0"),
        ([1.0], "for each of 3 blocks"),
        ([1.0, 0.0, 1.0], "above 0"),
        (10**400, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            tune(model, gaussian_inputs(32, 128, 0), target)
    with pytest.raises(ValueError, match="layers='proj' must match a layer of block 0"):
        tune(ResidualNetwork(32, 2), gaussian_inputs(4, 32, 0), 1.0, layers=["proj"])
    found = tune(ResidualNetwork(256, 2), gaussian_inputs(16, 256, 0), 0.4)
    assert found.converged
    assert found.moved == ("blocks.0.linear.weight", "blocks.1.linear.weight")
    spread, layers = power_law(2, 0.4), lambda block: [("linear", block.linear)]
    named = tune(ResidualNetwork(256, 2), gaussian_inputs(16, 256, 0), spread, layers=layers)
    assert named.converged
    np.testing.assert_array_equal(named.target, found.target)


def test_power_law_is_that_of_layer_norm():
    """x + W LN(x): chi_l = (l + 2) / (l + 1), log J = log(L + 1)."""
    np.testing.assert_allclose(power_law(20, np.log(21)), np.log((np.arange(20) + 2) / (np.arange(20) + 1)))


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


SMALL = ("--depth", 4, "--width", 128, "--image-size", 64)


def test_prescribe_on_the_command_line(tmp_path):
    path, out = tmp_path / "weights.safetensors", tmp_path / "prescription.json"
    command = ["prescribe", "timm:vit_base_patch16_224", "--norm", "dyt", "--init", "fan-in", *SMALL, "--target", "1.0"]
    result = run(*command, "--json", "--apply", path, "--out", out, "--verify", 3)
    record = json.loads(result.stdout)
    assert record["log_apjn"] == pytest.approx(1.0, abs=0.011)
    assert abs(record["log_apjn_measured"] - 1.0) < 0.15 + 3 * record["log_apjn_measured_se"]
    assert len(record["changes"]) == 9
    weights = load_file(path)
    assert weights["blocks.2.norm1.alpha"].item() == pytest.approx(record["alphas"][4])
    assert json.loads(out.read_text())["value"] == record["value"]
    by_data = json.loads(run(*command, "--json", "--from-data").stdout)
    assert by_data["changes"][0]["after"] == pytest.approx(record["changes"][0]["after"], rel=0.1)
    share = json.loads(run(*command[:-1], "share=0.5", "--json").stdout)
    assert share["branch_share"] == pytest.approx(0.5, abs=0.05)
    for arguments, message in [
        ([*command[:-1], "nope"], "target='nope' must be a log J above 0"),
        ([*command[:-1], "share=x"], "target='share=x' must be share="),
        ([*command, "--kind", "gain", "--from-data"], "kind='gain' must be 'schedule' with --from-data"),
        (["prescribe", "timm:vit_base_patch16_224", *SMALL, "--kind", "constant"], "must have pointwise norms"),
    ]:
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_check_on_the_command_line(tmp_path):
    loud = run("check", "timm:vit_base_patch16_224", "--norm", "derf", "--alpha", 4, "--init", "fan-in", *SMALL)
    assert loud.exit_code == 1
    assert len(loud.stdout.strip().splitlines()) <= 20
    assert "EXCEEDED" in loud.stdout
    assert "stretched exponential" in loud.stdout
    assert "alpha_l = " in loud.stdout
    assert run("check", "timm:vit_base_patch16_224", *SMALL).exit_code == 0  # LayerNorm is the reference
    record = json.loads(
        run("check", "timm:vit_base_patch16_224", "--norm", "dyt", "--alpha", 1, *SMALL, "--json").stdout
    )
    assert record["within_budget"] is True
    tight = run("check", "timm:vit_base_patch16_224", *SMALL, "--budget", "0.01", "--json")
    assert tight.exit_code == 1
    assert "branches x" in json.loads(tight.stdout)["prescription"]
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "class Block(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.proj = nn.Linear(64, 64)\n\n"
        "    def forward(self, x):\n"
        '        return x + self.proj(torch.fft.fft(x, norm="ortho").real)\n\n\n'
        "def build():\n"
        "    return nn.Sequential(nn.Identity()) if False else Net()\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.blocks = nn.Sequential(*(Block() for _ in range(3)))\n\n"
        "    def forward(self, x):\n"
        "        return self.blocks(x)\n\n\n"
        "def inputs(model):\n"
        "    return torch.randn(2, 4, 64)\n"
    )
    without = run("check", f"module:{path}:build", "--json")
    record = json.loads(without.stdout)
    assert record["source"].startswith("measured")
    assert record["budget"] == pytest.approx(np.log(4) + 0.5)  # three blocks of x + W LN(x)
    assert record["budget_of"].endswith("must have a LayerNorm or RMSNorm to replace, and has none")
    assert without.exit_code == (0 if record["within_budget"] else 1)


def test_check_names_norms_that_parallel_branches_have():
    branches = (Normed(make_norm("dyt", alpha), MLP(Pointwise("relu"))) for alpha in (0.5, 2.0))
    assert _norms(Network((Sublayer(Parallel(tuple(branches))),))) == "tanh, alpha 0.5 to 2; pre-norm"


def test_check_of_a_causal_model_names_its_phase():
    """Tokens are told apart: its blocks are repeated in the exact theory, as a power law for norms that see every scale."""
    record = json.loads(run("check", "hf:llama", "--depth", 2, "--width", 64, "--tokens", 8, "--json").stdout)
    assert record["source"] == "theory"
    assert record["phase"].startswith("power law, J ~ L^")
    assert record["phase"].endswith("seen by repeating its blocks to depth 192")
    assert record["within_budget"] is True
