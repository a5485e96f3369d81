"""Data sets of a study: one HDF5 file, or a TOML file that lists several files and protocols.

    [sets.utd]
    data = "utd.h5"                       # relative to this file
    [sets.ucla]
    data = "nw_ucla.h5"
    protocols = ["xview3", "xview1"]      # two sets: "ucla, xview3" and "ucla, xview1"; all: every protocol of the file
    input.frames = 52                     # settings of these sets; those of an arm win over them

Each arm is trained on each set, and the arms are compared over the sets (tuning.over_sets).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import from_dict
from pipeline.tracking.metric_names import flat
from preprocessing.arguments import suggestion
from tuning.space import nested
from tuning.trial_spec import RESERVED

if TYPE_CHECKING:
    from preprocessing.hdf5 import SkeletonFile

SUFFIX = ".toml"
ALL = "all"  # protocols = "all"


@dataclass(frozen=True)
class DataSet:
    """A data file and one of its protocols."""

    path: Path
    """HDF5 file made by preprocessing.build."""
    name: str = ""
    """Empty for the only set of a study."""
    protocol: str = ""
    """Empty: the default protocol of the file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Flat settings of all trainings on this set; those of an arm win over them."""

    def check(self) -> str:
        """Verify the file once, before any trial starts, and return its content hash.

        Raises:
            ValueError: The file lacks the protocol, or the protocol clips in its `val` split, or the file is damaged.
        """
        file = _open(self.path)
        self._require_val(file)
        return file.content_sha256

    def check_protocol(self) -> None:
        """Verify the protocol, and no frame.

        Raises:
            ValueError: The file lacks the protocol, or the protocol clips in its `val` split.
        """
        self._require_val(_open(self.path, fast_start=True))

    def _require_val(self, file: SkeletonFile) -> None:
        name = self.protocol or file.default_protocol
        if name not in file.splits:
            known = ", ".join(sorted(file.splits)) or "none"
            raise ValueError(f"{self.path} has no protocol {name!r}; it has {known}{suggestion(name, file.splits)}")
        if not len(file.splits[name].get("val", [])):
            raise ValueError(f"{self.path}: protocol {name!r} has no val clips, which a search and a study select by.")

    @cached_property
    def clips(self) -> tuple[Any, ...]:
        """The clips that are trained on and chosen by, read once; sets may share them and differ in test clips."""
        file = _open(self.path, fast_start=True)  # `check` has read the frames
        split = file.splits[self.protocol or file.default_protocol]
        return self.path.resolve(), *(tuple(map(int, split[part])) for part in ("train", "val"))

    def training_key(self) -> tuple[Any, ...]:
        """Return what the trainings depend on: sets that differ in the test clips alone have equal keys."""
        return *self.clips, json.dumps(self.settings, sort_keys=True)


def first_equal(sets: Mapping[str, DataSet], key: Callable[[DataSet], Hashable]) -> dict[str, str]:
    """Return for each data set the first one with an equal key."""
    first: dict[Hashable, str] = {}
    return {name: first.setdefault(key(one), name) for name, one in sets.items()}


def read_sets(path: Path) -> tuple[DataSet, ...]:
    """Return the data sets of an HDF5 file (one, without a name) or of a TOML file.

    Raises:
        ValueError: The TOML file is wrong; the message names the set and what is allowed.
    """
    if path.suffix != SUFFIX:
        return (DataSet(path),)
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    tables = values.get("sets")
    if set(values) != {"sets"} or not isinstance(tables, dict) or not tables:
        found = ", ".join(sorted(values)) or "nothing"
        raise ValueError(f"{path} is wrong (it has {found}): it needs tables [sets.NAME] with data, and nothing else.")
    sets = tuple(one for name, table in tables.items() for one in _sets(path, name, table))
    if len({one.name for one in sets}) < len(sets):
        raise ValueError(f"{path}: two sets have one name: rename one of {', '.join(one.name for one in sets)}.")
    return sets


def _sets(path: Path, name: str, table: object) -> Iterator[DataSet]:
    """Yield the sets of one table: one, or one per protocol."""
    values = dict(table) if isinstance(table, Mapping) else {}
    if not isinstance(values.get("data"), str):
        raise ValueError(f'{path}: set {name!r} has no data: write data = "FILE.h5".')
    if "protocol" in values and "protocols" in values:
        raise ValueError(f"{path}: set {name!r} has both protocol and protocols: remove one.")
    file = path.parent / values.pop("data")
    if not file.is_file():
        raise ValueError(f"{path}: set {name!r}: {file} does not exist; build it with python -m preprocessing.build")
    one, several = values.pop("protocol", ""), values.pop("protocols", None)
    if not isinstance(one, str):
        raise ValueError(f'{path}: set {name!r}: protocol {one!r} is not a text: write protocol = "NAME".')
    if several is not None and several != ALL and not (several and is_texts(several)):
        raise ValueError(
            f"{path}: set {name!r}: protocols {several!r} is not a list of protocols: write "
            f'protocols = ["NAME", "NAME"], or "{ALL}".'
        )
    settings = flat(values, ".")
    _check(path, name, settings)
    if several is None:
        yield DataSet(file, name, one, settings)
        return
    for protocol in list(_open(file).splits) if several == ALL else several:
        yield DataSet(file, f"{name}, {protocol}", protocol, settings)


def is_texts(value: object) -> bool:
    """Return whether a value of a TOML file is a list of texts."""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _open(path: Path, fast_start: bool = False) -> SkeletonFile:
    from preprocessing.hdf5 import open_file  # loads h5py, which --help need not

    return open_file(path, fast_start)


def _check(path: Path, name: str, settings: Mapping[str, Any]) -> None:
    if taken := sorted((RESERVED | {"input.protocol"}) & set(settings)):
        raise ValueError(f"{path}: set {name!r} cannot set {', '.join(taken)}: use data and protocol.")
    try:
        from_dict(nested({"data": "", "out": "", **settings}))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: set {name!r}: {error}") from None
