"""Recipes: parameters, optional stages, and combinations that are rejected."""

import pytest

from preprocessing.stages import RECIPES, STAGES, Landmarks, describe, recipe
from tests.preprocessing.stages.examples import LANDMARKS


def test_bodies_chosen_by_others_are_only_centred() -> None:
    stages = recipe("exact", kinect=False, landmarks=Landmarks(3))
    assert describe("exact", stages) == {"name": "exact", "stages": [{"stage": "centre", "joint": 3}]}


def test_every_stage_of_every_recipe_exists() -> None:
    assert {stage.name for stages in RECIPES.values() for stage in stages} <= set(STAGES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("crt", True, LANDMARKS), "did you mean ctr"),
        (("ctr", False, LANDMARKS), "raw Kinect recordings"),
        (("exact", True, LANDMARKS, ["yawn"]), "choose from motion, yaw, size"),
        (("ctr", True, LANDMARKS, ["yaw"]), "kept as published"),
        (("exact", False, LANDMARKS, ["motion"]), "already selected"),
        (("exact", False, Landmarks(0), ["size"]), "spine"),
    ],
)
def test_invalid_combinations_are_rejected_in_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        recipe(*arguments)
    assert "\n" not in str(caught.value)
