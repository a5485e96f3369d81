"""Tables: CSV with the columns frame, body, joint, x, y, z and score, or a column per coordinate (nose_x, x0, ...).

A file is a clip, unless it has a column clip. body, z, score and label are optional; a joint without a row or with an
empty cell (or NaN, NA, null) is absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from preprocessing import ntu
from preprocessing.layouts import LAYOUTS, Layout
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.delimited import decode, header_of, read_table
from preprocessing.sources.documents import fault
from preprocessing.sources.entries import IMAGE, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import CLIP_WORDS, LABEL_WORDS, Found, labelled_source
from preprocessing.sources.tracks import Person, linked_clip, rate, selecting
from preprocessing.sources.trees import LABELS, SNIFFED, Item, Tree, content
from preprocessing.sources.zips import Packed

SUFFIXES = (".csv", ".tsv")
WORDS: dict[str, Sequence[str]] = {
    "frame": ("frame", "frame_id", "frame_index", "time", "timestamp", "timestamp_ms", "t"),
    "body": ("body", "person", "person_id", "track", "track_id", "pose", "pose_id"),
    "joint": ("joint", "joint_id", "keypoint", "landmark", "landmark_id", "name"),
    "score": ("score", "visibility", "confidence", "likelihood", "v", "c"),
}
_SCORE = r"score|visibility|confidence|conf|likelihood|v|c"
TIMES = ("time", "timestamp", "timestamp_ms")
NOTHING = frozenset(("", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "-", "1.#ind", "-1.#ind"))
"""Cells of an absent joint, in lower case."""
_NAMED = re.compile(rf"(?P<joint>.+?)[_ .](?P<axis>x|y|z|{_SCORE})")
_NUMBERED = re.compile(rf"(?P<axis>x|y|z|{_SCORE})_?(?P<joint>\d+)")


class Form(NamedTuple):
    """Reading of the tables of a source."""

    joints: tuple[str, ...]  # in order
    channels: tuple[str, ...]
    scored: bool
    wide: bool


class Place(NamedTuple):
    """One file, or the rows of one clip of a file."""

    file: str | Packed | None
    rows: tuple[dict[str, str], ...]
    form: Form


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds tables of joints."""
    return any(map(_is_table, _headers(tree)))


def _items(trees: Sequence[Tree], reading: Reading | None = None) -> list[Item]:
    """Return the tables, without labels and splits."""
    named = {str(path.resolve()) for path in (reading.labels, reading.splits) if path} if reading else set()
    return [
        item
        for tree in trees
        for item in tree.having(*SUFFIXES)
        if item.name != LABELS and not (isinstance(item.place, str) and str(Path(item.place).resolve()) in named)
    ]


def _headers(tree: Tree) -> Iterator[list[str]]:
    """Yield the columns of the first tables of a tree that can be read."""
    for item in _items([tree])[:SNIFFED]:
        try:
            yield header_of(decode(item.read(), item.origin).partition("\n")[0])
        except ValueError:
            continue


def _is_table(header: Sequence[str]) -> bool:
    """Return whether columns are those of a table of joints."""
    return ({"x", "y"} <= set(header) and any(word in header for word in WORDS["joint"])) or bool(_wide(header))


