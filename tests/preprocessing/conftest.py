"""Clips written as text."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

Frame = Sequence[tuple[int, np.ndarray]]  # (body ID, joints (25, 3)) of every body


def write_text(frames: Sequence[Frame], newline: str = "\n", unused: str = "0") -> bytes:
    """Frames as the text of one `.skeleton`; `unused` fills the columns that are not read."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, joints_V3 in bodies:
            lines += [f"{body} 0 0 0 0 0 0 0.1 -0.2 2", str(len(joints_V3))]
            lines += [" ".join([*(repr(float(value)) for value in joint), *[unused] * 8, "2"]) for joint in joints_V3]
    return (newline.join(lines) + newline).encode()


def standing(x: float = 0.0, height: float = 1.7) -> np.ndarray:
    """(25, 3) float32 metres: a person taller than wide, at `x`, three metres away."""
    joint = np.arange(25)
    return np.stack([x + 0.01 * joint, np.linspace(0, height, 25), np.full(25, 3.0)], axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def ntu_text() -> Callable[..., bytes]:
    """Writes frames as `.skeleton` text."""
    return write_text


@pytest.fixture(scope="session")
def person() -> Callable[..., np.ndarray]:
    """Makes the joints of a standing person."""
    return standing


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with 24 clips of 4 subjects, 3 cameras and 2 actions; action 50 has two people."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for subject in (1, 2, 3, 4):
        for camera in (1, 2, 3):
            for action in (1, 50):
                people = [(7, 0.0), (8, 1.0)] if action == 50 else [(7, 0.0)]
                frames = [[(body, standing(x + 0.01 * t * (9 - body))) for body, x in people] for t in range(20)]
                name = f"S001C{camera:03d}P{subject:03d}R001A{action:03d}.skeleton"
                (folder / name).write_bytes(write_text(frames))
    return folder
