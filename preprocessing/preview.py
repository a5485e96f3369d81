"""Facts about a source that some of its clips show, before the build reads all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.entries import ClipSource
from preprocessing.stages.recipes import Stage

SAMPLE = 64  # clips, evenly spaced
PERSON = 1.5  # metres: the median extent of a person in recordings of actions, standing or sitting
UNITS = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001}  # metres
FEW = 8  # clips: fewer do not tell an origin from a joint that is absent by chance
SHARED = 0.002  # share of the joints at one point, from which it is reported
CENTRED = 0.9  # share of the clips in which a joint at zero is the origin, not a joint that is absent


def sample(source: ClipSource) -> Iterator[RawClip]:
    """Yield clips of a source, evenly spaced; clips that cannot be read are left to the build."""
    count = len(source.entries)
    for place in np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(np.int64)):
        try:
            raw = source.entries[place].read()
        except SkeletonError:
            continue
        if raw.tracks:
            yield raw


def centred(source: ClipSource) -> int:
    """Return the joint that the source has moved to zero in the first frame of (nearly) every clip, or -1.

    That joint is at zero because it is the origin; any other joint at zero is absent.
    """
    if source.kinect:
        return -1
    zero_NV = np.array([~raw.tracks[0].joints_FV3[0].any(axis=-1) for raw in sample(source)])
    if len(zero_NV) < FEW:
        return -1
    share_V = zero_NV.mean(axis=0)
    return int(share_V.argmax()) if share_V.max() >= CENTRED else -1


def units(source: ClipSource, unit: str) -> tuple[tuple[Stage, ...], str]:
    """Return the stages that make metres of coordinates in a unit, and a warning if bodies are too large for it.

    Args:
        source: Its clips are sampled unless they come from the sensor, whose unit is known.
        unit: A key of `UNITS`, or px for any other measure.
    """
    stages = (Stage("unit", {"metres": UNITS[unit]}),) if UNITS.get(unit, 1.0) != 1.0 else ()
    if source.kinect or source.unit != "m" or unit == "px":
        return stages, ""
    extent = extent_of(source) * UNITS[unit]
    power = round(float(np.log10(extent / PERSON))) if extent > 0 else 0
    if power < 1:
        return stages, ""
    named = [name for name, metres in UNITS.items() if np.isclose(metres, UNITS[unit] * 10.0**-power)]
    advice = f"Say --unit {named[0]} if that is their unit, or --unit px" if named else "Say --unit px"
    much = str(10**power) if power <= 6 else f"1e{power}"
    return stages, (
        f"bodies are about {much} times as large as people (median {extent:.4g} m). {advice} if they are not in metres"
        " on purpose"
    )


def sentinel(source: ClipSource) -> str:
    """Return a warning if joints share one value that may mean that they were not found; empty if none does.

    Two joints of a body are never at one point, so a point that several joints have in common is not a measurement.
    """
    if source.kinect or source.scores:
        return ""
    found = [raw.tracks[0].joints_FV3 for raw in sample(source)]
    if not found:
        return ""
    points_XC = np.concatenate([joints_FVC.reshape(-1, joints_FVC.shape[2]) for joints_FVC in found])
    joint_X = np.concatenate([np.tile(np.arange(joints.shape[1]), len(joints)) for joints in found])
    measured_X = np.isfinite(points_XC).all(axis=1) & points_XC.any(axis=1)
    same_X = measured_X & (points_XC == points_XC[:, :1]).all(axis=1)  # such as (-1, -1, -1)
    if not same_X.any():
        return ""
    values, counts = np.unique(points_XC[same_X, 0], return_counts=True)
    value, share = float(values[counts.argmax()]), float(counts.max() / len(points_XC))
    if share < SHARED or len(np.unique(joint_X[same_X & (points_XC[:, 0] == value)])) < 3:
        return ""
    point = ", ".join([f"{value:g}"] * points_XC.shape[1])
    return (
        f"{share:.1%} of the joints are at ({point}). If that means that they were not found, say --absent={value:g};"
        " otherwise they are taken for positions"
    )


def extent_of(source: ClipSource) -> float:
    """Return the median of the largest extent of a body along an axis, over sampled clips; 0 without any."""
    extents = []
    for raw in sample(source):
        joints_FVC = raw.tracks[0].joints_FV3
        found_FV = np.isfinite(joints_FVC).all(axis=-1) & np.any(joints_FVC, axis=-1)
        extents += [float(np.ptp(x_VC[found_V], axis=0).max()) for x_VC, found_V in
                    zip(joints_FVC[:8], found_FV, strict=False) if found_V.any()]  # fmt: skip
    return float(np.median(extents)) if extents else 0.0
