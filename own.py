import numpy as np


def f(x):
    return np.sign(x) * (np.abs(x) + 1) ** 0.75 - np.sign(x)
