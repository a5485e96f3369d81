"""ARMS: name -> the arms of a study. An arm is a set of settings, or another evaluation of an arm that is trained.

A TOML file makes a study of one's own:

    baseline = "plain"            # the arm that the others are compared with
    common.optim.lr = 3e-4        # settings of all arms
    [arms.plain]
    norm.kind = "none"
    [arms."group norm"]
    norm.kind = "gn"
    norm.groups = 16
    [arms."two ranks"]            # ranks: processes that train together
    ranks = 2
    [arms."recalibrated"]         # of: nothing is trained, the named arm is evaluated in another way
    of = "two ranks"
    variant = "per_call"

Or it takes the arms of a name and changes what all of them share, here to ask the question of another network:

    from = "question"
    common.model.name = "stgcn"
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import from_dict
from pipeline.models.bodies import PERSONS
from pipeline.norms import NORMS
from tuning.space import has_groups, nested
from tuning.variants import VARIANTS


@dataclass(frozen=True)
class Arm:
    """What one arm changes."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Flat settings (`norm.kind`)."""
    ranks: int = 1
    of: str = ""
    """The arm whose trained network is evaluated anew; then nothing else is set."""
    variant: str = ""
    """How: a name in VARIANTS."""


@dataclass(frozen=True)
class Arms:
    """All arms of a study, and the one that the others are compared with."""

    baseline: str
    arms: dict[str, Arm]

    def trained(self) -> dict[str, Arm]:
        """The arms that are trained."""
        return {name: arm for name, arm in self.arms.items() if not arm.of}

    def variants_of(self, name: str) -> tuple[str, ...]:
        """The further evaluations that other arms want of this one."""
        return tuple(arm.variant for arm in self.arms.values() if arm.of == name)

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is no arm; choose one of {', '.join(self.arms)}")
        for name, arm in self.arms.items():
            if bool(arm.of) != bool(arm.variant):
                raise ValueError(f"arm {name!r} needs both `of` and `variant`, or neither")
            if arm.of and arm.of not in self.trained():
                raise ValueError(f"arm {name!r} is of {arm.of!r}, which is no trained arm")
            if arm.variant and arm.variant not in VARIANTS:
                raise ValueError(
                    f"arm {name!r}: variant {arm.variant!r} is unknown; choose one of {', '.join(VARIANTS)}"
                )
            if arm.ranks < 1:
                raise ValueError(f"arm {name!r}: ranks {arm.ranks} must be 1 or more")
            if {"train.seed", "data", "out", "nproc"} & set(arm.settings):
                raise ValueError(f"arm {name!r}: seed, data, out and nproc are not an arm's to set (ranks is)")
            try:
                from_dict(nested({"data": "", "out": ""} | arm.settings))
            except (ValueError, TypeError) as error:
                raise ValueError(f"arm {name!r}: {error}") from None


LOOP = {"norm.kind": "bn", "norm.persons": "loop", "norm.momentum": 0.01}


def _question() -> Arms:
    """The question's network, each of the answers it got, and those it did not get, one change at a time or two."""

    def with_(**changes: Any) -> Arm:
        return Arm(LOOP | {name.replace("__", "."): value for name, value in changes.items()})

    asked = "BatchNorm in the loop"
    arms = {
        asked: Arm(LOOP),
        "no norm": with_(norm__kind="none"),
        "momentum 0 in evaluation": Arm(of=asked, variant="momentum_0"),
        "batch 256": with_(train__batch_size=256),
        "batch 16": with_(train__batch_size=16),
        "momentum 0.001": with_(norm__momentum=0.001),
        "momentum 0.1": with_(norm__momentum=0.1),
        "LayerNorm": with_(norm__kind="gn1"),
        "dropout 0": with_(model__dropout=0.0),
        "dropout 0.2": with_(model__dropout=0.2),
        "dropout 0.7": with_(model__dropout=0.7),
        "class order": with_(input__order="class"),
        "one shuffle": with_(input__order="once"),
        "fold": with_(norm__persons="fold"),
        "masked": with_(norm__persons="masked"),
        "per person": with_(norm__persons="per_person"),
        # Momentum 0.01 remembers about 100 updates: a short training leaves even these behind. So both changes, too.
        "fold, momentum 0.1": with_(norm__persons="fold", norm__momentum=0.1),
        "masked, momentum 0.1": with_(norm__persons="masked", norm__momentum=0.1),
        "per person, momentum 0.1": with_(norm__persons="per_person", norm__momentum=0.1),
        "recalibrated jointly": Arm(of=asked, variant="joint"),
        "recalibrated per call": Arm(of=asked, variant="per_call"),
        "two ranks, synchronised": Arm(LOOP | {"norm.sync": True}, ranks=2),
        "two ranks, each its own": Arm(LOOP | {"norm.sync": False}, ranks=2),
    }
    return Arms(asked, arms)


def _norms() -> Arms:
    """Every kind of norm over the bodies that are there, against none."""

    def settings(kind: str) -> dict[str, Any]:
        more: dict[str, Any] = {"norm.groups": 8} if has_groups(kind) else {}
        more |= {"norm.freeze_after": 100} if kind == "frozen_bn" else {}
        return {"norm.kind": kind, "norm.persons": "masked"} | more

    # On one rank sync_bn is bn.
    return Arms("none", {kind: Arm(settings(kind)) for kind in NORMS if kind != "sync_bn"})


def _persons() -> Arms:
    """BatchNorm in every persons mode at the usual momentum, against the loop; LayerNorm in each, where it is one."""
    arms = {f"bn, {persons}": Arm({"norm.kind": "bn", "norm.persons": persons}) for persons in PERSONS}
    arms |= {f"gn1, {persons}": Arm({"norm.kind": "gn1", "norm.persons": persons}) for persons in PERSONS}
    return Arms("bn, loop", arms)


ARMS = {"question": _question, "norms": _norms, "persons": _persons}


def read(name: str) -> Arms:
    """Arms by name, or from a TOML file by path. ValueError says what is wrong."""
    if name in ARMS:
        return ARMS[name]()
    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        near = difflib.get_close_matches(name, ARMS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no arms {name!r}{hint}; choose one of {', '.join(ARMS)}, or the path of a .toml file")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    unknown = set(values) - {"from", "baseline", "common", "arms"}
    base = values.get("from", "")
    if base and base not in ARMS:
        raise ValueError(f"{path}: no arms {base!r} to start from; choose one of {', '.join(ARMS)}")
    if unknown or not base and (not isinstance(values.get("arms"), dict) or "baseline" not in values):
        wrong = f"unknown: {', '.join(sorted(unknown))}" if unknown else "baseline or [arms.NAME] is missing"
        raise ValueError(f"{path} needs baseline, [arms.NAME] and perhaps common, or from ({wrong})")
    common = flat(values.get("common", {}))
    arms = {name: _arm(common, arm) for name, arm in values.get("arms", {}).items()}
    if not base:
        return Arms(values["baseline"], arms)
    named = ARMS[base]()
    shared = {name: arm if arm.of else replace(arm, settings=common | arm.settings) for name, arm in named.arms.items()}
    return Arms(values.get("baseline", named.baseline), shared | arms)


def _arm(common: dict[str, Any], values: dict[str, Any]) -> Arm:
    own = {key: values[key] for key in ("ranks", "of", "variant") if key in values}
    if own.get("of"):
        return Arm(**own)
    return Arm(common | flat({key: value for key, value in values.items() if key not in own}), **own)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"norm": {"kind": "bn"}}` -> `{"norm.kind": "bn"}`; names that are flat already stay."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result
