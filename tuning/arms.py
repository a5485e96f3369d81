"""ARMS: name -> the arms of a study. An arm is a set of settings, or a re-evaluation of an arm that is trained.

Your own study is a TOML file:

    baseline = "plain"            # the arm that the others are compared with
    common.optim.lr = 3e-4        # settings that all arms share
    [arms.plain]
    norm.kind = "none"
    [arms."group norm"]
    norm.kind = "gn"
    norm.groups = 16
    [arms."two ranks"]            # ranks: processes that train together
    ranks = 2
    [arms."recalibrated"]         # of: no training, the network of that arm is evaluated again
    of = "two ranks"
    re_evaluation = "per_call"    # variant, its name in older files, works as well

Or it starts from a named set of arms, may add others, and changes what all of them share, here the network:

    from = "question"
    common.model.name = "stgcn"

`always = ["plain", "group norm"]` names arms that `--screen` never removes; the baseline always stays. A second
dimension is a table of `cross`: each trained arm once more with its settings, here as "plain, input norm" and so on:

    [cross."input norm"]
    norm.input = "vc_masked"
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import from_dict
from pipeline.norms import NORMS, PERSONS_MODES
from pipeline.tracking.metric_names import flat
from tuning.re_evaluations import RE_EVALUATIONS
from tuning.sets import is_texts
from tuning.space import nested
from tuning.trial_spec import RESERVED


@dataclass(frozen=True)
class Arm:
    """One arm: settings that are trained, or a re-evaluation of a trained arm."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Flat settings (`norm.kind`)."""
    ranks: int = 1
    """Ranks per trial."""
    of: str = ""
    """The arm whose trained network is evaluated again; such an arm has no settings of its own."""
    re_evaluation: str = ""
    """Name in RE_EVALUATIONS."""


@dataclass(frozen=True)
class Arms:
    """All arms of a study and the baseline that the others are compared with.

    Raises:
        ValueError: The message names the arm and what is wrong with it.
    """

    baseline: str
    arms: dict[str, Arm]
    always: tuple[str, ...] = ()
    """Arms that a screening never removes, beside the baseline."""

    def trained(self) -> dict[str, Arm]:
        """Return the arms that are trained."""
        return {name: arm for name, arm in self.arms.items() if not arm.of}

    def only(self, names: Collection[str]) -> Arms:
        """Return the trained arms of these names, and the re-evaluations of them; the baseline is one of them."""
        arms = {name: arm for name, arm in self.arms.items() if (arm.of or name) in names}
        return Arms(self.baseline, arms, tuple(name for name in self.always if name in arms))

    def re_evaluations_of(self, name: str) -> tuple[str, ...]:
        """Return the re-evaluations that other arms need of this one."""
        return tuple(arm.re_evaluation for arm in self.arms.values() if arm.of == name)

    def identity(self) -> dict[str, Any]:
        """Return the arms as plain values, under the keys that the first line of a ledger has in every version."""
        arms = {
            name: {"settings": arm.settings, "ranks": arm.ranks, "of": arm.of, "variant": arm.re_evaluation}
            for name, arm in self.arms.items()
        }
        return {"arms": arms, "baseline": self.baseline}

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is not an arm: choose one of {', '.join(self.arms)}.")
        if unknown := [name for name in self.always if name not in self.arms]:
            raise ValueError(f"always: {unknown[0]!r} is not an arm: choose from {', '.join(self.arms)}.")
        for name, arm in self.arms.items():
            self._check(name, arm)

    def _check(self, name: str, arm: Arm) -> None:
        if bool(arm.of) != bool(arm.re_evaluation):
            raise ValueError(f"arm {name!r} needs both `of` and `re_evaluation`, or neither.")
        if arm.of and arm.of not in self.trained():
            raise ValueError(f"arm {name!r} is of {arm.of!r}, which is not a trained arm.")
        if arm.re_evaluation and arm.re_evaluation not in RE_EVALUATIONS:
            known = ", ".join(RE_EVALUATIONS)
            raise ValueError(f"arm {name!r}: re_evaluation {arm.re_evaluation!r} is unknown: choose one of {known}.")
        if arm.ranks < 1:
            raise ValueError(f"arm {name!r}: ranks {arm.ranks} is too small: must be at least 1.")
        if RESERVED & set(arm.settings):
            raise ValueError(f"arm {name!r} cannot set seed, data, out or nproc (use `ranks` for the latter).")
        try:
            from_dict(nested({"data": "", "out": ""} | arm.settings))
        except (ValueError, TypeError) as error:
            raise ValueError(f"arm {name!r}: {error}") from None


