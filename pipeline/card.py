"""RUN/data.json: what a run was trained on, in words, so that its network can be used without the data file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models.plan import Bones
from preprocessing import files
from preprocessing.hdf5 import SkeletonFile
from preprocessing.stages import STAGES, Stage

NAME = "data.json"


@dataclass(frozen=True)
class Card:
    """What a data file says of all its clips."""

    dataset: str
    recipe: dict[str, Any]
    joint_names: list[str]
    bones: Bones
    fps: float
    class_names: list[str]
    content_sha256: str

    def stages(self) -> tuple[Stage, ...]:
        """The recipe, ready to apply. ValueError for a stage that this version does not know."""
        result = []
        for entry in self.recipe["stages"]:
            parameters = dict(entry)
            name = parameters.pop("stage")
            if name not in STAGES:
                raise ValueError(f"the run's recipe has a stage {name!r}, unknown here; known: {', '.join(STAGES)}")
            result.append(Stage(name, parameters))
        return tuple(result)


def write(folder: Path, file: SkeletonFile) -> None:
    """Publish the card of a data file in a run folder."""
    bones = tuple((int(parent), int(child)) for parent, child in file.bones)
    card = Card(
        file.dataset, file.recipe, file.joint_names, bones, file.fps, file.class_names, file.content_sha256
    )  # fmt: skip
    files.publish_json(folder / NAME, dataclasses.asdict(card))


def read(folder: Path) -> Card:
    """The card of a run folder. ValueError says how to get one."""
    if not (folder / NAME).is_file():
        raise ValueError(f"{folder} has no {NAME}; run its python -m pipeline.train command again, which adds it")
    values = files.read_json(folder / NAME, *(field.name for field in dataclasses.fields(Card)))
    return Card(**values | {"bones": tuple((parent, child) for parent, child in values["bones"])})
