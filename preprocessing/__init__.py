"""Raw recordings in, one self-describing HDF5 file out: sources -> skeleton -> stages -> hdf5 and manifest.

Read a built file:

    import preprocessing

    file = preprocessing.open_file("ntu60.h5")
    joints_MTV3 = preprocessing.clip_rows(file, 0)  # float32 metres: bodies, frames, joints, xyz
    present_MT = preprocessing.clip_present(file, 0)

Read a recording and clean it as a build does:

    raw = preprocessing.parse(path.read_bytes(), path.stem)
    stages = preprocessing.recipe("exact", kinect=True, landmarks=preprocessing.Landmarks(centre=1))
    clip = preprocessing.apply(path.stem, raw, stages)

Names are imported on first use, so that `import preprocessing` takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.public import lazy_names

if TYPE_CHECKING:
    from preprocessing.files import IntegrityError
    from preprocessing.hdf5 import SkeletonFile, clip_present, clip_rows, clip_tracked, open_file
    from preprocessing.manifest import read_manifest
    from preprocessing.skeleton import RawClip, SkeletonError, Track, parse
    from preprocessing.sources import SOURCES, ClipSource, SourceError, open_sources
    from preprocessing.stages import RECIPES, STAGES, Clip, Decision, Landmarks, Stage, apply, recipe

__all__ = [
    "RECIPES", "SOURCES", "STAGES", "Clip", "ClipSource", "Decision", "IntegrityError", "Landmarks", "RawClip",
    "SkeletonError", "SkeletonFile", "SourceError", "Stage", "Track", "apply", "clip_present", "clip_rows",
    "clip_tracked", "open_file", "open_sources", "parse", "read_manifest", "recipe",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "files": ("IntegrityError",),
        "hdf5": ("SkeletonFile", "clip_present", "clip_rows", "clip_tracked", "open_file"),
        "manifest": ("read_manifest",),
        "skeleton": ("RawClip", "SkeletonError", "Track", "parse"),
        "sources": ("SOURCES", "ClipSource", "SourceError", "open_sources"),
        "stages": ("RECIPES", "STAGES", "Clip", "Decision", "Landmarks", "Stage", "apply", "recipe"),
    },
)