LOOP = {"norm.kind": "bn", "norm.persons": "loop", "norm.momentum": 0.01}


def _question() -> Arms:
    """The question's network, each of the answers it received, and further ones; one change each, or two."""

    def with_(**changes: Any) -> Arm:
        return Arm(LOOP | {name.replace("__", "."): value for name, value in changes.items()})

    asked = "BatchNorm in the loop"
    arms = {
        asked: Arm(LOOP),
        "no norm": with_(norm__kind="none"),
        "momentum 0 in evaluation": Arm(of=asked, re_evaluation="momentum_0"),
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
        # Momentum 0.01 averages over about 100 updates, too many for a short training. So these change both.
        "fold, momentum 0.1": with_(norm__persons="fold", norm__momentum=0.1),
        "masked, momentum 0.1": with_(norm__persons="masked", norm__momentum=0.1),
        "per person, momentum 0.1": with_(norm__persons="per_person", norm__momentum=0.1),
        "recalibrated jointly": Arm(of=asked, re_evaluation="joint"),
        "recalibrated per call": Arm(of=asked, re_evaluation="per_call"),
        "two ranks, synchronised": Arm(LOOP | {"norm.sync": True}, ranks=2),
        "two ranks, each its own": Arm(LOOP | {"norm.sync": False}, ranks=2),
    }
    return Arms(asked, arms)


def _norms() -> Arms:
    """Every kind of norm over the bodies that are present, against none."""

    def settings(kind: str) -> dict[str, Any]:
        more = {"norm.groups": 8, "norm.freeze_after": 100}
        own = {name: value for name, value in more.items() if name.removeprefix("norm.") in NORMS[kind].settings}
        return {"norm.kind": kind, "norm.persons": "masked"} | own

    # On one rank a synchronized kind equals another.
    return Arms("none", {kind: Arm(settings(kind)) for kind, norm in NORMS.items() if not norm.synchronized})


def _persons() -> Arms:
    """BatchNorm in every persons mode at the default momentum, against the loop; LayerNorm in each as a control."""
    arms = {f"bn, {persons}": Arm({"norm.kind": "bn", "norm.persons": persons}) for persons in PERSONS_MODES}
    arms |= {f"gn1, {persons}": Arm({"norm.kind": "gn1", "norm.persons": persons}) for persons in PERSONS_MODES}
    return Arms("bn, loop", arms)


ARMS = {"question": _question, "norms": _norms, "persons": _persons}


