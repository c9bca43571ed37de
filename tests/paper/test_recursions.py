"""The source's recursions, written again, give the source's numbers; and the table that compares with them is what is stored."""

import numpy as np
import pytest

import deep
import make_recursions
from criticality.theory import SymmetricKernel, propagate
from draw_initial import gmfe, log_mean
from folds import view
from recursions import paper, post
from vision import network


@pytest.mark.parametrize(
    ("alpha", "strengths", "depth", "log_j"),
    [
        (None, (0.09437184, 0.37748736), 64, 2.36123863274),
        (None, (1.50994944, 0.37748736), 1000, 4.86885383791),
        (0.5, (0.09437184, 0.37748736), 128, 3.0601446196),
        (1.0, (1.50994944, 6.03979776), 64, 14.8027949814),
    ],
)
def test_the_papers_recursion(alpha, strengths, depth, log_j):
    """``source_numbers.json``, ``attention_cases``: from another recursion than this."""
    assert paper(alpha, *strengths, depth, 197, (1.0, 0.03))[0] == pytest.approx(log_j, abs=1e-9)


@pytest.mark.parametrize(("alpha", "log_j"), [(None, 3.04342978054), (0.5, 4.03814118835), (1.9, 12.6212335164)])
def test_the_second_posts_recursion(alpha, log_j):
    """``source_numbers.json``, ``part2``."""
    assert post(alpha, 0.64**4, 4 * 0.64**4, 128, 197, (1.0, 0.4), 0.64**4)[0] == pytest.approx(log_j, abs=1e-9)


def test_where_scores_do_not_matter_the_library_says_the_same():
    """Weak weights and many tokens: what the recursions leave out is small."""
    tokens, sigma = 5000, 0.3
    ours = propagate(network("derf", 1.0, 16, sigma), SymmetricKernel.of(1.0, 0.4, tokens)).log_apjn.values[::2]
    theirs = paper(1.0, sigma**4, 4 * sigma**4, 16, tokens, (1.0, 0.4))
    assert np.allclose(ours, theirs, atol=2e-5)
    assert not np.allclose(ours, 1.01 * theirs, atol=2e-5)


def test_fold_error_and_mean():
    values = {"measured": [1.0, 0.5, 0.2, 0.0], "tokens": [1.2, 0.4, 0.2, 0.0]}
    assert gmfe(values, "tokens", 0) == pytest.approx(np.exp(0.1))
    assert gmfe(values, "tokens", 1) == pytest.approx(np.exp(0.05))
    mean, error = log_mean(np.log([1.0, 3.0]))
    assert (mean, error) == (pytest.approx(np.log(2)), pytest.approx(0.5))


def test_inputs_are_different_views():
    first, again, other = view(0), view(0), view(2)
    assert first.equal(again)
    assert not first.equal(other)
    assert first.shape == (1, 3, 96, 96)


def test_the_table_is_what_is_stored():
    page = make_recursions.PAGE.read_text()
    assert make_recursions.written() in page, "python examples/paper/make_recursions.py writes it"
    assert page.count(f"Derf, α = {deep.ALPHAS[-1]:g} |") == 1
