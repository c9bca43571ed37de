"""Every verdict can change: the same computations, fed with what breaks the claim."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

import claims
from claim import CLAIMS, boundedness, duality, finite_width, orthogonality
from claims import chosen_claims, claim_record, main
from criticality.cli.main import main as criticality
from criticality.models import ResidualNetwork
from criticality.phases import ZOO

DOCS = Path(__file__).parents[2] / "docs"
SECONDS_LONG = ("vit",)
BREAKERS = [
    pytest.param(breaker, id=f"{key}: {breaker.what}", marks=[pytest.mark.slow] if key in SECONDS_LONG else [])
    for key, claim in CLAIMS.items()
    for breaker in claim.breakers
]


FEWER = {"vit": {"seeds": 3}, "finite-width": {"seeds": 60}}
"""Than the page has: what a verdict asks for is in standard errors."""


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in CLAIMS if key != "boundedness"])
def test_verdicts_with_another_seed(key):
    outcome = CLAIMS[key].decide(7, **FEWER.get(key, {}))
    assert outcome.verdict == CLAIMS[key].verdict, outcome.found


@pytest.mark.parametrize("breaker", BREAKERS)
def test_what_breaks_a_claim_changes_its_verdict(breaker):
    assert breaker.decide(0).verdict == breaker.verdict


def test_every_claim_can_be_broken():
    for claim in CLAIMS.values():
        assert {breaker.verdict for breaker in claim.breakers} - {claim.verdict}


def test_other_random_networks_are_orthogonal_too():
    found = orthogonality.decide(0, lambda w: ResidualNetwork(w, 3, "derf"), widths=(32, 128, 512), seeds=8)
    assert found.verdict == "holds"


def test_the_right_expansion_passes_where_a_wrong_one_does_not():
    assert finite_width.decide(1, ratios=((16, 128), (32, 128), (32, 64))).verdict == "holds"


def test_a_wrong_derivative_is_seen_in_the_kernel():
    outcome = duality.decide(0, duality.wrong_derivative(), widths=(64, 128), seeds=2)
    assert outcome.numbers["kernel_deviation"] > 0.01


def test_each_kind_of_exception_to_boundedness_counts():
    only_power = boundedness.decide(0, [ZOO["tanh"], ZOO["power0.8"]])
    assert (only_power.verdict, only_power.numbers["power_laws"]) == ("fails", 1)
    bumped = boundedness.decide(0, [boundedness.bumped_tanh()])
    assert (bumped.verdict, bumped.numbers["stretched_otherwise"]) == ("fails", 1)


def test_command_line(tmp_path):
    command = ["--only", "orthogonality,training-stability", "--out", str(tmp_path), "--json"]
    first = CliRunner().invoke(main, command)
    record = json.loads(first.stdout)["claims"]
    assert [r["verdict"] for r in record] == ["holds", "fails"]
    page = (tmp_path / "claims.md").read_text()
    assert "Verdict: holds." in page
    assert "What would change the verdict:* branches x + tanh(x), without random weights (*fails*)." in page
    assert "figures/orthogonality.png" in page
    assert (tmp_path / "figures" / "orthogonality.png").stat().st_size > 5_000
    stored = tmp_path / "data" / "orthogonality.json"
    marked = json.loads(stored.read_text()) | {"found": "kept"}
    stored.write_text(json.dumps(marked))
    again = json.loads(CliRunner().invoke(main, command).stdout)["claims"]
    assert again[0]["found"] == "kept"  # a finished claim is not computed again
    other = ["--only", "orthogonality", *command[2:], "--seed", "1"]
    other_seed = json.loads(CliRunner().invoke(main, other).stdout)["claims"]
    assert other_seed[0]["found"] != "kept"
    stored.write_text('{"half')
    broken = CliRunner().invoke(main, command)
    assert broken.exit_code == 2
    assert "must be JSON of the claims" in broken.stderr
    unknown = CliRunner().invoke(main, ["--only", "nope"])
    assert unknown.exit_code == 2
    assert "claim 'nope' is unknown" in unknown.stderr
    with pytest.raises(ValueError, match="claim 'x' is unknown"):
        chosen_claims(["x"])


def test_the_verb_of_earlier_versions_names_its_successor():
    moved = CliRunner().invoke(criticality, ["claims", "--only", "vit"])
    assert moved.exit_code == 2
    assert moved.stderr.count("\n") == 1
    assert "python examples/paper/claims.py" in moved.stderr


def test_the_page_in_the_docs_is_of_these_claims():
    """docs/claims is the output of examples/paper/claims.py, whose verdicts the tests above repeat with another seed."""
    stored = json.loads((DOCS / "claims" / "claims.json").read_text())
    assert {r["key"]: r["verdict"] for r in stored} == {c.key: c.verdict for c in CLAIMS.values()}
    assert {r["key"]: r["statement"] for r in stored} == {c.key: c.statement for c in CLAIMS.values()}
    assert all(math.isfinite(value) for record in stored for value in record["numbers"].values())


def test_a_claim_on_trainings_is_read_again_when_these_have_gone_on(tmp_path, monkeypatch):
    claim = CLAIMS["training-quality"]
    first = claim_record(claim, 0, tmp_path)
    stored = tmp_path / "data" / "training-quality.json"
    stored.write_text(json.dumps(first | {"found": "kept"}))
    assert claim_record(claim, 0, tmp_path)["found"] == "kept"
    monkeypatch.setattr(claims, "trainings_digest", lambda: "other packs")
    assert claim_record(claim, 0, tmp_path)["found"] == first["found"]
