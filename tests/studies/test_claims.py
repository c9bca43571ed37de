"""Every verdict can change: the same computations, fed with what breaks the claim."""

import importlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from criticality.cli.main import main
from criticality.models import ResidualNetwork
from criticality.phases import ZOO
from criticality.pointwise import Pointwise
from criticality.studies import claims
from criticality.studies.claims import CLAIMS, chosen_claims
from criticality.theory import LayerNorm, PointwiseNorm, make_norm

EXPECTED = {
    "orthogonality": "holds",
    "finite-width": "holds",
    "duality": "holds with limits",
    "classes": "holds",
    "boundedness": "fails",
    "alpha-class": "holds with limits",
    "alpha-amplifies": "holds",
    "small-alpha": "holds",
    "vit": "holds with limits",
    "training-stability": "not decided yet",
    "training-quality": "not decided yet",
}


def test_every_claim_of_the_plan_has_a_verdict():
    assert list(EXPECTED) == list(CLAIMS)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in EXPECTED if key != "boundedness"])
def test_verdicts_with_another_seed(key):
    outcome = CLAIMS[key].decide(7)
    assert outcome.verdict == EXPECTED[key], outcome.found


def test_a_branch_without_random_weights_is_not_orthogonal():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = [lambda x: x + torch.tanh(x)] * 3

    outcome = claims.orthogonality(0, lambda width: Tied(), widths=(32, 64, 128), seeds=3)
    assert outcome.verdict == "fails"
    assert (
        claims.orthogonality(0, lambda w: ResidualNetwork(w, 3, "derf"), widths=(32, 128, 512), seeds=8).verdict
        == "holds"
    )


def test_a_wrong_expansion_is_found_out():
    ratios = ((16, 128), (32, 128), (32, 64))
    assert claims.finite_width(1, ratios=ratios).verdict == "holds"
    assert claims.finite_width(1, lambda p, depth, width: 2 * depth / width / 3, ratios=ratios).verdict == "fails"


def test_a_wrong_derivative_breaks_duality():
    wrong = replace(
        ZOO["tanh"], derivative=lambda x: np.cosh(np.minimum(abs(x), 300)) ** -1.0, formula=None, verified=False
    )
    outcome = claims.duality(0, wrong, widths=(64, 128), seeds=2)
    assert (outcome.verdict, outcome.numbers["kernel_deviation"] > 0.01) == ("fails", True)


def test_a_norm_in_the_place_of_tanh_breaks_the_classes():
    assert claims.norms_against_functions(0, {"DyT": LayerNorm(epsilon=0.0)}).verdict == "fails"


def test_boundedness_would_hold_if_these_were_all_functions():
    assert claims.boundedness(0, [ZOO[name] for name in ("tanh", "erf", "identity", "sin")]).verdict == "holds"
    only_power = claims.boundedness(0, [ZOO["tanh"], ZOO["power0.8"]])
    assert (only_power.verdict, only_power.numbers["power_laws"]) == ("fails", 1)
    bumped = claims.boundedness(0, [claims._bumped_tanh()])
    assert (bumped.verdict, bumped.numbers["stretched_otherwise"]) == ("fails", 1)


def test_alpha_has_no_role_where_nothing_saturates():
    def linear(alpha):
        return PointwiseNorm(Pointwise("identity", alpha=alpha))

    assert claims.alpha_and_class(0, linear).verdict == "fails"
    assert claims.alpha_amplifies(0, lambda alpha: LayerNorm(epsilon=0.0)).verdict == "fails"


def test_small_alpha_costs_nothing_where_the_branch_keeps_its_size():
    def rescaled(alpha):
        return PointwiseNorm(Pointwise("tanh", alpha=alpha, gamma=1 / alpha))

    assert claims.small_alpha_costs(0, rescaled).verdict == "fails"


@pytest.mark.slow
def test_a_wrong_theory_does_not_pass_as_that_of_the_vit():
    def without_norms(network):
        return replace(
            network, sublayers=tuple(replace(part, norm=make_norm("dyt", 0.3)) for part in network.sublayers)
        )

    assert claims.vit_against_theory(0, without_norms, seeds=3).verdict == "fails"


def test_command_line(tmp_path):
    command = ["claims", "--only", "orthogonality,training-stability", "--out", str(tmp_path), "--json"]
    first = CliRunner().invoke(main, command)
    record = json.loads(first.stdout)["claims"]
    assert [r["verdict"] for r in record] == ["holds", "not decided yet"]
    page = (tmp_path / "claims.md").read_text()
    assert "Verdict: holds." in page
    assert "figures/orthogonality.png" in page
    assert (tmp_path / "figures" / "orthogonality.png").stat().st_size > 5_000
    stored = tmp_path / "data" / "orthogonality.json"
    marked = json.loads(stored.read_text()) | {"found": "kept"}
    stored.write_text(json.dumps(marked))
    again = json.loads(CliRunner().invoke(main, command).stdout)["claims"]
    assert again[0]["found"] == "kept"  # a finished claim is not computed again
    other_seed = json.loads(CliRunner().invoke(main, [*command, "--seed", "1"]).stdout)["claims"]
    assert other_seed[0]["found"] != "kept"
    stored.write_text('{"half')
    broken = CliRunner().invoke(main, command)
    assert broken.exit_code == 2
    assert "must be JSON of criticality claims" in broken.stderr
    unknown = CliRunner().invoke(main, ["claims", "--only", "nope"])
    assert unknown.exit_code == 2
    assert "claim 'nope' is unknown" in unknown.stderr
    with pytest.raises(ValueError, match="claim 'x' is unknown"):
        chosen_claims(["x"])


def test_the_page_in_the_docs_is_of_these_claims():
    """docs/claims is the output of `criticality claims`, whose verdicts the tests above repeat with another seed."""
    from pathlib import Path

    stored = json.loads((Path(__file__).parents[2] / "docs" / "claims" / "claims.json").read_text())
    assert {record["key"]: record["verdict"] for record in stored} == EXPECTED
    assert {record["key"]: record["statement"] for record in stored} == {c.key: c.statement for c in CLAIMS.values()}
    assert all(math.isfinite(value) for record in stored for value in record["numbers"].values())


def test_a_claim_on_trainings_is_read_again_when_these_have_gone_on(tmp_path, monkeypatch):
    verb = importlib.import_module("criticality.cli.claims")
    claim = CLAIMS["training-quality"]
    first = verb.claim_record(claim, 0, tmp_path)
    stored = tmp_path / "data" / "training-quality.json"
    stored.write_text(json.dumps(first | {"found": "kept"}))
    assert verb.claim_record(claim, 0, tmp_path)["found"] == "kept"
    monkeypatch.setattr(verb, "trainings_digest", lambda: "other packs")
    assert verb.claim_record(claim, 0, tmp_path)["found"] == first["found"]
