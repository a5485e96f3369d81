"""Settings of the input: the part of the file, the streams, the order of clips, augmentation. Imports no torch.

`augment`, `clips`, `order` and `streams` do what these settings say.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pipeline import settings
from pipeline.settings import Choice, Range

Order = Literal["reshuffle", "once", "class", "subject"]
FOUR = ("joint", "bone", "joint_motion", "bone_motion")
DISTANCES = ("distance", "partner_distance")
# Name -> its parts: three channels each, one channel per joint for distances.
STREAMS = {name: (name,) for name in (*FOUR, "partner", *DISTANCES)} | {"all": FOUR, "pair": (*FOUR, "partner")}


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a stream, or of several joined by +. ValueError for a name that is not in STREAMS."""
    for word in name.split("+"):
        if word not in STREAMS:
            raise ValueError(
                f"input.stream {word!r} is unknown; choose one of {', '.join(STREAMS)}, or join several: all+distance"
            )
    return tuple(dict.fromkeys(part for word in name.split("+") for part in STREAMS[word]))


@dataclass(frozen=True)
class InputConfig:
    """The part of the file that is used, and how a clip becomes a tensor."""

    protocol: str = ""
    """Split protocol of the file; empty: the file's default."""
    frames: Annotated[int, Range(ge=2, why="a clip needs two frames")] = 64
    """Frames T that every clip is resampled to."""
    fit: Literal["train", "train+val"] = "train"
    """Split to train on: train, or train+val once all choices are made."""
    stream: Annotated[str, Choice(STREAMS, joined="+")] = "joint"
    """Input of the network: joint (coordinates), bone (each joint minus its parent), joint_motion, bone_motion
    (difference to the next frame), partner (each joint minus the other person's root), distance (from each joint to all
    of its body), partner_distance (to all of the other person's); all (the first four side by side), pair (all and
    partner); or several joined by +, as in all+distance."""
    sample: Literal["each", "balanced"] = "each"
    """Training clips of an epoch: each clip once, or balanced: as many clips, each class equally often. Clips of rare
    classes then repeat, with other augmentation each time."""
    order: Order = "reshuffle"
    """Order of training clips: reshuffle per epoch, once (one shuffle for all epochs), class or subject (sorted)."""

    def __post_init__(self) -> None:
        settings.check(self, "input.")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training clips; all off by default."""

    crop: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Smallest share of a clip's frames that is kept, at a random place; 1: the whole clip (CTR-GCN: 0.5)."""
    rotate: Annotated[float, Range(ge=0)] = 0.0
    """Largest rotation about each of the three axes, radians (CTR-GCN: 0.3)."""
    yaw: Annotated[float, Range(ge=0)] = 0.0
    """Largest further rotation about the vertical axis, radians: another place of the camera."""
    scale: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Largest change of size, as a share: another size of the person."""
    shear: Annotated[float, Range(ge=0)] = 0.0
    """Largest off-diagonal entry of a shear matrix."""
    noise: Annotated[float, Range(ge=0)] = 0.0
    """Standard deviation of the noise of each coordinate, metres."""
    joint_drop: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Probability that a joint is absent, in all frames and both bodies of a clip."""
    mirror: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Probability that left and right are exchanged (needs joint names with "left" and "right" in the data file)."""
    swap: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Probability that the two bodies change slots."""

    def __post_init__(self) -> None:
        settings.check(self, "augment.")

    @property
    def on(self) -> bool:
        """Return whether anything is changed."""
        return any(getattr(self, f.name) != f.default for f in fields(self))
