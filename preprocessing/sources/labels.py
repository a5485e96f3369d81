"""Labels of clips in formats that carry none: a labels CSV, the folder, or the file's name.

A labels CSV has a header with `clip` and `label`, and optional columns `subject`, `view`, `setup`, `replication` and
`split`. It is named by --labels, or lies as labels.csv in the folder of the recordings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from preprocessing import ntu
from preprocessing.layouts import Layout
from preprocessing.skeleton import SkeletonError
from preprocessing.sources.delimited import read_table
from preprocessing.sources.entries import COLUMNS, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.folders import PART_WORDS, PARTS, AmbiguousFolders, FolderFacts, folder_facts
from preprocessing.sources.label_arrays import check_label
from preprocessing.sources.trees import LABELS, Tree, read_file
from preprocessing.stages.recipes import Stage

CLIP_WORDS = ("clip", "name", "file", "filename", "sample", "video")
LABEL_WORDS = ("label", "class", "action", "category")
_POINT = re.compile(r"(\d+)(?:\.0*)?")
_NUMBERS = (
    # NTU RGB+D; NW-UCLA; UTD-MHAD.
    re.compile(r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<subject>\d{3})R(?P<replication>\d{3})A(?P<action>\d{3})"),
    re.compile(r"a(?P<action>\d+)_s(?P<subject>\d+)_e(?P<replication>\d+)_v(?P<camera>\d+)", re.IGNORECASE),
    re.compile(r"a(?P<action>\d+)_s(?P<subject>\d+)_t(?P<replication>\d+)(_skeleton)?", re.IGNORECASE),
)


class Found(NamedTuple):
    """One clip that a reader found, and what its format says about it."""

    entry: Entry
    path: str = ""  # inside the tree; its folder may name the class
    label: int | str | None = None
    numbers: Mapping[str, int] = {}  # setup, camera, subject, replication


def name_numbers(name: str) -> dict[str, int]:
    """Return the numbers in a clip's name (action, subject, camera, ...) if it follows a published pattern."""
    for pattern in _NUMBERS:
        if match := pattern.fullmatch(name):
            return {key: int(value) for key, value in match.groupdict().items() if value}
    return {}


class Labelling(NamedTuple):
    """Labels of clips, and what else is known about them."""

    clips: list[Found]
    label_N: np.ndarray
    class_names: list[str]
    numbers: list[dict[str, int]]  # COLUMNS but label -> value
    parts: np.ndarray | None = None
    unusable: tuple[SkeletonError, ...] = ()
    notes: tuple[str, ...] = ()


def labelled_source(
    trees: Sequence[Tree],
    clips: Sequence[Found],
    layout: Layout,
    reading: Reading,
    *,
    fps: float = ntu.FPS,
    kinect: bool = False,
    channels: tuple[str, ...] = SPACE,
    unit: str = "m",
    scores: bool = False,
    class_names: Sequence[str] = (),
    protocols: Mapping[str, Mapping[str, str]] | None = None,
    stages: tuple[Stage, ...] = (),
) -> ClipSource:
    """Make a source of clips: sorted by name, with labels from a CSV, their format, their folder or their name.

    Args:
        trees: The paths that were named as sources.
        clips: Clips in any order.
        layout: Joints and bones.
        reading: How to read.
        fps: Frames per second.
        kinect: True for raw tracks, from which bodies are still to be selected.
        channels: Names of the coordinates.
        unit: Unit of the coordinates.
        scores: Whether tracks carry scores.
        class_names: Names of the classes, where the format has labels from 0.
        protocols: Protocol -> clip name -> part, where the format has splits.
        stages: Stages that the source needs before those of the recipe.

    Raises:
        SourceError: There are no clips, two have one name, or labels are missing.
    """
    found = uniquely_named(clips)
    if not found:
        raise SourceError(f"no recordings in {', '.join(str(tree.path) for tree in trees)}")
    rows, where = _label_rows(trees, reading)
    official = () if rows else _ntu_classes(found)
    labelled = (
        _from_table(found, rows, where) if rows else _from_format(found, class_names or official, official, reading)
    )
    names = [clip.entry.name for clip in labelled.clips]
    columns = {key: np.array([row.get(key, 0) for row in labelled.numbers], np.int64) for key in COLUMNS[1:]}
    given = {} if labelled.parts is None else {"split": labelled.parts}
    given |= {key: columns[one] for key, one in (("view", "camera"), ("subject", "subject")) if columns[one].any()}
    return ClipSource(
        dataset=trees[0].path.resolve().stem,
        joint_names=list(layout.joint_names),
        bones=layout.bone_array,
        fps=reading.fps or fps,
        class_names=labelled.class_names,
        landmarks=layout.landmarks,
        kinect=kinect,
        entries=[clip.entry for clip in labelled.clips],
        columns={"label": labelled.label_N, **columns},
        unusable=list(labelled.unusable),
        given=given,
        benchmark=bool(official),
        protocols={
            protocol: np.array([members.get(name, "") for name in names])
            for protocol, members in (protocols or {}).items()
        },
        channels=channels,
        unit=unit,
        scores=scores,
        stages=stages,
        notes=[*labelled.notes, *_alike(labelled.class_names), *_unplaced(protocols or {}, names)],
    )


