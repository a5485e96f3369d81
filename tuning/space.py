"""SPACE: setting (`section.field` of pipeline.config.Config) -> how it is drawn, and under which condition.

A setting without effect is not drawn: momentum needs a running statistic, groups need a layer that divides its
channels. To search another setting, add a line to SPACE, after the settings that its condition reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.norms import INPUTS, NORMS, PERSONS_MODES

Drawn = Mapping[str, Any]  # settings drawn so far


class Suggest(Protocol):
    """The methods of `optuna.Trial` that `draw` uses."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number within the bounds."""


def always(drawn: Drawn) -> bool:
    """Return True: the condition of a setting that always has an effect."""
    return True


@dataclass(frozen=True)
class Categorical:
    """One of several values."""

    values: tuple[Any, ...]
    when: Callable[[Drawn], bool] = always

    def draw(self, name: str, trial: Suggest) -> Any:
        """Return the sampler's choice."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class LogUniform:
    """A number on a logarithmic scale."""

    low: float
    high: float
    when: Callable[[Drawn], bool] = always

    def draw(self, name: str, trial: Suggest) -> Any:
        """Return the sampler's choice, drawn on a logarithmic scale."""
        return trial.suggest_float(name, self.low, self.high, log=True)


def _kind_has(setting: str) -> Callable[[Drawn], bool]:
    """Return the condition that the drawn kind of norm has this setting."""
    return lambda drawn: setting in NORMS[drawn["norm.kind"]].settings


def _has_running_statistics(drawn: Drawn) -> bool:
    return NORMS[drawn["norm.kind"]].running_statistics or drawn["norm.input"] != "none"


SPACE: dict[str, Categorical | LogUniform] = {
    "norm.kind": Categorical(tuple(NORMS)),
    "norm.persons": Categorical(PERSONS_MODES),
    "norm.input": Categorical(INPUTS),
    "norm.momentum": LogUniform(0.003, 0.5, when=_has_running_statistics),
    "norm.recalibrate": Categorical(("never", "each"), when=_has_running_statistics),
    "norm.groups": Categorical((4, 8, 16, 32), when=_kind_has("groups")),
    "norm.ghost": Categorical((8, 16, 32), when=_kind_has("ghost")),
    "norm.renorm_steps": Categorical((100, 1000), when=_kind_has("renorm_steps")),
    "norm.freeze_after": Categorical((50, 200), when=_kind_has("freeze_after")),
    "norm.clip": LogUniform(0.003, 0.1, when=_kind_has("clip")),
    "norm.mask_max": Categorical((False, True), when=lambda drawn: drawn["norm.persons"] != "masked"),
    "train.batch_size": Categorical((16, 32, 64, 128, 256)),
    "optim.lr": LogUniform(1e-4, 1e-2),
    "optim.weight_decay": Categorical((0.0, 1e-4, 1e-2)),
    "norm.decay": Categorical((False, True), when=lambda drawn: drawn["optim.weight_decay"] > 0),
    "model.dropout": Categorical((0.0, 0.2, 0.5, 0.7)),
}


def draw(trial: Suggest) -> dict[str, Any]:
    """Draw one set of settings.

    Args:
        trial: The trial that suggests values.

    Returns:
        Flat settings; a setting whose condition does not hold for those before it is absent.
    """
    drawn: dict[str, Any] = {}
    for name, axis in SPACE.items():
        if axis.when(drawn):
            drawn[name] = axis.draw(name, trial)
    return drawn


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"norm.kind": "bn"}` -> `{"norm": {"kind": "bn"}}`, as pipeline.config.from_dict takes it."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, field = key.partition(".")
        if field:
            result.setdefault(section, {})[field] = value
        else:
            result[key] = value
    return result
