"""Facts about a source that some of its clips show, before the build reads all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.entries import ClipSource

SAMPLE = 64  # clips, evenly spaced
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
    if not len(zero_NV):
        return -1
    share_V = zero_NV.mean(axis=0)
    return int(share_V.argmax()) if share_V.max() >= CENTRED else -1
