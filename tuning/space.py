"""What is searched: a name a setting (`section.field` of pipeline.config.Config) and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One of some values, each equally likely."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class LogUniform:
    """A number whose logarithm is uniform."""

    low: float
    high: float


SPACE: dict[str, Choice | LogUniform] = {
    "norm.kind": Choice(("none", "bn", "gn", "gn1")),
    "norm.persons": Choice(("loop", "fold", "masked")),
    "norm.momentum": Choice((0.01, 0.1, 0.3)),
    "train.batch_size": Choice((16, 32, 64)),
    "optim.lr": LogUniform(3e-4, 3e-3),
    "model.dropout": Choice((0.0, 0.25, 0.5)),
    "input.order": Choice(("reshuffle", "once", "class")),
}


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """`{"norm.kind": "bn"}` -> `{"norm": {"kind": "bn"}}`, as pipeline.config.from_dict takes it."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, field = key.partition(".")
        if field:
            result.setdefault(section, {})[field] = value
        else:
            result[key] = value
    return result
