"""Layout of keypoints whose format does not name one: by the number of joints and coordinates, or --layout."""

from __future__ import annotations

from pathlib import Path

from preprocessing.layouts import LAYOUTS, Layout, layout, plain_layout
from preprocessing.sources.entries import IMAGE, SPACE, Reading, SourceError

_BY_SHAPE = {
    (17, IMAGE): "coco17",
    (18, IMAGE): "openpose18",
    (25, IMAGE): "openpose25",
    (25, SPACE): "ntu25",
    (33, IMAGE): "mediapipe33",
    (33, SPACE): "mediapipe33",
}


def keypoint_layout(where: Path | str, joints: int, channels: tuple[str, ...], reading: Reading) -> Layout:
    """Return the layout that --layout names, else the usual one of this many joints, else a plain one.

    Raises:
        SourceError: The named layout has another number of joints, or there is none of that name.
    """
    try:
        known = layout(reading.layout or _BY_SHAPE.get((joints, channels), "")) if joints else plain_layout(0)
    except ValueError as error:
        if reading.layout:
            raise SourceError(str(error)) from None
        return plain_layout(joints)
    if len(known.joint_names) != joints:
        fitting = [name for name, one in LAYOUTS.items() if len(one.joint_names) == joints]
        hint = f"; with as many: {', '.join(fitting)}" if fitting else ""
        raise SourceError(f"{where} has {joints} joints; --layout {known.name} has {len(known.joint_names)}{hint}")
    return known
