"""Match a data file to the data that a network was trained on: stages, joints and classes, each by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from preprocessing.hdf5 import SkeletonFile

if TYPE_CHECKING:
    from pipeline.run_folder import Metadata

# Stages that choose bodies and frames. The others change coordinates, so a network needs the ones it was trained with.
SELECTING = {
    "absent", "unit", "copied", "people", "join", "length", "spread", "motion", "actors", "compact", "peer-length",
    "ctr-spread", "ctr-actors", "ctr-missing", "pyskl-spread", "pyskl-actors", "pyskl-trim",
}  # fmt: skip
JOINT_PARAMETERS = ("joint", "left", "right", "top", "bottom")
SHOWN = 5  # names in a message


class Skeleton(Protocol):
    """Joints of a data file; `SkeletonFile` and `Metadata` both have them."""

    @property
    def joint_names(self) -> list[str]: ...  # noqa: D102
    @property
    def bones(self) -> Any: ...  # noqa: D102


class Match(NamedTuple):
    """A data file as the network sees it."""

    file: SkeletonFile
    """Joints in the network's order, labels as the network numbers its classes."""
    known_N: np.ndarray
    """(N,) bool: clips of classes that the network knows. The label of any other clip means nothing."""
    shared: list[str]
    """Classes of the network that the file has."""
    notes: list[str]
    """Sentences about what was mapped and what is left out."""


def match(file: SkeletonFile, metadata: Metadata, network: str, labels: bool = True) -> Match:
    """Return a data file with the joints and classes of a network.

    Args:
        file: The data file.
        metadata: Metadata of the data that the network was trained on.
        network: Name of the network for messages, such as the path of its run folder.
        labels: Map the labels too; otherwise no clip is known.

    Raises:
        ValueError: Channels, stages, joints or classes do not fit; the message names what differs and the remedy.
    """
    notes: list[str] = []
    channels = file.joints_RV3.shape[2]
    if channels != metadata.channels:
        raise ValueError(
            f"{file.path} has {channels} channels per joint, and {network} was trained on {metadata.channels}. "
            f"Build a file with {metadata.channels} channels, or train a network on this one."
        )
    order_V = matched_joints(file, metadata, str(file.path), network)
    notes += filter(None, [joints_note(file.joint_names, metadata.joint_names, order_V)])
    origin = check_stages(file, metadata, network, order_V, notes)
    if labels:
        label_N, known_N, shared = map_labels(file, metadata, network, notes)
    else:
        label_N, known_N, shared = np.zeros_like(file.clips["label"]), np.zeros(len(file.clips["label"]), bool), []
    # Copies in memory: only a file in another joint order, or about another origin, pays for them.
    if order_V != list(range(len(file.joint_names))):
        tracked_RV = None if file.tracked_RV is None else np.ascontiguousarray(file.tracked_RV[:, order_V])
        joints_RV3 = np.ascontiguousarray(file.joints_RV3[:, order_V])
        file = dataclasses.replace(file, joints_RV3=joints_RV3, tracked_RV=tracked_RV)
    if origin is not None:
        file = recentred(file, origin)
    file = dataclasses.replace(
        file,
        joint_names=list(metadata.joint_names),
        bones=np.array(metadata.bones, np.int64).reshape(-1, 2),
        class_names=list(metadata.class_names),
        clips=file.clips | {"label": label_N},
    )
    return Match(file, known_N, shared, notes)


def plain(name: str) -> str:
    """Return a name without capitals, hyphens, underscores and repeated spaces."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def plain_joint(name: str) -> str:
    """Return a joint's name as `plain` does, with its words in one order and one spelling: `hip left`, `left hip`."""
    return " ".join(sorted(plain(name).replace("centre", "center").split()))


def places(wanted: Sequence[str], offered: Sequence[str], written: Callable[[str], str] = plain) -> list[int]:
    """Return the position in `offered` of each wanted name, -1 where it is missing.

    Names are compared as `written` writes them, unless that makes two names of a list equal.
    """
    distinct = all(len({written(name) for name in names}) == len(set(names)) for names in (wanted, offered))
    key = written if distinct else str
    at = {key(name): place for place, name in enumerate(offered)}
    return [at.get(key(name), -1) for name in wanted]


