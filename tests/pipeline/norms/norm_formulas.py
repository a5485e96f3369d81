"""Every norm's formula once more, plainly, in NumPy and float64: what tests/pipeline/test_norms.py compares with.

A formula takes x (B, C, T, V), the layer's state and whether it is training, and returns y. GROUPS, GHOST and the
renorm bounds are those of the tests' settings.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = dict[str, Array]

EPS, GROUPS, GHOST, R_MAX, D_MAX = 1e-3, 2, 4, 2.0, 0.3


def col(v: Array) -> Array:
    """Per channel, over (B, C, T, V)."""
    return v[None, :, None, None]


def affine(xhat: Array, s: State) -> Array:
    """Scale and shift."""
    return xhat * col(s["weight"]) + col(s["bias"])


def batch(x: Array, s: State, training: bool) -> tuple[Array, Array]:
    """Mean and variance that BatchNorm uses."""
    if not training:
        return s["running_mean"], s["running_var"]
    return x.mean((0, 2, 3)), x.var((0, 2, 3))


def standard(x: Array, mean: Array, variance: Array) -> Array:
    """(x - mean) / sqrt(variance + eps)."""
    return (x - mean) / np.sqrt(variance + EPS)


def bn(x: Array, s: State, training: bool) -> Array:
    """Ioffe & Szegedy 2015."""
    mean, variance = batch(x, s, training)
    return affine(standard(x, col(mean), col(variance)), s)


def ghost_bn(x: Array, s: State, training: bool) -> Array:
    """11 rows in parts of 4 at least: 5 and 6."""
    if not training:
        return bn(x, s, False)
    assert len(x) == 11
    return np.concatenate([bn(x[:5], s, True), bn(x[5:], s, True)])


def renorm_corrections(x: Array, s: State) -> tuple[Array, Array]:
    """r and d of Ioffe 2017, algorithm 1."""
    sigma, sigma_b = np.sqrt(s["running_var"] + EPS), np.sqrt(x.var((0, 2, 3)) + EPS)
    shift = (x.mean((0, 2, 3)) - s["running_mean"]) / sigma
    return np.clip(sigma_b / sigma, 1 / R_MAX, R_MAX), np.clip(shift, -D_MAX, D_MAX)


def batch_renorm(x: Array, s: State, training: bool) -> Array:
    """Both bounds fully grown."""
    if not training:
        return bn(x, s, False)
    r, d = renorm_corrections(x, s)
    mean, variance = batch(x, s, True)
    return affine(standard(x, col(mean), col(variance)) * col(r) + col(d), s)


def frozen_bn(x: Array, s: State, training: bool) -> Array:
    """Running statistics, always."""
    return bn(x, s, False)


def ln(x: Array, s: State, training: bool) -> Array:
    """Over channels at each (t, v)."""
    return affine(standard(x, x.mean(1, keepdims=True), x.var(1, keepdims=True)), s)


def grouped(x: Array, groups: int) -> Array:
    """(B, G, C/G, T, V)."""
    return x.reshape(len(x), groups, -1, *x.shape[2:])


def group_norm(x: Array, s: State, groups: int) -> Array:
    """Wu & He 2018."""
    g = grouped(x, groups)
    xhat = standard(g, g.mean((2, 3, 4), keepdims=True), g.var((2, 3, 4), keepdims=True))
    return affine(xhat.reshape(x.shape), s)


def instance(x: Array) -> Array:
    """Over (t, v) of each row and channel."""
    return standard(x, x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True))


def rms(x: Array, s: State, training: bool) -> Array:
    """Root mean square over channels."""
    return x / np.sqrt((x**2).mean(1, keepdims=True) + EPS) * col(s["weight"])


def evonorm_s0(x: Array, s: State, training: bool) -> Array:
    """Swish over the group's standard deviation."""
    spread = np.sqrt(grouped(x, GROUPS).var((2, 3, 4)) + EPS).repeat(x.shape[1] // GROUPS, axis=1)
    return affine(x / (1 + np.exp(-col(s["v"]) * x)) / spread[:, :, None, None], s)


def evonorm_b0(x: Array, s: State, training: bool) -> Array:
    """Batch standard deviation against v x + that of the instance."""
    left = np.sqrt(col(batch(x, s, training)[1]) + EPS)
    right = col(s["v"]) * x + np.sqrt(x.var((2, 3), keepdims=True) + EPS)
    return affine(x / np.maximum(left, right), s)


def frn_tlu(x: Array, s: State, training: bool) -> Array:
    """Mean square over (t, v), then the threshold."""
    return np.maximum(affine(x / np.sqrt((x**2).mean((2, 3), keepdims=True) + EPS), s), col(s["tau"]))


def dyt(x: Array, s: State, training: bool) -> Array:
    """tanh."""
    return affine(np.tanh(s["alpha"] * x), s)


def batch_instance(x: Array, s: State, training: bool) -> Array:
    """Nam & Kim 2018."""
    mean, variance = batch(x, s, training)
    rho = col(np.clip(s["rho"], 0, 1))
    return affine(rho * standard(x, col(mean), col(variance)) + (1 - rho) * instance(x), s)


FORMULAS: dict[str, Callable[[Array, State, bool], Array]] = {
    "none": lambda x, s, training: x,
    "bn": bn,
    "sync_bn": bn,
    "ghost_bn": ghost_bn,
    "batch_renorm": batch_renorm,
    "frozen_bn": frozen_bn,
    "ln": ln,
    "gn": lambda x, s, training: group_norm(x, s, GROUPS),
    "gn1": lambda x, s, training: group_norm(x, s, 1),
    "in": lambda x, s, training: affine(instance(x), s),
    "rms": rms,
    "ws_gn": lambda x, s, training: group_norm(x, s, GROUPS),
    "evonorm_s0": evonorm_s0,
    "evonorm_b0": evonorm_b0,
    "frn_tlu": frn_tlu,
    "dyt": dyt,
    "nf": lambda x, s, training: x,
    "bin": batch_instance,
}
