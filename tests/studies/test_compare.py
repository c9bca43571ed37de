"""Theory over measurement for real vision transformers: the main job."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from criticality.measurement import measure_ensemble
from criticality.models import ViTSpec
from criticality.pointwise import Pointwise
from criticality.schema import read_dataset, write_dataset
from criticality.studies.agreement import LARGEST_TOLERANCE, fold_errors, standard_errors, tolerance_of
from criticality.studies.compare import Comparison, compare, steps_per_case, summary
from criticality.theory import MLP, Attention, HeadNorm, Linear, Network, Parallel, make_norm, propagate, transformer

TINY = {"depth": 2, "width": 64, "image_size": 64, "seeds": 2, "samples": 4}


@pytest.mark.slow
@pytest.mark.parametrize(("init", "alpha"), [("own", 2.0), ("fan-in", 1.0)])
def test_theory_agrees_with_measurement_at_every_layer(init, alpha, tmp_path):
    """The acceptance of the library: depth 24, width 384, real photographs, 0.10 and three standard errors at most.

    ``make demo`` is the same for more values of alpha and four times the tokens."""
    comparison = Comparison(
        "timm:vit_base_patch16_224",
        norms=("ln", "dyt", "derf"),
        alphas=(alpha,),
        inits=(init,),
        image_size=112,
        depth=24,
        width=384,
        seeds=4,
        samples=8,
    )
    result = compare(comparison, tmp_path)
    for case in summary(result)["cases"]:
        assert case["verdict"] == "agrees", case
    assert bool((result.deviation <= LARGEST_TOLERANCE + 3 * result.log_apjn_se).all())
    # A constant or a chance agreement would not do: the profiles are far apart and resolved.
    pointwise = result.isel(case=result.norm.values != "ln")
    assert float(pointwise.log_apjn_se.max()) < 0.1
    assert float(pointwise.log_apjn_measured[:, 0].min()) > 20 * float(pointwise.log_apjn_se[:, 0].min())


@pytest.mark.slow
def test_the_class_token_makes_the_step_at_the_input_of_layer_norm(tmp_path):
    """At the input the theory of equivalent tokens is off by far; the token kernels are not."""
    comparison = Comparison(
        "timm:vit_base_patch16_224", norms=("ln",), depth=12, width=384, image_size=112, seeds=8, probes=2
    )
    case = compare(comparison, tmp_path).isel(case=0)
    measured, error = float(case.log_apjn_measured[0]), float(case.log_apjn_se[0])
    assert abs(float(case.log_apjn_predicted[0]) - measured) <= 0.03 + 3 * error
    assert measured - float(case.log_apjn_symmetric[0]) > 6 * error


@pytest.mark.slow
def test_the_scatter_between_seeds_falls_as_one_over_the_root_of_the_width():
    """The theory is of infinite width: log J of one network differs from it by O(1/sqrt(width))."""

    def scatter(width):
        description = ViTSpec(
            "vit_base_patch16_224", norm="dyt", alpha=2.0, init="fan-in", depth=3, width=width, image_size=64
        )
        measured = measure_ensemble(lambda _: description.build(), description.inputs(), range(40))
        return float(measured.log_apjn_se[0]) * np.sqrt(40)

    assert 1.4 < scatter(64) / scatter(256) < 2.8


@pytest.mark.parametrize("probe", ["normal", "pooled", "class", "loss"])
def test_gradients_of_every_start_are_compared_with_their_own_theory(probe, tmp_path):
    """One gradient at all tokens grows most; the head of this model reads the class token, so that a loss starts there."""
    settings = {"norms": ("dyt",), "alphas": (1.0,), "inits": ("fan-in",), "depth": 3, "width": 128, "image_size": 64}
    model = "timm:vit_tiny_patch16_224"
    case = compare(Comparison(model, seeds=6, samples=16, probe=probe, **settings), tmp_path).isel(case=0)
    away = abs(case.log_apjn_measured - case.log_apjn_predicted)
    assert np.all(away < 3 * case.log_apjn_se + 0.05)
    assert json.loads((tmp_path / "summary.json").read_text())["probe"] == probe
    description = ViTSpec("vit_tiny_patch16_224", "dyt", 1.0, init="fan-in", depth=3, width=128, image_size=64)
    network, kernels = description.read()
    other = {"normal": "pooled", "pooled": "normal", "class": "pooled", "loss": "pooled"}[probe]
    wrong = propagate(network, kernels, samples=16, probe=other).log_apjn.values[::2]
    assert abs(float(case.log_apjn_measured[0]) - wrong[0]) > 0.3 + 3 * float(case.log_apjn_se[0])


def test_fold_errors():
    """By hand: five blocks before the last, split 2, 2, 1; noise alone is ``exp`` of the mean absolute value of a normal error."""
    values = {"log_apjn_measured": [1.2, 0.9, 0.5, 0.1, 0.2, 0.0], "log_apjn_predicted": [1.0, 1.0, 0.5, 0.3, 0.1, 0.0]}
    case = xr.Dataset({name: ("block", np.array(row)) for name, row in values.items()})
    case["log_apjn_se"] = ("block", np.array([0.1, 0.3, 0.0, 0.2, 0.4, 0.0]))
    found = fold_errors(case)
    assert found["gmfe"] == pytest.approx(np.exp(0.6 / 5))
    assert list(found["gmfe_thirds"].values()) == pytest.approx(np.exp([0.15, 0.1, 0.1]))
    expected = np.exp(np.sqrt(2 / np.pi) * np.array([0.2, 0.1, 0.4]))
    assert list(found["gmfe_thirds_of_noise"].values()) == pytest.approx(expected)
    draws = np.random.default_rng(0).normal(0, 0.2, 200_000)
    assert np.exp(np.abs(draws).mean()) == pytest.approx(np.exp(np.sqrt(2 / np.pi) * 0.2), rel=1e-3)


def _run(folder, progress=None, workers=1, **changes):
    settings = {"model": "timm:vit_tiny_patch16_224", "norms": ("ln", "dyt"), "alphas": (0.5, 1.0), **TINY, **changes}
    return compare(Comparison(**settings), folder, progress, workers=workers)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small comparison, made in two processes, and its folder, which tests that change it copy."""
    folder = tmp_path_factory.mktemp("comparison")
    steps = []
    result = _run(folder, lambda label, count: steps.append((label, count)), workers=2)
    assert steps == [(str(label), TINY["seeds"] + 1) for label in result.case.values]
    return folder, result


