"""All that a model is built from: the sizes of the data, the norm, and what else its settings leave open."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.data import Bones
from pipeline.norms import Norm


@dataclass(frozen=True)
class Plan:
    """What a constructor of MODELS receives. A model names no norm: `norm` makes the layers that it asks for."""

    norm: Norm
    persons: str
    """Name in PERSONS."""
    mask_max: bool
    """Keep absent bodies out of the pool over bodies, whatever `persons` is."""
    dropout: float
    width: float
    """Factor of the numbers of channels."""
    frames: int
    joints: int
    classes: int
    bones: Bones = ()
    """(parent, child) of each bone, as the data file has them."""
    stream: str = "joint"
    """Name in STREAMS, or several joined by +."""

    def channels(self, published: int, multiple: int = 8) -> int:
        """A published number of channels times the width, rounded to a `multiple` (groups and branches need one)."""
        return max(multiple, round(published * self.width / multiple) * multiple)
