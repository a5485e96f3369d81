"""Public names that were renamed: the old one works for a minor version at least, and warns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Renamed:
    """A public name that has another name now.

    Attributes:
        new: The name today.
        since: Version that renamed it.
        until: First version without the old name.
    """

    new: str
    since: str
    until: str


# Old name -> its record. A name stays here from the version that renames it to the next major (before 1.0: minor) one.
RENAMED: dict[str, Renamed] = {}


def renamed(module: str, name: str, names: Mapping[str, Any], table: Mapping[str, Renamed] = RENAMED) -> Any:
    """Return what an old name of a module stands for, with a DeprecationWarning: its `__getattr__`.

    Args:
        module: Name of the module.
        name: The name that it does not have.
        names: The module's names (`globals()`).
        table: Old names.

    Raises:
        AttributeError: The module never had it.
    """
    record = table.get(name)
    if record is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(
        f"{module}.{name} is deprecated since {record.since} and goes with {record.until}: use {record.new}.",
        DeprecationWarning,
        stacklevel=3,
    )
    return names[record.new]