def test_files_are_complete_and_readable(finished):
    folder, result = finished
    stored = read_dataset(folder / "result.nc")
    xr.testing.assert_equal(stored, result)
    record = json.loads((folder / "summary.json").read_text())
    assert [(c["norm"], c["alpha"], c["init"]) for c in record["cases"]] == [
        ("ln", None, "own"),
        ("dyt", 0.5, "own"),
        ("dyt", 1.0, "own"),
    ]
    for case in record["cases"]:
        for name in ("log_apjn_predicted", "log_apjn_measured", "log_apjn_se"):
            assert len(case[name]) == 3
        assert case["verdict"] in ("agrees", "deviates")
        deviation = np.abs(np.subtract(case["log_apjn_predicted"], case["log_apjn_measured"]))
        assert case["largest_deviation"] == pytest.approx(deviation.max())
        assert case["gmfe"] == pytest.approx(np.exp(deviation[:-1].mean()))
        assert {*case["gmfe_thirds"]} == {*case["gmfe_thirds_of_noise"]} == {"shallow", "middle", "deep"}


class _Interrupt:
    """Ctrl-C after so many steps."""

    def __init__(self, after):
        self.left = after

    def __call__(self, label, steps):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupt_keeps_finished_cases_and_a_rerun_resumes(tmp_path, finished):
    per_case = TINY["seeds"] + 1
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, _Interrupt(per_case + 2))
    assert read_dataset(tmp_path / "result.nc").sizes["case"] == 1
    assert len(json.loads((tmp_path / "summary.json").read_text())["cases"]) == 1
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cases").glob("*.nc")}
    steps = []
    resumed = _run(tmp_path, lambda label, count: steps.append((label, count)))
    assert steps[0] == ("ln own", per_case)  # taken over, not computed
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in files.items())
    xr.testing.assert_identical(resumed, finished[1])


def test_one_seed_leaves_the_verdict_open_and_is_another_case(tmp_path, finished):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    result = _run(tmp_path, seeds=1)
    assert {case["verdict"] for case in summary(result)["cases"]} == {"unknown"}
    assert len(list((tmp_path / "cases").glob("*.nc"))) == 6


def test_other_seeds_are_other_cases(tmp_path, finished):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    _run(tmp_path, norms=("ln",), seed=5)
    assert len(list((tmp_path / "cases").glob("*.nc"))) == 4


def test_a_wrong_theory_is_found_out(finished):
    result = finished[1]
    shifted = result.assign(deviation=result.deviation + 5.0)
    assert {case["verdict"] for case in summary(shifted)["cases"]} == {"deviates"}


def test_a_corrupt_file_is_named_and_kept(tmp_path, finished):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "cases").glob("ln*.nc"))
    path.write_bytes(b"not a result")
    with pytest.raises(ValueError, match=r"result file .*ln.* must be a NetCDF file of criticality"):
        _run(tmp_path)
    assert path.read_bytes() == b"not a result"


