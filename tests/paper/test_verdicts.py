"""The verdicts on converged trainings follow the trainings: each rule is seen to hold, to hold with limits and to fail."""

import numpy as np
import pytest

from claim.evidence import PLAN, converged, progress_of
from claim.training_quality import decide as quality
from claim.training_stability import decide as stability
from criticality.studies.training import read_trainings
from made_up import factorial, falls_with_log_apjn, made_up, plan_in_which, stable_rates_fall


def test_stability():
    assert stability(0, plan_in_which()).verdict == "holds"
    assert stability(0, plan_in_which(log_stable=lambda a, t: -2.0)).verdict == "fails"
    assert (
        stability(0, plan_in_which(log_stable=lambda a, t: -4.5 - stable_rates_fall(a, t))).verdict == "fails"
    )  # it rises
    without = stability(0, plan_in_which(left_out=("vit_alpha",)))
    assert (without.verdict, "not trained yet" in without.found) == ("holds with limits", True)
    for name in ("factorial_16", "factorial_64", "vit_alpha"):
        elsewhere = {name: (falls_with_log_apjn, lambda a, t: -4.5 - stable_rates_fall(a, t))}
        assert stability(0, plan_in_which(other=elsewhere)).verdict == "holds with limits", name


def test_quality_and_whether_it_is_alpha():
    assert quality(0, plan_in_which()).verdict == "holds"
    assert quality(0, plan_in_which(quality=lambda a, t: 0.8)).verdict == "fails"
    alpha = quality(0, plan_in_which(quality=lambda a, t: 0.9 - 0.02 * a))
    assert alpha.verdict == "fails"
    assert alpha.numbers["of_α_at_equal_log_J_high"] < 0
    mostly_alpha = quality(0, plan_in_which(quality=lambda a, t: 0.9 - 0.1 * np.log(a / 0.2) - 0.03 * np.log(t)))
    assert mostly_alpha.verdict == "holds with limits"
    turned = {"long_32": (lambda a, t: 0.7 + 0.01 * t, stable_rates_fall)}  # trained on, the order is another
    unconverged = quality(0, plan_in_which(other=turned))
    assert (unconverged.verdict, unconverged.numbers["converged"] < 0) == ("holds with limits", True)


@pytest.mark.parametrize("decide", [stability, quality])
def test_nothing_is_decided_before_the_studies_are_complete(decide):
    outcome = decide(0, plan_in_which(left_out=("factorial_64",)))
    assert outcome.verdict == "not decided yet"
    cells, planned = (480, 662) if decide is quality else (360, 542)
    assert f"Not decided yet: {cells} of about {planned} cells" in outcome.found
    assert outcome.numbers["so_far"] < -0.9
    empty = decide(0, {})
    assert (empty.verdict, empty.numbers["cells"], "so_far" in empty.numbers) == ("not decided yet", 0, False)


def test_the_plan_counts_what_its_files_hold():
    from pathlib import Path

    from criticality.sweeps.study import read_study

    folder = Path(__file__).parents[2] / "docs" / "studies" / "training"
    for name, planned in PLAN.items():
        study = read_study(folder / f"{name}.yaml")
        assert planned.of_choices == len(study.cases), name
        assert planned.of_cells == round((6.5 if study.search else 3) * len(study.cases)), name
    assert str(progress_of({}, list(PLAN))).startswith("0 of about 881 cells (0 of 143 choices)")


def test_quality_is_compared_over_the_choices_in_common():
    short = read_trainings(made_up(factorial(falls_with_log_apjn)))
    assert converged(short, read_trainings(made_up(factorial(falls_with_log_apjn)[:8]))) > 0.95
    with pytest.raises(ValueError, match="three choices in common"):
        converged(short, read_trainings(made_up(factorial(falls_with_log_apjn, alphas=(5.0,)), depth=64)))
