"""Writers of small sources in the formats of other projects, each with the arrays that must come out."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.skeleton import RawClip


def walk(frames: int, joints: int, seed: int = 0, width: int = 3) -> np.ndarray:
    """(T, V, C) float32: a chain of joints that swings; pixels where it has two coordinates."""
    rng = np.random.default_rng(seed)
    base = np.cumsum(rng.normal(0, 0.12, (joints, 3)), 0)
    swing = rng.uniform(0.05, 0.2, joints) * np.sin(np.arange(frames)[:, None] * 0.3)
    x_TV3 = base + np.stack([swing, 0.3 * swing, 0.1 * swing], -1) + [0.1, 0.2, 3.0]
    return (x_TV3 if width == 3 else x_TV3[..., :2] * 300 + 500).astype(np.float32)


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def openpose_frames(folder: Path, people_TM: list[list[np.ndarray]], name: str, first: int = 0, **extra: Any) -> None:
    """One file per frame; each person (V, 3): x, y, score."""
    for number, people in enumerate(people_TM, first):
        document = {
            "version": 1.3,
            "people": [{"person_id": [-1], "pose_keypoints_2d": person.ravel().tolist()} | extra for person in people],
        }
        write_json(folder / f"{name}_{number:012d}_keypoints.json", document)


def scored(x_TV2: np.ndarray, seed: int = 0) -> np.ndarray:
    """(T, V, 3): x, y and a score."""
    score_TV1 = np.random.default_rng(seed).uniform(0.3, 1, (*x_TV2.shape[:2], 1))
    return np.concatenate([x_TV2, score_TV1], -1).astype(np.float32)


def only(clip: RawClip) -> np.ndarray:
    """The joints of a clip with one body that is seen in every frame."""
    (track,) = clip.tracks
    assert track.frame_F.tolist() == list(range(clip.frames))
    return track.joints_FV3