def placeholders(names: Sequence[str], word: str) -> bool:
    """Return whether names are the numbers that a file without names gets, such as `joint 0`."""
    return list(names) == [f"{word} {place}" for place in range(len(names))]


def joint_places(mine: Skeleton, theirs: Skeleton) -> list[int]:
    """Return the position in `theirs` of each joint of `mine`, -1 where it has none.

    Joints are matched by name. Where one side has no names, equal bones make them the same ones; else none matches.
    """
    wanted, offered = mine.joint_names, theirs.joint_names
    trees = [{(int(parent), int(child)) for parent, child in one.bones} for one in (mine, theirs)]
    if placeholders(wanted, "joint") or placeholders(offered, "joint"):
        same = len(wanted) == len(offered) and trees[0] == trees[1]
        return list(range(len(wanted))) if same else [-1] * len(wanted)
    return places(wanted, offered, plain_joint)


def matched_joints(mine: Skeleton, theirs: Skeleton, where: str, network: str) -> list[int]:
    """Return the joint of `mine` for each joint of the network's data, `theirs`.

    ValueError names what is missing; `where` is the path of `mine`.
    """
    order_V = joint_places(theirs, mine)
    have, want = mine.joint_names, theirs.joint_names
    missing = [want[v] for v, place in enumerate(order_V) if place < 0]
    unnamed = placeholders(have, "joint") or placeholders(want, "joint")
    if missing:
        lacks = "has other bones, and joints have no names" if unnamed else f"has no {_listed(missing)}"
        raise ValueError(
            f"{where} {lacks}: {network} was trained on {len(want)} joints ({_listed(want)}), and the file has "
            f"{len(have)} ({_listed(have)}). Build the file with joint_names in the words of that training data."
        )
    return order_V


def joints_note(mine: Sequence[str], theirs: Sequence[str], order_V: list[int]) -> str:
    """Return how joints were matched; empty if both have the same ones in the same order."""
    if (placeholders(mine, "joint") or placeholders(theirs, "joint")) and list(mine) != list(theirs):
        return "Joints are matched by their number: one side has no joint names, and the bones are equal."
    if order_V != list(range(len(mine))):
        dropped = len(mine) - len(order_V)
        return "Joints are mapped by name" + (f"; the file's {dropped} other joints are left out." if dropped else ".")
    return ""


def check_stages(
    file: SkeletonFile, metadata: Metadata, network: str, order_V: Sequence[int], notes: list[str]
) -> int | None:
    """Compare the stages of the file with those of the network's data.

    The joint of stage `centre` may differ: later stages turn and scale about the origin, so that the file's clips can
    be centred again. Stages that select bodies may differ, with a note.

    Args:
        file: The data file.
        metadata: Metadata of the data that the network was trained on.
        network: Name of the network for messages.
        order_V: The file's joint for each joint of the network.
        notes: Notes are added here.

    Returns:
        The network's joint to centre the clips on again, or None.

    Raises:
        ValueError: Other stages that change coordinates differ.
    """
    theirs = _stages(metadata.recipe, metadata.joint_names)
    # The file's joints under the network's names, which may be spelled in another way.
    names = {place: metadata.joint_names[v] for v, place in enumerate(order_V)}
    mine = _stages(file.recipe, [names.get(place, name) for place, name in enumerate(file.joint_names)])
    shaping = [_shaping(stages) for stages in (mine, theirs)]
    if shaping[0] != shaping[1]:
        bare = [[stage._replace(given=()) if stage.name == "centre" else stage for stage in one] for one in shaping]
        if bare[0] != bare[1]:
            odd = [[one for one in a if one not in b] or a for a, b in (shaping, shaping[::-1])]
            raise ValueError(
                f"{file.path} was built with other stages: {_described(odd[0])}. {network} was trained on clips after "
                f"{_described(odd[1])}. Build the file again with those (preprocessing.build --recipe, --add)."
            )
        origin = next(str(value) for stage in shaping[1] if stage.name == "centre" for _, value in stage.given)
        notes.append(f"Clips are centred again, on {origin}, as in the training data.")
        return metadata.joint_names.index(origin)
    if mine != theirs:
        notes.append(f"Bodies were selected in another way: by {_described(mine)} here, {_described(theirs)} there.")
    return None