def _unplaced(protocols: Mapping[str, Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """Return a note per protocol with clips in no part, or with members that are not there."""
    notes = []
    for protocol, members in protocols.items():
        if without := sum(name not in members for name in names):
            notes.append(f"{without} of {len(names)} clips are in no part of {protocol}")
        if stray := sorted(set(members) - set(names)):
            notes.append(f"{protocol} names {len(stray)} clips that are not there, such as {stray[0]}")
    return notes


def uniquely_named(clips: Sequence[Found]) -> list[Found]:
    """Return clips in the order of their names; where files of several folders share a name, the path is the name.

    Raises:
        SourceError: Two clips have one name, and their paths do not tell them apart.
    """
    names = Counter(clip.entry.name for clip in clips)
    paths = Counter(clip.path for clip in clips)
    if len(names) < len(clips) and len(paths) == len(clips) and all(clip.path.count("/") for clip in clips):
        clips = [clip._replace(entry=clip.entry._replace(name=_without_suffix(clip.path))) for clip in clips]
    clips = sorted(clips, key=lambda clip: clip.entry.name)
    for one, other in zip(clips, clips[1:], strict=False):
        if one.entry.name == other.entry.name:
            raise SourceError(
                f"clip {one.entry.name} occurs twice: {one.entry.origin} and {other.entry.origin}; remove one"
            )
    return clips


def _without_suffix(path: str) -> str:
    folder, slash, file = path.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _alike(class_names: Sequence[str]) -> list[str]:
    """Return a note if class names differ only in their case or spaces."""
    plain = Counter(re.sub(r"[\s_-]+", " ", name).casefold() for name in class_names)
    alike = [name for name in class_names if plain[re.sub(r"[\s_-]+", " ", name).casefold()] > 1]
    return [f"classes {', '.join(map(repr, alike[:4]))} differ only in case or spaces: are they one?"] if alike else []


def _from_table(clips: Sequence[Found], rows: Mapping[str, dict[str, str]], where: str) -> Labelling:
    """Label clips by the rows of a labels CSV; clips that it does not name are unusable."""
    files = Counter(clip.path.rpartition("/")[2] for clip in clips)
    chosen = [_row(rows, clip, files) for clip in clips]
    unusable = [
        SkeletonError(clip.entry.name, 0, "no-label", f"{where} does not name it")
        for clip, row in zip(clips, chosen, strict=True)
        if row is None
    ]
    if len(unusable) == len(clips):
        raise SourceError(
            f"{where} names none of the {len(clips)} clips, such as {clips[0].entry.name}. Put clip names, or file"
            " names, into its first column."
        )
    kept = [(clip, row) for clip, row in zip(clips, chosen, strict=True) if row is not None]
    labelled = [row for _, row in kept]
    numbers = _row_numbers(labelled, [{**name_numbers(clip.entry.name), **clip.numbers} for clip, _ in kept])
    parts = (
        split_parts([row["split"] for row in labelled], where) if all(row.get("split") for row in labelled) else None
    )
    label_N, names = number_texts([row["label"] for row in labelled])
    notes = _table_notes(rows, labelled, where)
    return Labelling([clip for clip, _ in kept], label_N, names, numbers, parts, tuple(unusable), notes)


def _table_notes(rows: Mapping[str, dict[str, str]], used: Sequence[dict[str, str]], where: str) -> tuple[str, ...]:
    """Return a line for rows without a clip, and for each column that is not used because cells of it are empty."""
    known = {row["clip"] for row in used}
    stray = [name for name in rows if name not in known]
    notes = [f"{where} names {len(stray)} clips that are not there, such as {stray[0]}"] if stray else []
    for column in ("split", "subject", "view", "camera", "setup"):
        empty = sum(not row.get(column) for row in used)
        if 0 < empty < len(used):
            notes.append(f"{where}: column {column} is not used, because it is empty for {empty} of {len(used)} clips")
    return tuple(notes)


def _from_format(
    clips: Sequence[Found], class_names: Sequence[str], official: Sequence[str], reading: Reading
) -> Labelling:
    """Label clips by their format, else their folders, else their names."""
    numbers = [{**name_numbers(clip.entry.name), **clip.numbers} for clip in clips]
    parts = None
    facts = FolderFacts()
    if not official:
        try:
            facts = folder_facts([clip.path for clip in clips])
        except AmbiguousFolders as error:
            if reading.labelled and any(clip.label is None for clip in clips):
                raise SourceError(f"{error}: name the class of each clip in {LABELS} (clip,label).") from None
    if facts.subjects and not any("subject" in row for row in numbers):
        numbers = [row | {"subject": subject} for row, subject in zip(numbers, facts.subjects, strict=True)]
    if facts.parts:
        parts = np.array(facts.parts)
    label_N, names = _own_labels(clips, numbers, class_names, facts.labels, reading)
    return Labelling(list(clips), label_N, names, numbers, parts)


def number_texts(texts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Number class names from 0: (N,) labels, and the names in order, numbers by their value."""
    texts = _without_point(texts)
    names = sorted(set(texts), key=lambda text: (0, int(text), text) if text.isdecimal() else (1, 0, text))
    place = {name: label for label, name in enumerate(names)}
    return np.array([place[text] for text in texts], np.int64), names


def _without_point(texts: Sequence[str]) -> Sequence[str]:
    """Return whole numbers without the point that spreadsheets add (1.0) if all texts are such numbers."""
    numbers = [_POINT.fullmatch(text) for text in texts]
    return [number[1] for number in numbers if number] if all(numbers) else texts


def _own_labels(
    clips: Sequence[Found],
    numbers: Sequence[Mapping[str, int]],
    class_names: Sequence[str],
    folders: Sequence[str],
    reading: Reading,
) -> tuple[np.ndarray, list[str]]:
    """Return labels and class names from the format, else from the folders, else from the names."""
    labels = [clip.label for clip in clips]
    if all(isinstance(label, str) for label in labels):
        return number_texts([str(label) for label in labels])
    if all(isinstance(label, int) for label in labels):
        whole = [label for label in labels if isinstance(label, int)]
        if min(whole) < 0:
            raise SourceError(f"label {min(whole)} of a clip is negative; labels count from 0")
        most = max(whole)
        check_label("label", most)
        label_N = np.array(whole, np.int64)
        if class_names and most >= len(class_names):
            raise SourceError(f"label {most} has no class name; there are {len(class_names)}")
        return label_N, list(class_names) or [f"class {k}" for k in range(most + 1)]
    if len(class_names) in (60, 120) and all("setup" in row for row in numbers):
        return np.array([row["action"] - 1 for row in numbers], np.int64), list(class_names)
    if all("action" in row for row in numbers):
        return number_texts([str(row["action"]) for row in numbers])
    if folders:
        return number_texts(folders)
    fronts = [clip.entry.name.rpartition("/")[2].rpartition("_")[0] for clip in clips]
    if all(fronts):
        return number_texts(fronts)
    if not reading.labelled:
        return np.zeros(len(clips), np.int64), ["unknown"]
    bare = [clip for clip, front in zip(clips, fronts, strict=True) if not front]
    unnamed = next((clip for clip in bare if clip.label is None), bare[0])
    raise SourceError(
        f"clip {unnamed.entry.name} has no label. Add {LABELS} with the columns clip,label beside the recordings (or"
        " --labels FILE), put each class into a folder of its own, or name files CLASS_NUMBER."
    )


def _ntu_classes(clips: Sequence[Found]) -> tuple[str, ...]:
    """Return the classes of NTU RGB+D if all names, and the labels where there are any, are its own."""
    highest = 0
    for clip in clips:
        try:
            action = ntu.parse_name(clip.entry.name).action
        except ValueError:
            return ()
        if clip.label not in (None, action - 1):
            return ()
        highest = max(highest, action)
    return ntu.CLASS_NAMES[: 60 if highest <= 60 else 120]


def _label_rows(trees: Sequence[Tree], reading: Reading) -> tuple[dict[str, dict[str, str]], str]:
    """Return the rows of the labels CSV by clip, and its place; nothing if there is none."""
    found = [(str(reading.labels), _content(str(reading.labels)))] if reading.labels else []
    if not found:
        found = [(item.origin, item.read()) for tree in trees for item in tree.items if item.name == LABELS]
    rows: dict[str, dict[str, str]] = {}
    for where, raw in found:
        for row in read_table(raw, where, {"clip": CLIP_WORDS, "label": LABEL_WORDS}):
            before = rows.setdefault(row["clip"], row)
            if before != row:
                differing = next(key for key in before if before[key] != row.get(key))
                raise SourceError(
                    f"{where} names clip {row['clip']} twice: {differing} {before[differing]!r} and"
                    f" {row.get(differing)!r}. Remove one of the rows."
                )
    if found and not rows:
        raise SourceError(f"{found[0][0]} has no rows below its header. Add a row clip,label per clip.")
    return rows, found[0][0] if found else ""


def _content(path: str) -> bytes:
    try:
        return read_file(path, path)
    except SkeletonError as error:
        raise SourceError(str(error)) from None


def _row(rows: Mapping[str, dict[str, str]], clip: Found, files: Mapping[str, int]) -> dict[str, str] | None:
    """Return the row of a clip, by its name, its path or its file's name, with or without suffix.

    The file's name counts only if one clip has it.
    """
    file = clip.path.rpartition("/")[2]
    file = file if files[file] == 1 else ""
    for key in (clip.entry.name, clip.path, file, clip.path.rpartition(".")[0], file.rpartition(".")[0]):
        if key and key in rows:
            return rows[key]
    return None


def _row_numbers(rows: Sequence[dict[str, str]], numbers: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    """Add the columns subject, view, setup and replication of a labels CSV; text is numbered from 1 in sorted order."""
    result = [dict(one) for one in numbers]
    for column, key in {"subject": "subject", "view": "camera", "camera": "camera", "setup": "setup",
                        "replication": "replication"}.items():  # fmt: skip
        values = _without_point([row.get(column, "") for row in rows])
        if not all(values):
            continue
        place = {text: number for number, text in enumerate(sorted(set(values)), 1)}
        whole = all(text.isdecimal() for text in values)
        for one, text in zip(result, values, strict=True):
            one[key] = int(text) if whole else place[text]
    return result


def split_parts(parts: Sequence[str], where: str) -> np.ndarray:
    """Return parts as an array of train, val and test; SourceError for an unknown one."""
    parts = [PART_WORDS.get(part.lower(), part) for part in parts]
    if odd := sorted(set(parts) - set(PARTS)):
        raise SourceError(f"{where}: split {odd[0]!r} is unknown; use {', '.join(PARTS)}")
    return np.array(parts)


def split_table(raw: bytes, where: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Parse a splits CSV (clip, part and optionally protocol): protocol -> (N,) parts of the clips `names`.

    Raises:
        SourceError: A part is unknown, a clip is named twice in one protocol, or no clip is known.
    """
    protocols: dict[str, dict[str, str]] = {}
    for row in read_table(raw, where, {"clip": CLIP_WORDS, "part": ("part", "split", "subset", "set")}):
        members = protocols.setdefault(row.get("protocol") or "own", {})
        if members.get(row["clip"], row["part"]) != row["part"]:
            raise SourceError(f"{where}: clip {row['clip']} is in {members[row['clip']]} and in {row['part']}")
        members[row["clip"]] = row["part"]
    for members in protocols.values():
        split_parts(list(members.values()), where)
    known = set(names)
    found = [
        {clip if clip in known else clip.rpartition(".")[0]: part for clip, part in members.items()}
        for members in protocols.values()
    ]
    if not any(clip in known for members in found for clip in members):
        raise SourceError(f"{where} names none of the {len(names)} clips, such as {names[0]}")
    return {
        protocol: np.where(
            np.isin(names, list(members)), split_parts([members.get(name, "train") for name in names], where), ""
        )
        for protocol, members in zip(protocols, found, strict=True)
    }
