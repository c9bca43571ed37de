"""The quotients of polynomials in ``criticality.models.dynamic``: ``phi(u) = u P(u^2) / Q(u^2)``, least largest relative error.

Linearized least squares in Chebyshev polynomials of ``u^2``, the weights moved to where the error is (Lawson); prints the table.
"""

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from numpy.polynomial.chebyshev import chebvander
from scipy.special import erf

NODES, ROUNDS = 4000, 60

FITS = {"tanh": (np.tanh, 7.9, 4, 4), "erf": (erf, 3.6, 5, 5)}
"""Function, bound, degrees of P and Q in ``u^2``."""


def fit(function, bound, top, bottom):
    """Coefficients from the highest power down, and the largest relative error."""
    u = bound * 0.5 * (1 - np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES))
    wanted, z = function(u) / u, 2 * (u / bound) ** 2 - 1
    above, below = chebvander(z, top), chebvander(z, bottom)
    weights, denominator, best = np.ones(NODES), np.ones(NODES), (np.inf, None)
    for _ in range(ROUNDS):
        scale = np.sqrt(weights) / (wanted * denominator)
        system = np.concatenate([above, -wanted[:, None] * below[:, 1:]], axis=1) * scale[:, None]
        found = np.linalg.lstsq(system, wanted * scale, rcond=None)[0]
        denominator = below @ np.concatenate([[1], found[top + 1 :]])
        error = abs(above @ found[: top + 1] / denominator / wanted - 1)
        best = min(best, (error.max(), found), key=lambda pair: pair[0])
        weights *= (error / error.max() + 1e-3) ** 0.7
        weights /= weights.max()
    error, found = best
    parts = (found[: top + 1], np.concatenate([[1], found[top + 1 :]]))
    powers = [Chebyshev(part, domain=[0, bound**2]).convert(kind=Polynomial).coef[::-1] for part in parts]
    return powers[0] / powers[1][-1], powers[1] / powers[1][-1], error


if __name__ == "__main__":
    for name, (function, bound, *degrees) in FITS.items():
        numerator, denominator, error = fit(function, bound, *degrees)
        print(f'    "{name}": Rational(  # {error:.1e} in exact arithmetic')
        for part in (numerator, denominator):
            print(f"        ({', '.join(f'{number:.9e}' for number in part)}),")
        print(f"        {bound},\n    ),")
