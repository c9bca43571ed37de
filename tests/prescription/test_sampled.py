"""Prescriptions for models that the exact theory does not describe, measured on models with real weights."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
import xarray as xr
from click.testing import CliRunner
from torch import Tensor, nn

from criticality.cli.main import main
from criticality.errors import InputsError
from criticality.measurement import measure_ensemble
from criticality.models import replace_norms
from criticality.prescription import apply_prescription
from criticality.prescription.sampled import SampledPrescription, SampledTheory, prescribe_sampled
from criticality.prescription.solve import Kind
from criticality.weightless import predict_sampled

WIDTH = 128


class Mixer(nn.Module):
    """``x + W relu(fft(V norm(x)))``, which no branch of the exact theory is."""

    def __init__(self, norm: type[nn.Module]):
        super().__init__()
        self.norm = norm(WIDTH)
        self.into, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        for layer in (self.into, self.out):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.fft.fft(self.into(self.norm(x)), dim=1, norm="ortho").real.relu())


def _own(norm: str | None = None) -> nn.Module:
    model = nn.Sequential(*(Mixer(nn.RMSNorm) for _ in range(4)), nn.RMSNorm(WIDTH))
    if norm is not None:
        replace_norms(model, norm)
    return model


def _inputs() -> Tensor:
    return torch.randn(2, 8, WIDTH, generator=torch.Generator().manual_seed(5))


def _measured(build, found: SampledPrescription, inputs, seeds: int = 8) -> xr.Dataset:
    def prescribed(seed: int) -> nn.Module:
        model = build()
        apply_prescription(found, model, inputs)
        return model

    return measure_ensemble(prescribed, inputs, range(seeds))


def _hits(measured: xr.Dataset, found: SampledPrescription) -> bool:
    """Within three standard errors, those of the seeds that were solved with among them."""
    error = (float(measured.log_apjn_se[0]) ** 2 + found.log_apjn_fresh_se**2) ** 0.5
    assert error < 0.15 * found.target
    return abs(float(measured.log_apjn[0]) - found.target) < 3 * error + 0.02


@pytest.mark.parametrize(
    ("kind", "norm", "target"),
    [("constant", "dyt", 1.0), ("schedule", "dyt", 1.0), ("branch-scale", None, 0.5), ("gain", "dyt", 1.0)],
)
def test_the_measured_model_hits_the_target(kind: Kind, norm: str | None, target: float) -> None:
    build = partial(_own, norm)
    found, curve = prescribe_sampled(build, _inputs(), target, kind)
    assert found.log_apjn == pytest.approx(target, abs=0.01)
    assert abs(found.log_apjn_before - target) > 0.2
    assert abs(found.log_apjn_fresh - target) < 4 * found.log_apjn_fresh_se + 0.05
    assert _hits(_measured(build, found, _inputs()), found)
    assert [row["log_apjn"] for row in curve] == sorted(row["log_apjn"] for row in curve)


def test_what_is_tried_is_put_back() -> None:
    theory = SampledTheory(partial(_own, "dyt"), _inputs(), [3])
    before = theory.as_it_is().log_apjn
    for kind in ("constant", "schedule", "branch-scale", "gain"):
        assert abs(theory.at(kind, 0.5).log_apjn - before) > 0.01
        assert theory.as_it_is().log_apjn == pytest.approx(before, abs=1e-5)


def test_a_mamba_with_a_pointwise_norm() -> None:
    def build() -> nn.Module:
        config = transformers.MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=64, state_size=4)
        model = transformers.MambaModel(config)
        replace_norms(model, "dyt")
        return model

    ids = {"input_ids": torch.randint(0, 64, (2, 4), generator=torch.Generator().manual_seed(0))}
    found, _ = prescribe_sampled(build, ids, 1.0, "schedule", seeds=4)
    assert len(found.alphas) == 2
    assert _hits(_measured(build, found, ids), found)


def test_the_reference_with_layer_norm() -> None:
    found, _ = prescribe_sampled(partial(_own, "dyt"), _inputs(), "preln", "constant", reference=partial(_own, "ln"))
    reference = predict_sampled(partial(_own, "ln"), _inputs(), 4)
    assert found.target == pytest.approx(float(reference.log_apjn[0]), abs=0.05)
    assert found.log_apjn == pytest.approx(found.target, abs=0.01)
    with pytest.raises(InputsError, match="target='preln' must be a number"):
        prescribe_sampled(partial(_own, "dyt"), _inputs(), "preln")


def test_what_is_refused() -> None:
    with pytest.raises(InputsError, match="pointwise norms"):
        prescribe_sampled(_own, _inputs(), 1.0, "constant")
    with pytest.raises(InputsError, match="kind='all'"):
        prescribe_sampled(_own, _inputs(), 1.0, "all")  # type: ignore[arg-type]
    with pytest.raises(InputsError, match="target='much'"):
        prescribe_sampled(_own, _inputs(), "much", "gain")
    with pytest.raises(InputsError, match="at least one seed"):
        SampledTheory(_own, _inputs(), [])


def test_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "prescription.json"
    asked = [
        "prescribe",
        "hf:mamba",
        "--depth",
        "2",
        "--tokens",
        "4",
        "--norm",
        "dyt",
        "--target",
        "2",
        "--seeds",
        "1",
        "--json",
    ]
    result = CliRunner().invoke(main, [*asked, "--out", str(out)])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert json.loads(out.read_text()) == record
    assert (record["way"], record["seeds"], len(record["alphas"])) == ("sampled", 1, 2)
    assert record["log_apjn"] == pytest.approx(2.0, abs=0.02)
    assert [change["what"] for change in record["changes"]] == ["alpha"] * 3
    refused = CliRunner().invoke(main, [*asked, "--target", "share=0.5"])
    assert refused.exit_code != 0
    assert "target='share=0.5' must be a log J" in refused.stderr
