"""Recipes: named sequences of stages with their parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from preprocessing.arguments import suggestion


class Stage(NamedTuple):
    """One stage of a recipe."""

    name: str
    parameters: Mapping[str, float]
    kinect: bool | None = True
    """True: for raw tracks of the sensor only. False: for all sources. None: for all sources but those tracks."""


class Landmarks(NamedTuple):
    """Joints that stages use as references: indices of joints."""

    centre: int
    shoulders: tuple[int, int] | None = None  # left, right
    spine: tuple[int, int] | None = None  # top, bottom


RECIPES: dict[str, tuple[Stage, ...]] = {
    "exact": (
        Stage("absent", {"zeros": 1, "nan": 1, "origin": -1}, kinect=None),
        # Before `length`, which would otherwise drop the pieces of a body whose ID changed.
        Stage("join", {"gap": 2, "distance": 0.5}),
        Stage("length", {"frames": 11}),
        Stage("spread", {"width": 0.8, "share": 0.69754}),
        Stage("motion", {"least": 0.089925, "most": 2.0}),
        Stage("actors", {"slots": 2}),
        Stage("fill", {"gap": 10, "spline": 0}, kinect=False),
        Stage("smooth", {"frames": 5}, kinect=False),
        Stage("centre", {}, kinect=False),
        Stage("yaw", {}, kinect=False),
        Stage("size", {"metres": 0.5}, kinect=False),
    ),
    "ctr": (
        Stage("compact", {}),
        Stage("peer-length", {"frames": 11}),
        Stage("ctr-spread", {"width": 0.8, "share": 0.69754}),
        Stage("ctr-actors", {}),
        Stage("ctr-missing", {}),
        Stage("ctr-centre", {}),
    ),
    "pyskl": (
        Stage("compact", {}),
        Stage("peer-length", {"frames": 11}),
        Stage("pyskl-spread", {"width": 0.8, "share": 0.69754}),
        Stage("pyskl-actors", {}),
        Stage("pyskl-trim", {}),
        Stage("half", {}),
        Stage("pyskl-normalize", {"align": 1}),
    ),
}
"""Recipe name -> its stages in order. The names of stages and parameters are stored in data files and run folders."""

OPTIONAL = ("motion", "fill", "smooth", "yaw", "size")
"""Stages of recipe exact that run only on request."""


def recipe(
    name: str,
    kinect: bool,
    landmarks: Landmarks,
    add: Sequence[str] = (),
    given: Mapping[str, Mapping[str, float]] = {},  # noqa: B006 - it is not changed
) -> tuple[Stage, ...]:
    """Return the stages of a recipe with all parameters filled in.

    Args:
        name: A key of `RECIPES`.
        kinect: True for raw tracks of the sensor, False for bodies that were already selected.
        landmarks: Joints that stages use as references.
        add: Optional stages to switch on; see `OPTIONAL`.
        given: Stage -> parameters other than the recipe's.

    Raises:
        ValueError: The recipe is unknown, or the arguments do not go together. The message has one line.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"recipe {name!r} is unknown; {hint}choose one of {', '.join(RECIPES)}")
    if not kinect and name != "exact":
        raise ValueError(f"recipe {name} is for raw Kinect recordings; use exact for an array file")
    for stage in add:
        _check_optional(stage, name, kinect, landmarks)
    steered: dict[str, dict[str, float]] = {
        "centre": {"joint": landmarks.centre},
        "ctr-centre": {"joint": landmarks.centre},
        "pyskl-normalize": {"joint": landmarks.centre},
        "yaw": dict(zip(("left", "right"), landmarks.shoulders or (), strict=False)),
        "size": dict(zip(("top", "bottom"), landmarks.spine or (), strict=False)),
    }
    return tuple(
        stage._replace(parameters={**stage.parameters, **steered.get(stage.name, {}), **given.get(stage.name, {})})
        for stage in RECIPES[name]
        if stage.kinect in ((True, False) if kinect else (None, False))
        and (stage.name not in OPTIONAL or stage.name in add)
    )


def _check_optional(stage: str, name: str, kinect: bool, landmarks: Landmarks) -> None:
    if stage not in OPTIONAL:
        known = ", ".join(OPTIONAL)
        raise ValueError(f"--add {stage!r} is unknown; choose from {known}{suggestion(stage, OPTIONAL)}")
    if name != "exact":
        raise ValueError(f"--add {stage} works with recipe exact only; {name} is kept as published")
    if stage == "motion" and not kinect:
        raise ValueError("--add motion is for raw Kinect recordings; the bodies of an array file are already selected")
    if (stage == "yaw" and not landmarks.shoulders) or (stage == "size" and not landmarks.spine):
        key = "shoulders (left, right)" if stage == "yaw" else "spine (top, bottom)"
        raise ValueError(f"--add {stage} needs reference joints; add an entry {key} to the array file")


def describe(name: str, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """Return the recipe as JSON: every stage with its parameters."""
    return {"name": name, "stages": [{"stage": stage.name, **stage.parameters} for stage in stages]}
