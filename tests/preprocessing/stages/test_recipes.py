"""Recipes: parameters, optional stages, and combinations that are rejected."""

import pytest

from preprocessing.stages import RECIPES, STAGES, Landmarks, describe, recipe
from tests.preprocessing.stages.examples import LANDMARKS


def test_bodies_chosen_by_others_are_only_centred() -> None:
    stages = recipe("exact", kinect=False, landmarks=Landmarks(3))
    marks = {"stage": "absent", "zeros": 1, "nan": 1, "origin": -1}
    assert describe("exact", stages) == {"name": "exact", "stages": [marks, {"stage": "centre", "joint": 3}]}


def test_parameters_of_a_stage_can_be_given() -> None:
    stages = recipe("exact", False, Landmarks(3), ["fill"], {"fill": {"gap": 4}})
    assert [stage.parameters for stage in stages if stage.name == "fill"] == [{"gap": 4, "spline": 0}]
    assert [stage.name for stage in recipe("exact", True, LANDMARKS)][0] == "join"


def test_every_stage_of_every_recipe_exists() -> None:
    assert {stage.name for stages in RECIPES.values() for stage in stages} <= set(STAGES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("crt", True, LANDMARKS), "did you mean ctr"),
        (("ctr", False, LANDMARKS), "raw Kinect recordings"),
        (("exact", True, LANDMARKS, ["yawn"]), "choose from motion, fill, smooth, yaw, size"),
        (("ctr", True, LANDMARKS, ["yaw"]), "kept as published"),
        (("exact", False, LANDMARKS, ["motion"]), "already selected"),
        (("exact", False, Landmarks(0), ["size"]), "spine"),
    ],
)
def test_invalid_combinations_are_rejected_in_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        recipe(*arguments)
    assert "\n" not in str(caught.value)
