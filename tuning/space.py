"""SPACE: setting (`section.field` of pipeline.config.Config) -> how it is drawn, and under which condition.

A setting without effect is not drawn: momentum needs a running statistic, groups need a layer that divides its
channels. To search another setting, add a line to SPACE, after the settings that its condition reads. The order of
clips is not searched: one by class can win by chance, and no one would train with it.

A space of one's own is a TOML file, for `--space FILE.toml`:

    [norm.kind]
    values = ["bn", "gn", "ln"]
    [norm.momentum]             # conditions of SPACE hold: not drawn where norm.kind has no running statistics
    low = 0.01
    high = 0.5
    log = true                  # default: on a linear scale
    [train.batch_size]
    values = [32, 64]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from pipeline.config import as_dict, from_dict
from pipeline.norms import INPUTS, NORMS, PERSONS_MODES
from pipeline.tracking.metric_names import flat

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
class Uniform:
    """A number on a linear scale."""

    low: float
    high: float
    when: Callable[[Drawn], bool] = always

    def draw(self, name: str, trial: Suggest) -> Any:
        """Return the sampler's choice."""
        return trial.suggest_float(name, self.low, self.high)


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


Axis = Categorical | Uniform | LogUniform
SPACE: dict[str, Axis] = {
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


def draw(trial: Suggest, space: Mapping[str, Axis] = SPACE, base: Drawn = MappingProxyType({})) -> dict[str, Any]:
    """Draw one set of settings.

    Args:
        trial: The trial that suggests values.
        space: What is drawn.
        base: Flat settings of all trials, which conditions read where a setting is not drawn.

    Returns:
        Flat settings; a setting whose condition does not hold for those before it is absent.
    """
    drawn: dict[str, Any] = {}
    for name, axis in space.items():
        if axis.when({**base, **drawn}):
            drawn[name] = axis.draw(name, trial)
    return drawn


def read_space(path: Path) -> dict[str, Axis]:
    """Read a space of one's own; the module's docstring has the format.

    Raises:
        ValueError: The file is not TOML, or an entry is not a setting or not allowed; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"--space {path} does not exist: must be a TOML file. tuning/space.py has an example.")
    try:
        entries = _entries(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"--space {path} is not a TOML file: {error}") from None
    space = {name: _axis(path, name, entry) for name, entry in entries.items()}
    if not space:
        raise ValueError(f"--space {path} draws nothing: name at least one setting.")
    known = list(SPACE)  # conditions read the settings before them
    return dict(sorted(space.items(), key=lambda item: known.index(item[0]) if item[0] in known else len(known)))


def describe_axis(axis: Axis) -> str:
    """Return how a setting is drawn, as the ledger records it."""
    if isinstance(axis, Categorical):
        return f"one of {list(axis.values)}"
    return f"{axis.low} to {axis.high}{', log' if isinstance(axis, LogUniform) else ''}"


def defaults() -> dict[str, Any]:
    """Return the flat settings of the default preset."""
    return flat(as_dict(from_dict({"data": "a.h5", "out": "run"})), ".")


def _entries(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"norm": {"kind": {"values": [...]}}}` -> `{"norm.kind": {"values": [...]}}`."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict) and not set(value) & {"values", "low", "high", "log"}:
            found |= _entries(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}".replace("-", "_")] = value
    return found


def _axis(path: Path, name: str, entry: Any) -> Axis:
    """Return how a setting is drawn; ValueError names what is wrong with its entry."""
    form = "must be values = [...], or low = ... and high = ..., with log = true for a logarithmic scale"
    if not isinstance(entry, dict) or set(entry) not in ({"values"}, {"low", "high"}, {"low", "high", "log"}):
        raise ValueError(f"--space {path}: {name} {form}.")
    when = SPACE[name].when if name in SPACE else always
    if "values" in entry:
        if not isinstance(entry["values"], list) or not entry["values"]:
            raise ValueError(f"--space {path}: {name} {form}.")
        axis: Axis = Categorical(tuple(entry["values"]), when)
        ends = entry["values"]
    else:
        ends = [entry["low"], entry["high"]]
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
        if not numbers or not ends[0] < ends[1] or (entry.get("log") and ends[0] <= 0):
            raise ValueError(
                f"--space {path}: {name} has low {ends[0]!r} and high {ends[1]!r}: low must be below high."
            )
        ends = [float(end) for end in ends]
        axis = (LogUniform if entry.get("log") else Uniform)(ends[0], ends[1], when)
    for value in ends:
        try:
            from_dict(nested({"data": "a.h5", "out": "run", name: value}))
        except ValueError as error:
            raise ValueError(f"--space {path}: {error}") from None
    return axis


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"norm.kind": "bn"}` -> `{"norm": {"kind": "bn"}}`, as pipeline.config.from_dict takes it."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, field = key.partition(".")
        if field:
            result.setdefault(section, {})[field] = value
        else:
            result[key] = value
    return result