def stages_note(mine: Metadata, theirs: Metadata) -> str:
    """Return a note if the stages that change coordinates differ between two data files; empty if they do not."""
    here, there = (
        _shaping(_stages(one.recipe, [plain_joint(name) for name in one.joint_names])) for one in (mine, theirs)
    )
    if here == there:
        return ""
    return f"clips after {_described(here)} here, after {_described(there)} there"


def recentred(file: SkeletonFile, joint: int) -> SkeletonFile:
    """Return the file with each clip about `joint` of its first body in the first frame that has it.

    As in stage `centre`, the mean of the joints that were found takes the place of one that is absent in all frames.
    """
    joints_RV3 = np.array(file.joints_RV3)
    found_RV = np.repeat(file.present_R[:, None], joints_RV3.shape[1], axis=1)
    if file.tracked_RV is not None:
        found_RV &= file.tracked_RV > 0
    frames_N, first_N, bodies_N = (np.asarray(file.clips[key]) for key in ("frames", "first_body", "bodies"))
    for frames, first, bodies in zip(frames_N, first_N, bodies_N, strict=True):
        rows = [slice(int(start), int(start) + int(frames)) for start in file.body_start[first : first + bodies]]
        if not bodies or not found_RV[rows[0]].any():
            continue
        seen_F = np.flatnonzero(found_RV[rows[0], joint])
        first_row = rows[0].start + (seen_F[0] if len(seen_F) else int(np.argmax(found_RV[rows[0]].any(axis=1))))
        marks_V = np.arange(joints_RV3.shape[1]) == joint if len(seen_F) else found_RV[first_row]
        origin_C = joints_RV3[first_row][marks_V].mean(axis=0)
        for part in rows:
            joints_RV3[part] = np.where(found_RV[part][..., None], joints_RV3[part] - origin_C, 0)
    return dataclasses.replace(file, joints_RV3=joints_RV3)


def map_labels(
    file: SkeletonFile, metadata: Metadata, network: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return each clip's label in the network's numbers (N,), which are known (N,) bool, and the shared classes."""
    names, known = list(file.class_names), list(metadata.class_names)
    place_K = np.array(places(names, known), np.int64)
    unnamed = placeholders(names, "class") or placeholders(known, "class")
    label_N = np.asarray(file.clips["label"], np.int64)
    there_K = np.isin(np.arange(len(names)), label_N)
    shared = [names[k] for k in np.flatnonzero((place_K >= 0) & there_K)]
    if (unnamed and len(names) != len(known)) or not shared:
        why = "Without class names on both sides, both need as many" if unnamed and shared else "None is shared"
        raise ValueError(
            f"The classes of {file.path} ({len(names)}: {_listed(names)}) are not those of {network} ({len(known)}: "
            f"{_listed(known)}). {why}: name the same actions by the same class_names, or train on the file with "
            f"--init {network}."
        )
    mapped_N = place_K[label_N]
    foreign = [names[k] for k in np.flatnonzero((place_K < 0) & there_K)]
    if foreign:
        clips = int((mapped_N < 0).sum())
        notes.append(
            f"{clips} clips of {len(foreign)} classes that the network does not know are left out: {_listed(foreign)}."
        )
    return mapped_N.clip(min=0), mapped_N >= 0, shared


class _Stage(NamedTuple):
    name: str
    given: tuple[tuple[str, Any], ...]
    """Parameters in order of their names; a joint stands under its name."""


def _shaping(stages: Sequence[_Stage]) -> list[_Stage]:
    """Stages that change coordinates."""
    return [stage for stage in stages if stage.name not in SELECTING]


def _stages(recipe: dict[str, Any], names: Sequence[str]) -> list[_Stage]:
    def value(key: str, given: Any) -> Any:
        return names[given] if key in JOINT_PARAMETERS and 0 <= given < len(names) else given

    return [
        _Stage(
            stage["stage"], tuple((key, value(key, given)) for key, given in sorted(stage.items()) if key != "stage")
        )
        for stage in recipe["stages"]
    ]


def _described(stages: Sequence[_Stage]) -> str:
    texts = [one.name + (f" ({', '.join(f'{k} {v}' for k, v in one.given)})" if one.given else "") for one in stages]
    return ", ".join(texts) or "no stage"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
