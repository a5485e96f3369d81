"""Write pyskl's annotations: a pickle with `split` and `annotations`, clip by clip in bounded memory.

Only the writing of pickles is needed here; they are read by preprocessing.sources.unpickle, which runs nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.files import publish, require_space
from preprocessing.hdf5 import SkeletonFile, clip_rows, clip_tracked

# Protocol 3 numbers its memo explicitly, so pickles that stand behind each other in one stream do not mix theirs.
PROTOCOL = 3
_START, _END = b"\x80\x03", b"."
IMAGE_SHAPE = (1080, 1920)  # of clips in pixels, whose camera the data file does not know


def splits_of(file: SkeletonFile) -> dict[str, list[str]]:
    """Return pyskl's splits: PROTOCOL_train holds train and val, PROTOCOL_val is the test part, as pyskl names it."""
    names = file.clips["name"]
    made = {}
    for protocol, parts in file.splits.items():
        made[f"{protocol}_train"] = names[np.sort(np.concatenate([parts["train"], parts["val"]]))].tolist()
        made[f"{protocol}_val"] = names[parts["test"]].tolist()
    return made


def annotations_of(file: SkeletonFile) -> Iterator[dict[str, Any]]:
    """Yield one annotation per clip: keypoint (M, T, V, C) float32, and keypoint_score where joints may be absent."""
    for clip, name in enumerate(file.clips["name"].tolist()):
        keypoint, tracked = clip_rows(file, clip), clip_tracked(file, clip)
        made: dict[str, Any] = {
            "frame_dir": name,
            "label": int(file.clips["label"][clip]),
            "total_frames": keypoint.shape[1],
            "keypoint": np.ascontiguousarray(keypoint, np.float32),
        }
        if keypoint.shape[3] == 2:
            made |= {"img_shape": IMAGE_SHAPE, "original_shape": IMAGE_SHAPE}
        if tracked is not None:
            made["keypoint_score"] = tracked.astype(np.float16)
        yield made


def export_pyskl(file: SkeletonFile, out: Path) -> str:
    """Write the annotations of a data file; return a summary."""
    require_space(out.parent, file.joints_RV3.nbytes)
    splits = splits_of(file)
    with publish(out) as temporary, open(temporary, "wb") as target:
        target.write(_START + b"}(")
        for piece in (_piece("split"), _piece(splits), _piece("annotations"), b"]("):
            target.write(piece)
        for annotation in annotations_of(file):
            target.write(_piece(annotation))
        target.write(b"eu" + _END)
    return f"{len(file.clips['name'])} annotations; splits {', '.join(splits)}; val counts as train, test is NAME_val"


def _piece(value: Any) -> bytes:
    """Return the pickle of a value without its start and end, to stand inside another."""
    return pickle.dumps(value, PROTOCOL)[len(_START) : -len(_END)]
