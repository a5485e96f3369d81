"""space.py: everything searched is a setting that the trainer knows, every value is allowed, and none is idle."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from pipeline.config import from_dict
from pipeline.models import build_model
from pipeline.norms import NORMS
from pipeline.tracking.metric_names import flat
from tuning.space import SPACE, Categorical, defaults, describe_axis, draw, nested, read_space


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


def space_file(folder: Path, text: str) -> Path:
    path = folder / "space.toml"
    path.write_text(text)
    return path


def test_a_space_of_ones_own_is_drawn_under_the_same_conditions(tmp_path: Path) -> None:
    """In the order that conditions need; they read the base where a setting is not drawn."""
    path = space_file(
        tmp_path,
        '[norm.momentum]\nlow = 0.01\nhigh = 0.5\nlog = true\n[norm.kind]\nvalues = ["bn", "gn"]\n'
        "[augment.rotate]\nlow = 0\nhigh = 1\n",
    )
    space = read_space(path)
    assert list(space) == ["norm.kind", "norm.momentum", "augment.rotate"]
    assert [describe_axis(axis) for axis in space.values()] == ["one of ['bn', 'gn']", "0.01 to 0.5, log", "0.0 to 1.0"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [draw(study.ask(), space, defaults()) for _ in range(30)]
    assert {one["norm.kind"] for one in drawn} == {"bn", "gn"}
    assert all(("norm.momentum" in one) == (one["norm.kind"] == "bn") for one in drawn)
    momentum = read_space(space_file(tmp_path, "[norm.momentum]\nlow = 0.01\nhigh = 0.5\n"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert "norm.momentum" in draw(study.ask(), momentum, defaults())
    assert draw(study.ask(), momentum, defaults() | {"norm.kind": "gn"}) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[norm", "is not a TOML file"),
        ("", "draws nothing: name at least one setting"),
        ('[norm.kinds]\nvalues = ["bn"]\n', "unknown setting norm.kinds; did you mean norm.kind?"),
        ('[norm.kind]\nvalues = ["bn", "batchnorm"]\n', "norm.kind 'batchnorm' is unknown; choose one of none, bn"),
        ("[norm.momentum]\nlow = 0.5\nhigh = 0.1\n", "norm.momentum has low 0.5 and high 0.1: low must be below high"),
        ("[norm.momentum]\nlow = 0.1\nhigh = 2.0\n", "norm.momentum 2.0 is outside (0, 1]"),
        ("[norm.momentum]\nlow = 0.1\n", "norm.momentum must be values = [...], or low = ... and high = ..."),
        ("[norm]\nmomentum = 0.1\n", "norm.momentum must be values = [...]"),
        ("[norm.kind]\nvalues = []\n", "norm.kind must be values = [...]"),
    ],
)
def test_a_mistake_in_a_space_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        read_space(space_file(tmp_path, text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--space {tmp_path / 'space.toml'}")
    assert "\n" not in str(caught.value)


def test_flat_and_nested_are_inverse() -> None:
    values = {"norm.kind": "bn", "norm.momentum": 0.1, "data": "a"}
    assert flat(nested(values), ".") == values


def test_the_order_of_clips_is_not_searched() -> None:
    assert not [name for name in SPACE if "order" in name]
