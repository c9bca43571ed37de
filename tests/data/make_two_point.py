"""Write two_point.json, the two-point moments that tests compare with: ``python tests/data/make_two_point.py``.

mpmath's nested tanh-sinh quadrature (``tests/mpmath_reference.py``), about half an hour on one core.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mpmath as mp

sys.path.insert(0, str(Path(__file__).parents[1]))
from mpmath_reference import FUNCTIONS, two_point

CASES = [
    (1e-12, 1e-12, 0.5),
    (1e-6, 1e-2, -0.9),
    (0.3, 0.3, 0.0),
    (1.0, 1.0, 0.5),
    (1.0, 1.0, -0.999999),
    (2.0, 0.7, 0.9),
    (100.0, 100.0, 0.99),
    (1e4, 1e4, -0.3),
    (1e4, 1.0, 0.999),
    (1e8, 1e8, 1 - 1e-9),
    (1e12, 1e-6, 0.7),
    (1e12, 1e12, 0.1),
]


def main() -> None:
    rows = []
    for name in FUNCTIONS:
        if name in ("identity", "relu"):
            continue
        for q_a, q_b, rho in CASES:
            value, slope = (two_point(function, q_a, q_b, rho) for function in FUNCTIONS[name])
            rows.append({"function": name, "q_a": q_a, "q_b": q_b, "rho": rho, "C": float(value), "Cd": float(slope)})
            print(rows[-1], flush=True)
    text = {"made_by": f"tests/data/make_two_point.py with mpmath {mp.__version__}, 20 digits", "rows": rows}
    Path(__file__).with_name("two_point.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