def _wide(header: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return column -> (joint, axis) of a table with a column per coordinate; empty if it is none."""
    for pattern in (_NUMBERED, _NAMED):
        found = {column: match for column in header if (match := pattern.fullmatch(column))}
        axes = {column: (match["joint"], _axis(match["axis"])) for column, match in found.items()}
        joints = {joint for joint, axis in axes.values() if axis == "x"} & {
            j for j, axis in axes.values() if axis == "y"
        }
        if len(joints) > 1:
            return {column: where for column, where in axes.items() if where[0] in joints}
    return {}


def _axis(word: str) -> str:
    return word if word in ("x", "y", "z") else "score"


def open_tables(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips or files of tables."""
    items = _items(trees, reading)
    if not items:
        raise SourceError(f"no tables in {', '.join(str(tree.path) for tree in trees)}")
    first, rows = _first(items)
    form, layout = _form(rows, trees, reading)
    fps = _rate(rows)
    several = next((word for word in CLIP_WORDS[:1] if word in rows[0]), "")
    label = next((word for word in LABEL_WORDS if word in rows[0]), "")
    clips = []
    for item in items:
        if several:
            clips += _clips_of(item, form, label)
        else:
            entry = Entry(item.stem, item.origin, item.size, item.stamp, read_clip, Place(item.place, (), form))
            clips.append(Found(entry, item.path, _label_of(item, label) if label else None))
    unit = "px" if form.channels == IMAGE else "m"
    return labelled_source(
        trees, clips, layout, reading, channels=form.channels, unit=unit, scores=form.scored, fps=fps or ntu.FPS,
        stages=selecting(3, form.scored, reading),
    )  # fmt: skip


def _first(items: Sequence[Item]) -> tuple[Item, list[dict[str, str]]]:
    """Return the first table that has rows; SourceError with the fault of the first if there is none."""
    why = ""
    for item in items:
        try:
            if rows := read_table(item.read(), item.origin, {}):
                return item, rows
            why = why or f"{item.origin} has no rows"
        except ValueError as error:
            why = why or str(error)
    raise SourceError(why)


def _rate(rows: Sequence[Mapping[str, str]]) -> float:
    """Return the frames per second that a column of times tells; 0 without one."""
    column = next((word for word in TIMES if word in rows[0]), "")
    try:
        return rate(np.array([_number(row[column], column, 0) for row in rows])) if column else 0.0
    except SkeletonError:  # reading the clip reports the error
        return 0.0


def _form(rows: Sequence[dict[str, str]], trees: Sequence[Tree], reading: Reading) -> tuple[Form, Layout]:
    """Return the form of a table and the layout of its joints."""
    wide = _wide(list(rows[0]))
    if wide:
        joints = list(dict.fromkeys(joint for joint, _ in wide.values()))
        axes = {axis for _, axis in wide.values()}
    else:
        _column(rows[0], "frame", str(trees[0].path))
        column = _column(rows[0], "joint", str(trees[0].path))
        joints = list(dict.fromkeys(row[column] for row in rows))
        axes = {axis for axis in ("x", "y", "z") if axis in rows[0]}
        axes |= {"score"} if any(word in rows[0] for word in WORDS["score"]) else set()
    channels = SPACE if "z" in axes else IMAGE
    scored = "score" in axes
    if all(joint.isdecimal() for joint in joints):
        joints = sorted(joints, key=int)
        layout = keypoint_layout(str(trees[0].path), len(joints), channels, reading)
        return Form(tuple(joints), channels, scored, bool(wide)), layout
    known = _by_names(joints, reading)
    if known is None:
        names = tuple(joint.replace("_", " ") for joint in joints)
        return Form(tuple(joints), channels, scored, bool(wide)), Layout("", names, ())
    plain = {_plain(joint): joint for joint in joints}
    ordered = tuple(plain[_plain(name)] for name in known.joint_names)
    return Form(ordered, channels, scored, bool(wide)), known


def _by_names(joints: Sequence[str], reading: Reading) -> Layout | None:
    """Return the layout whose joint names a table has, the largest if there are several."""
    names = {_plain(joint) for joint in joints}
    known = sorted(LAYOUTS.values(), key=lambda layout: -len(layout.joint_names))
    fitting = [layout for layout in known if {_plain(name) for name in layout.joint_names} <= names]
    if reading.layout:
        chosen = next((layout for layout in fitting if layout.name == reading.layout), None)
        if chosen is None:
            raise SourceError(
                f"the tables lack joints of --layout {reading.layout}; they have {', '.join(joints)[:100]}"
            )
        return chosen
    return next((layout for layout in fitting if len(layout.joint_names) == len(names)), None)


def _plain(name: str) -> str:
    return re.sub(r"[_ .-]", "", name.lower())


def _column(row: Mapping[str, str], column: str, where: str) -> str:
    found = next((word for word in WORDS[column] if word in row), "")
    if not found:
        raise SourceError(f"{where} has no column {column}; a table has frame, body, joint, x, y, z and score")
    return found


def _label_of(item: Item, column: str) -> str | None:
    """Return the one label that a table has; None if it cannot be read."""
    try:
        rows = read_table(item.read(), item.origin, {})
    except ValueError:  # reading it later reports the error
        return None
    return _one_label(rows, column, item.origin, "no column clip. Add a column clip that names the recording of a row.")


def _one_label(rows: Sequence[Mapping[str, str]], column: str, where: str, lack: str) -> str | None:
    """Return the value that all rows have in a column; None for no value, SourceError for several."""
    labels = sorted({row.get(column, "") for row in rows} - {""})
    if len(labels) > 1:
        raise SourceError(f"{where} has several values of {column} ({', '.join(labels[:3])}) and {lack}")
    return labels[0] if labels else None


def _clips_of(item: Item, form: Form, label: str) -> list[Found]:
    """Return the clips of a table with a column clip."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in read_table(item.read(), item.origin, {"clip": CLIP_WORDS[:1]}):
        groups.setdefault(row["clip"], []).append(row)
    clips = []
    for name, rows in groups.items():
        where = f"{item.origin}[{name}]"
        entry = Entry(name, where, 64 * len(rows), item.stamp, read_clip, Place(None, tuple(rows), form))
        given = _one_label(rows, label, where, "a clip has one. Correct the column.") if label else None
        clips.append(Found(entry, item.path, given))
    return clips


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip; SkeletonError with the line of a cell that is not a number."""
    try:
        rows = list(place.rows) if place.file is None else read_table(content(place.file, name), name, {})
    except SourceError as error:
        raise fault(name, str(error)) from None
    if not rows:
        raise SkeletonError(name, 0, "empty")
    form = place.form
    people: dict[float, dict[int, np.ndarray]] = {}
    width = len(form.channels) + form.scored
    index = {joint: number for number, joint in enumerate(form.joints)}
    frame = next((word for word in WORDS["frame"] if word in rows[0]), "")
    body = next((word for word in WORDS["body"] if word in rows[0]), "")
    column = next((word for word in WORDS["joint"] if word in rows[0]), "")
    bodies: dict[str, int] = {}
    wide = _wide(list(rows[0])) if form.wide else {}
    written: set[tuple[float, int, str]] = set()
    for line, row in enumerate(rows, 2):
        moment = _number(row[frame], name, line) if frame else float(line)
        identity = bodies.setdefault(row[body], len(bodies)) if body else 0
        x_VD = people.setdefault(moment, {}).setdefault(identity, np.full((len(index), width), np.nan, np.float32))
        joint = "" if form.wide else row.get(column, "")
        if (moment, identity, joint) in written:
            what = "" if form.wide else f"joint {joint} of "
            who = f"body {row[body]} in " if body else ""
            message = f"{what}{who}frame {moment:g} occurs twice; a column body tells people apart"
            raise SkeletonError(name, line, "repeated-row", message)
        written.add((moment, identity, joint))
        if form.wide:
            for cell, (one, axis) in wide.items():
                _set(x_VD, index, one, axis, row[cell], form, name, line)
            continue
        for axis in (*form.channels, "score")[:width]:
            value = row.get(axis) if axis != "score" else next((row[w] for w in WORDS["score"] if w in row), None)
            if value is None:
                raise fault(name, f"line {line} has no column {axis}")
            _set(x_VD, index, joint, axis, value, form, name, line)
    return linked_clip(_frames(people, form, name), name)


def _set(
    x_VD: np.ndarray, index: Mapping[str, int], joint: str, axis: str, cell: str, form: Form, name: str, line: int
) -> None:
    """Write one cell; an empty one stays absent."""
    if joint not in index:
        raise SkeletonError(name, line, "joint-count", f"joint {joint!r} is not among those of the first table")
    column = len(form.channels) if axis == "score" else ("xyz".index(axis))
    if column < x_VD.shape[1] and cell.lower() not in NOTHING:
        x_VD[index[joint], column] = _number(cell, name, line)


def _number(cell: str, name: str, line: int) -> float:
    """Return a finite number, whose decimal sign may be a comma."""
    try:
        value = float(cell.replace(",", ".") if "." not in cell else cell)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise SkeletonError(name, line, "bad-number", f"{cell[:40]!r} is not a number")
    return value


def _frames(people: Mapping[float, Mapping[int, np.ndarray]], form: Form, name: str) -> list[list[Person]]:
    """Return the people of every frame; frame numbers that are missing between others have none."""
    moments = sorted(people)
    steps = np.diff(moments)
    numbered = all(float(moment).is_integer() for moment in moments) and (not len(steps) or steps.min() == 1)
    first = int(moments[0])
    count = int(moments[-1]) - first + 1 if numbered else len(moments)
    if numbered and count > 10 * len(moments):
        at = int(steps.argmax())
        message = (
            f"frames jump from {moments[at]:g} to {moments[at + 1]:g}: split the recording there, or renumber them"
        )
        raise SkeletonError(name, 0, "frame-gap", message)
    frames: list[list[Person]] = [[] for _ in range(count)]
    for position, moment in enumerate(moments):
        for identity, x_VD in people[moment].items():
            score_V = np.nan_to_num(x_VD[:, -1]) if form.scored else None
            person = Person(x_VD[:, : len(form.channels)], score_V, identity)
            frames[int(moment) - first if numbered else position].append(person)
    return frames
