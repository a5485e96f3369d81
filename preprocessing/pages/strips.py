"""Film strips: a clip as a row of poses, drawn as one SVG path per body and pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.hdf5 import SkeletonFile, clip_present, clip_rows, clip_tracked

POSES = 6  # per clip
TALL = 100  # height of a strip in units of its drawing


@dataclass(frozen=True)
class Strip:
    """Poses of a clip, from left to right."""

    title: str
    """Name of the class."""
    clip: str
    frames: tuple[int, ...]
    """Frames of the poses, from 1."""
    paths: tuple[tuple[int, str], ...]
    """Body and SVG path."""
    wide: int
    """Width of the drawing, in units of which `TALL` are its height."""

    @property
    def alt(self) -> str:
        """Text alternative."""
        return f"{self.title}: {len(self.frames)} poses of clip {self.clip}, frames {', '.join(map(str, self.frames))}"


def strip(file: SkeletonFile, clip: int) -> Strip:
    """Return a clip as a strip: evenly spaced frames, seen from the front, all poses in one scale."""
    rows_MTVC, present_MT = clip_rows(file, clip), clip_present(file, clip)
    seen_T = np.flatnonzero(present_MT.any(axis=0))
    frames = np.unique(seen_T[np.linspace(0, len(seen_T) - 1, min(POSES, len(seen_T))).astype(int)])
    found_MTV = present_MT[:, :, None] & np.ones(rows_MTVC.shape[2], bool)
    if (tracked := clip_tracked(file, clip)) is not None:
        found_MTV = found_MTV & (tracked > 0)
    points = rows_MTVC[:, frames][found_MTV[:, frames]][:, :2]
    low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(2), np.ones(2))
    scale = 0.92 * TALL / max(float(high[1] - low[1]), float(high[0] - low[0]) / 2, 1e-9)
    step = round(float(high[0] - low[0]) * scale + 0.1 * TALL)
    paths = []
    for place, frame in enumerate(frames):
        for body in np.flatnonzero(present_MT[:, frame]):
            x_V = (rows_MTVC[body, frame, :, 0] - low[0]) * scale + place * step + 0.05 * TALL
            y_V = 0.96 * TALL - (rows_MTVC[body, frame, :, 1] - low[1]) * scale
            bones = [
                f"M{x_V[a]:.1f} {y_V[a]:.1f}L{x_V[b]:.1f} {y_V[b]:.1f}"
                for a, b in file.bones
                if found_MTV[body, frame, a] and found_MTV[body, frame, b]
            ]
            paths.append((int(body), "".join(bones)))
    title = file.class_names[int(file.clips["label"][clip])]
    name = str(file.clips["name"][clip])
    return Strip(title, name, tuple(int(frame) + 1 for frame in frames), tuple(paths), max(step * len(frames), 1))
