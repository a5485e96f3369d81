"""What is searched: a name a setting (`section.field` of pipeline.config.Config), how it is drawn, and when it matters.

A setting that would change nothing is not drawn: momentum only where there is a running statistic, groups only where
channels are grouped. To search something else: a line in SPACE, after the settings that its condition looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.data.clips import ORDERS
from pipeline.models.bodies import PERSONS
from pipeline.norms import INPUTS, NORMS

Drawn = Mapping[str, Any]  # settings drawn so far


class Suggest(Protocol):
    """What is asked of a trial of Optuna's."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number within the bounds."""


def always(drawn: Drawn) -> bool:
    """The condition of a setting that always matters."""
    return True


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]
    when: Callable[[Drawn], bool] = always

    def draw(self, name: str, trial: Suggest) -> Any:
        """One of the values, as the sampler sees fit."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class LogUniform:
    """A number on a logarithmic scale."""

    low: float
    high: float
    when: Callable[[Drawn], bool] = always

    def draw(self, name: str, trial: Suggest) -> Any:
        """A number within the bounds, as the sampler sees fit."""
        return trial.suggest_float(name, self.low, self.high, log=True)


def _kind_has(setting: str) -> Callable[[Drawn], bool]:
    """Return the condition that the drawn kind of norm has this setting."""
    return lambda drawn: setting in NORMS[drawn["norm.kind"]].settings


def _has_running_statistics(drawn: Drawn) -> bool:
    return NORMS[drawn["norm.kind"]].running_statistics or drawn["norm.input"] != "none"


SPACE: dict[str, Choice | LogUniform] = {
    "norm.kind": Choice(tuple(NORMS)),
    "norm.persons": Choice(tuple(PERSONS)),
    "norm.input": Choice(INPUTS),
    "norm.momentum": LogUniform(0.003, 0.5, when=_has_running_statistics),
    "norm.recalibrate": Choice(("never", "each"), when=_has_running_statistics),
    "norm.groups": Choice((4, 8, 16, 32), when=_kind_has("groups")),
    "norm.ghost": Choice((8, 16, 32), when=_kind_has("ghost")),
    "norm.renorm_steps": Choice((100, 1000), when=_kind_has("renorm_steps")),
    "norm.freeze_after": Choice((50, 200), when=_kind_has("freeze_after")),
    "norm.clip": LogUniform(0.003, 0.1, when=_kind_has("clip")),
    "norm.mask_max": Choice((False, True), when=lambda drawn: drawn["norm.persons"] != "masked"),
    "train.batch_size": Choice((16, 32, 64, 128, 256)),
    "optim.lr": LogUniform(1e-4, 1e-2),
    "optim.weight_decay": Choice((0.0, 1e-4, 1e-2)),
    "norm.decay": Choice((False, True), when=lambda drawn: drawn["optim.weight_decay"] > 0),
    "model.dropout": Choice((0.0, 0.2, 0.5, 0.7)),
    "input.order": Choice(ORDERS),
}


def draw(trial: Suggest) -> dict[str, Any]:
    """One set of settings, each drawn when its condition holds for those before it."""
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