class Form(NamedTuple):
    """Values that a key of a TOML file takes."""

    fits: Callable[[object], bool]
    needs: str
    """The same in words."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _has_tables(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_table, value.values()))


KEYS = {
    "from": Form(_is_text, 'the name of a set of arms: write from = "norms"'),
    "baseline": Form(_is_text, 'the name of an arm: write baseline = "NAME"'),
    "always": Form(is_texts, 'a list of arms: write always = ["NAME", "NAME"]'),
    "common": Form(_is_table, "settings: write common.SECTION.NAME = VALUE"),
    "arms": Form(_has_tables, "tables: write [arms.NAME] and settings below it"),
    "cross": Form(
        lambda value: isinstance(value, dict) and all(_is_table(table) and table for table in value.values()),
        "tables with settings: write [cross.NAME] and a setting below it",
    ),
}
ARM_KEYS = {
    "ranks": Form(lambda value: type(value) is int, "a whole number"),
    "of": Form(_is_text, "the name of an arm"),
    "re_evaluation": Form(_is_text, "the name of a re-evaluation"),
}


def read_arms(name: str) -> Arms:
    """Return the arms of a name, or of a TOML file.

    Args:
        name: A name in ARMS, or the path of a .toml file.

    Raises:
        ValueError: The name is unknown, or the file is wrong; the message lists what is allowed.
    """
    if name in ARMS:
        return ARMS[name]()
    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        near = difflib.get_close_matches(name, ARMS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"arms {name!r} are unknown{hint}: choose one of {', '.join(ARMS)}, or a .toml file.")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    return _from_toml(path, values)


def _from_toml(path: Path, values: Mapping[str, Any]) -> Arms:
    """Return the arms of a TOML file, those of `from` first."""
    unknown = set(values) - KEYS.keys()
    for key, value in values.items():
        if key in KEYS and not KEYS[key].fits(value):
            raise ValueError(f"{path}: {key} needs {KEYS[key].needs}.")
    base = values.get("from", "")
    if base and base not in ARMS:
        raise ValueError(f"{path}: arms {base!r} to start from are unknown: choose one of {', '.join(ARMS)}.")
    if unknown or not base and not ("arms" in values and "baseline" in values):
        wrong = f"unknown: {', '.join(sorted(unknown))}" if unknown else "baseline or [arms.NAME] is missing"
        needed = "baseline and [arms.NAME], or from; common, cross and always are optional"
        raise ValueError(f"{path} is wrong ({wrong}): it needs {needed}.")
    common = flat(values.get("common", {}), ".")
    arms = {name: _arm(path, name, common, arm) for name, arm in values.get("arms", {}).items()}
    always = values.get("always", [])
    baseline = values.get("baseline", "")
    if base:
        named = ARMS[base]()
        baseline = values.get("baseline", named.baseline)
        if taken := sorted(named.arms.keys() & arms.keys()):
            raise ValueError(f"{path}: arm {taken[0]!r} is one of {base!r} already: choose another name.")
        own = {key: arm if arm.of else replace(arm, settings=common | arm.settings) for key, arm in named.arms.items()}
        arms = own | arms
    return Arms(baseline, arms | _crossed(path, arms, values.get("cross", {})), tuple(always))


def _crossed(path: Path, arms: Mapping[str, Arm], cross: Mapping[str, Any]) -> dict[str, Arm]:
    """Return each trained arm once more per table of `cross`, with the settings of that table."""
    made: dict[str, Arm] = {}
    for title, table in cross.items():
        for name, arm in arms.items():
            if arm.of:
                continue
            crossed = f"{name}, {title}"
            if crossed in arms or crossed in made:
                where = "one of [arms] and one of [cross]" if crossed in arms else "both of [cross]"
                raise ValueError(f"{path}: two arms are named {crossed!r}, {where}: rename one.")
            made[crossed] = replace(arm, settings=arm.settings | flat(table, "."))
    return made


def _arm(path: Path, name: str, common: dict[str, Any], table: Mapping[str, Any]) -> Arm:
    """Return the arm of one table; `variant` is the older name of re_evaluation."""
    values = dict(table)
    if "variant" in values:
        if "re_evaluation" in values:
            raise ValueError(f"{path}: arm {name!r} has both re_evaluation and variant, its older name: remove one.")
        values["re_evaluation"] = values.pop("variant")
    own = {key: values.pop(key) for key in ARM_KEYS if key in values}
    for key, value in own.items():
        if not ARM_KEYS[key].fits(value):
            raise ValueError(f"{path}: arm {name!r}: {key} {value!r} is not {ARM_KEYS[key].needs}.")
    if own.get("of"):
        if ignored := sorted([*flat(values, "."), *(["ranks"] if "ranks" in own else [])]):
            raise ValueError(
                f"{path}: arm {name!r} is evaluated again and not trained, so it cannot set {', '.join(ignored)}. "
                "Remove `of` to train it, or remove the settings."
            )
        return Arm(**own)
    return Arm(common | flat(values, "."), **own)
