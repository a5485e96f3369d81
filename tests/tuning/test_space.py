"""space.py: everything searched is a setting that the trainer knows, and every value of it is allowed."""

from typing import Any

import pytest

from pipeline.config import Config, from_dict
from tuning.space import SPACE, Choice, nested

VALUES = [(name, value) for name, how in SPACE.items() if isinstance(how, Choice) for value in how.values]
BOUNDS = [(name, bound) for name, how in SPACE.items() if not isinstance(how, Choice) for bound in (how.low, how.high)]


@pytest.mark.parametrize(("name", "value"), VALUES + BOUNDS)
def test_every_searched_value_is_a_setting_of_the_trainer(name: str, value: Any) -> None:
    """It arrives where it should; an unknown name or a value out of bounds would raise."""
    config = from_dict(nested({"data": "a.h5", "out": "run", name: value}))
    section, field = name.split(".")
    assert isinstance(config, Config)
    assert getattr(getattr(config, section), field) == value


def test_a_name_that_the_trainer_does_not_know_is_refused_with_the_nearest() -> None:
    """Negative control of the test above."""
    with pytest.raises(ValueError, match=r"unknown setting norm\.kinds; did you mean norm\.kind\?"):
        from_dict(nested({"data": "a.h5", "out": "run", "norm.kinds": "bn"}))