def test_foreign_and_missing_files_are_refused(tmp_path):
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="must have the schema 1 of criticality; its schema is none"):
        read_dataset(tmp_path / "foreign.nc")
    with pytest.raises(ValueError, match="must exist, and does not"):
        read_dataset(tmp_path / "none.nc")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_dataset(xr.Dataset({"a": ("x", [1.0])}), tmp_path / "r.nc")
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError)):
        write_dataset(xr.Dataset({"a": ("x", np.array([object()], dtype=object))}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds=0 of Comparison must be a whole number, 1 or above"),
        ({"norms": ()}, r"norms=\(\) must hold at least one"),
        ({"norms": ("nope",)}, "norm 'nope' is unknown"),
        ({"alphas": (0.5, -1.0)}, r"alphas\[1\]=-1.0 of Comparison must be a finite number above 0"),
        ({"inits": ("he",)}, "init 'he' is unknown"),
        ({"model": "resnet18"}, "must be given as 'timm:NAME'"),
        ({"samples": 3}, "samples=3 of Comparison must be an even number"),
        ({"device": "tpu9"}, "device='tpu9' must be a device that torch has here"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _run(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_steps_of_a_case():
    assert steps_per_case(Comparison("timm:vit_tiny_patch16_224", seeds=5)) == 6


FAMILIES = {
    "timm:deit_tiny_distilled_patch16_224": {"image_size": 112},
    "timm:eva02_tiny_patch14_224": {"image_size": 112},
    "hf:gpt2": {"width": 256},
    "hf:llama": {"width": 256},
    "hf:mistral": {"width": 256},
    "hf:qwen2": {"width": 256},
    "hf:qwen3": {"width": 256},
    "hf:vit": {"width": 256, "image_size": 112},
}


def verdicts(model, folder, norms, init, depth, **changes):
    asked = Comparison(model, norms, (1.0,), (init,), depth=depth, seeds=4, samples=8, **changes)
    return {case["norm"]: case["verdict"] for case in summary(compare(asked, folder))["cases"]}


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_families_agree(model, tmp_path):
    """As they are, and with DyT at fan-in weights: at their own, log J of DyT is below what agreement allows."""
    assert verdicts(model, tmp_path, ("own",), "own", 6, **FAMILIES[model]) == {"own": "agrees"}
    assert verdicts(model, tmp_path, ("dyt",), "fan-in", 6, **FAMILIES[model]) == {"dyt": "agrees"}


@pytest.mark.slow
def test_derf_in_the_post_norm_of_bert_is_seen_to_miss(tmp_path):
    found = verdicts("hf:bert", tmp_path, ("own", "dyt", "derf"), "own", 12, width=256)
    assert found == {"own": "agrees", "dyt": "agrees", "derf": "deviates"}


@pytest.mark.slow
def test_scores_of_order_one_need_random_scores(tmp_path):
    """A Llama of width 256 whose initializer keeps sigma_Q sigma_K of width 4096: against it, uniform attention is off."""
    config = {
        "model_type": "llama",
        "hidden_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 688,
        "initializer_range": 0.02 * (4096 / 256) ** 0.5,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    comparison = Comparison(f"hf:{tmp_path}", norms=("own",), inits=("own",), seeds=8, samples=8)
    case = compare(comparison, tmp_path / "out").isel(case=0)
    description = comparison.cases()[0]
    network, kernels = description.read()
    assert network.sublayers[0].branch.score_variance > 1
    uniform = Network(
        tuple(
            replace(s, branch=replace(s.branch, scores="uniform")) if isinstance(s.branch, Attention) else s
            for s in network.sublayers
        ),
        2,
    )
    off = propagate(uniform, kernels).sel(block=case.block)
    gaussian_miss = float(abs(case.log_apjn_predicted - case.log_apjn_measured).max())
    uniform_miss = float(abs(off.log_apjn - case.log_apjn_measured).max())
    assert uniform_miss > 3 * gaussian_miss
    assert uniform_miss > 0.3


def test_tolerances_are_of_what_is_known():
    """The two at which they were found, in proportion to depth over width, never above the largest; more errors for few seeds."""
    small = transformer(make_norm("ln"), Attention(Linear(1e-3), Linear(1e-3)), MLP(Pointwise("gelu")), 24)
    large = transformer(make_norm("ln"), Attention(), MLP(Pointwise("gelu")), 24)
    normed = HeadNorm(gamma=3.0)
    qk = Attention(Linear(1e-3), Linear(1e-3), head_dim=8, query_norm=normed, key_norm=normed)
    assert tolerance_of(small, 384, 24) == pytest.approx(0.03, abs=1e-6)
    assert tolerance_of(large, 384, 24) == pytest.approx(0.10)
    assert tolerance_of(None, 768, 24) == pytest.approx(0.05)
    assert tolerance_of(transformer(make_norm("ln"), Parallel((qk,)), Linear(), 1), 768, 24) == pytest.approx(0.05)
    assert tolerance_of(large, 64, 96) == LARGEST_TOLERANCE
    assert [standard_errors(n) for n in (1, 6, 16, 1000)] == pytest.approx([3.0, 4.032, 3.0, 3.0], abs=1e-3)
