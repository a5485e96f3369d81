"""space.py: everything searched is a setting that the trainer knows, every value is allowed, and none is idle."""

from typing import Any

import optuna
import pytest
import torch

from pipeline.config import from_dict
from pipeline.models import build_model
from pipeline.norms import NORMS
from tuning.space import SPACE, Categorical, draw, nested


def draws(number: int) -> list[dict[str, Any]]:
    """Settings drawn at random."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [draw(study.ask()) for _ in range(number)]


@pytest.mark.parametrize("name", SPACE)
def test_every_searched_value_is_a_setting_of_the_trainer(name: str) -> None:
    """It arrives where it should; an unknown name or a value out of bounds would raise."""
    axis = SPACE[name]
    section, field = name.split(".")
    for value in axis.values if isinstance(axis, Categorical) else (axis.low, axis.high):
        config = from_dict(nested({"data": "a.h5", "out": "run", name: value}))
        assert getattr(getattr(config, section), field) == value


def test_a_name_that_the_trainer_does_not_know_is_rejected_with_the_nearest() -> None:
    """Negative control of the test above."""
    with pytest.raises(ValueError, match=r"unknown setting norm\.kinds; did you mean norm\.kind\?"):
        from_dict(nested({"data": "a.h5", "out": "run", "norm.kinds": "bn"}))


def test_no_setting_is_drawn_that_would_change_nothing() -> None:
    """Momentum, groups, masks and decay appear exactly where they matter, over many draws."""
    for drawn in draws(300):
        kind = NORMS[drawn["norm.kind"]]
        assert ("norm.momentum" in drawn) == (kind.running_statistics or drawn["norm.input"] != "none")
        for setting in ("groups", "ghost", "renorm_steps", "freeze_after", "clip"):
            assert (f"norm.{setting}" in drawn) == (setting in kind.settings)
        assert ("norm.mask_max" in drawn) == (drawn["norm.persons"] != "masked")
        assert ("norm.decay" in drawn) == (drawn["optim.weight_decay"] > 0)


def test_each_setting_is_drawn_from_its_own_range() -> None:
    """As Optuna records it: every value of a categorical one, and a logarithmic scale between the bounds."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: dict[str, Any] = {}
    for _ in range(100):
        trial = study.ask()
        draw(trial)
        drawn |= trial.distributions
    assert drawn.keys() == SPACE.keys()
    for name, axis in SPACE.items():
        if isinstance(axis, Categorical):
            assert drawn[name].choices == axis.values
        else:
            assert (drawn[name].low, drawn[name].high, drawn[name].log) == (axis.low, axis.high, True)


def test_every_draw_is_a_network_that_runs() -> None:
    """Each kind of norm is among them; a training step gives finite logits."""
    seen = set()
    x_NCTVM, present_NMT = torch.randn(6, 3, 8, 8, 2), torch.ones(6, 2, 8, dtype=torch.bool)
    for drawn in draws(120):
        config = from_dict(nested({"data": "a.h5", "out": "run"} | drawn))
        model = build_model(config.model, config.norm, frames=8, joints=8, classes=3)
        assert model(x_NCTVM, present_NMT).isfinite().all(), drawn
        seen.add(config.norm.kind)
    assert seen == set(NORMS)
