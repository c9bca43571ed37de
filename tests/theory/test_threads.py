"""Small matrices are multiplied by one thread, and the process has its own number of threads again afterwards."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from criticality.theory import Attention, Network, Sublayer, TokenKernel, propagate, propagation


def of_blas():
    """Of NumPy's: SciPy may have loaded one of its own."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return {library["num_threads"] for library in libraries if len(libraries) == 1 or "numpy" in library["filepath"]}


@pytest.mark.parametrize(("tokens", "inside"), [(3, {1}), (600, {2})])
def test_a_prediction_of_few_tokens_takes_one_thread(tokens, inside, monkeypatch):
    seen, token_pass = [], propagation._token_pass
    monkeypatch.setattr(propagation, "_token_pass", lambda *a: seen.append(of_blas()) or token_pass(*a))
    with threadpool_limits(2, "blas"):
        propagate(Network((Sublayer(Attention(scores="uniform")),)), TokenKernel.of(np.eye(tokens)))
        assert of_blas() == {2}
    assert seen == [inside]
