"""Whether two dataclasses hold the same numbers."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest


def assert_close(value, other, rel, tolerance=1e-12):
    """Numbers and arrays within ``rel`` or ``tolerance``, also in dataclasses of dataclasses; all else the same."""
    assert type(value) is type(other)
    if is_dataclass(value):
        for field in fields(value):
            assert_close(getattr(value, field.name), getattr(other, field.name), rel, tolerance)
    elif isinstance(value, np.ndarray):
        np.testing.assert_allclose(value, other, rtol=rel, atol=tolerance)
    else:
        assert value == (pytest.approx(other, rel=rel, abs=tolerance) if isinstance(value, float) else other)
