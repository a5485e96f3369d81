"""Measures of bodies, compiled by Numba, which takes a third of a second to load: `bodies` imports them when needed."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def variances(points_X3):  # type: ignore[no-untyped-def]
    """Sum of the population variances of the three columns, in double precision, in two passes."""
    total = 0.0
    for axis in range(points_X3.shape[1]):
        mean = 0.0
        for point in range(points_X3.shape[0]):
            mean += points_X3[point, axis]
        mean /= points_X3.shape[0]
        square = 0.0
        for point in range(points_X3.shape[0]):
            square += (points_X3[point, axis] - mean) ** 2
        total += square / points_X3.shape[0]
    return total


@njit(nogil=True, cache=True)
def extents(joints_FV3):  # type: ignore[no-untyped-def]
    """Width and height of a body per frame: (F, 2) float32 metres."""
    extent_F2 = np.empty((joints_FV3.shape[0], 2), np.float32)
    for frame in range(joints_FV3.shape[0]):
        for axis in range(2):
            low = high = joints_FV3[frame, 0, axis]
            for joint in range(1, joints_FV3.shape[1]):
                value = joints_FV3[frame, joint, axis]
                low = min(low, value)
                high = max(high, value)
            extent_F2[frame, axis] = high - low
    return extent_F2
