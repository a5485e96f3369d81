"""Recordings for a trained network: any format that `preprocessing` reads, data files, and standard input.

Joints are matched to those of the training data by name; clips are cleaned by its stages. A recording that cannot be
cleaned as the training data were is rejected with the reason.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data import BODIES
from pipeline.evaluation.matching import SELECTING, match, matched_joints
from pipeline.run_folder import Metadata
from preprocessing import exits
from preprocessing.hdf5 import clip_present, clip_rows, clip_tracked, open_file
from preprocessing.preview import centred
from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.sources import ClipSource, Reading, open_sources
from preprocessing.sources.tracks import selecting
from preprocessing.stages import Clip, Stage, apply

STDIN = Path("-")
CHOOSING = {"actors", "ctr-actors", "pyskl-actors", "people"}  # stages that leave the bodies that a network sees
HDF5 = b"\x89HDF\r\n\x1a\n"
# First bytes -> suffix by which a format is recognised.
HEADS = ((HDF5, ".h5"), (b"\x80", ".pkl"), (b"{", ".json"), (b"[", ".json"), (b"HIERARCHY", ".bvh"))


class Recording(NamedTuple):
    """A recording with the joints of the training data, or the reason why it cannot be used."""

    name: str
    raw: RawClip | None
    stages: tuple[Stage, ...] = ()
    """Stages that clean it, or any part of it, as a clip."""
    fps: float = 30.0
    fault: str = ""
    finished: Clip | None = None
    """The clip itself, of a data file."""
    part: str = ""
    """The person or pair that this is cut to; empty for the whole recording."""

    def clip(self, network: str) -> Clip:
        """Return the cleaned clip; SkeletonError if it cannot be cleaned. `network`: its name for messages."""
        if self.finished is not None:
            return self.finished
        if self.raw is None:
            raise SkeletonError(self.name, 0, "unreadable", self.fault)
        return cleaned(self.name + self.part, self.raw, self.stages, network)


def recordings(path: Path, metadata: Metadata, network: str, reading: Reading | None = None) -> Iterator[Recording]:
    """Yield the clips of a file, a folder, a zip, a data file or standard input (`-`), one at a time.

    Args:
        path: Where they are.
        metadata: Metadata of the data that the network was trained on.
        network: Name of the network for messages.
        reading: How to read them; None: as their content shows.

    Raises:
        ValueError: Nothing of it can be used; the message has the reason.
    """
    if path == STDIN:
        with tempfile.TemporaryDirectory() as folder:
            spooled = _from_stdin(Path(folder))
            try:
                yield from recordings(spooled, metadata, network, reading)
            except ValueError as error:
                raise ValueError(str(error).replace(str(spooled), "standard input")) from None
        return
    if _is_data_file(path):
        yield from _of_file(path, metadata, network)
        return
    source = open_sources([path], reading or Reading(labelled=False))
    if len(source.channels) != metadata.channels:
        raise ValueError(
            f"{path} has {len(source.channels)} channels per joint, and {network} was trained on {metadata.channels}."
        )
    order_V = matched_joints(source, metadata, str(path), network)
    stages = stages_for(source, metadata)
    for unusable in source.unusable:
        yield Recording(unusable.name, None, fault=str(unusable))
    for entry in source.entries:
        try:
            raw = reordered(entry.read(), order_V)
            if source.kinect:
                check_selection(entry.name, raw, metadata, network)
            yield Recording(entry.name, raw, stages, source.fps)
        except SkeletonError as error:
            yield Recording(entry.name, None, fault=str(error))


def _is_data_file(path: Path) -> bool:
    """Return whether a path is an HDF5 file; ValueError if it cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(HDF5)) == HDF5
    except OSError as error:
        raise ValueError(exits.describe(error)) from None


def cleaned(name: str, raw: RawClip, stages: Sequence[Stage], network: str) -> Clip:
    """Apply stages to a raw clip.

    Raises:
        SkeletonError: No frame has a body, a stage cannot process it, or more bodies are left than a network sees.
    """
    if not raw.tracks:
        raise SkeletonError(name, 0, "no-body", "no frame has a body")
    clip = apply(name, raw, tuple(stages))
    if len(clip.present_MT) > BODIES:
        raise SkeletonError(
            name, 0, "body-count", f"{len(clip.present_MT)} bodies are left and a network sees {BODIES}; the data "
            f"that {network} was trained on came without a rule that chooses among more: leave two"
        )  # fmt: skip
    return clip


def stages_for(source: ClipSource, metadata: Metadata) -> tuple[Stage, ...]:
    """Return the stages of the training data, behind those that the format of the source needs and they lack."""
    if source.kinect:
        return _behind(source.stages, metadata, None)
    return _behind(source.stages, metadata, float(centred(source)))


def stages_for_array(bodies: int, scored: bool, metadata: Metadata) -> tuple[Stage, ...]:
    """Return the stages of the training data for an array with so many bodies, with or without scores."""
    return _behind(selecting(bodies, scored, Reading(), copies=False), metadata, -1.0)


def _behind(needed: Sequence[Stage], metadata: Metadata, origin: float | None) -> tuple[Stage, ...]:
    """Return the stages of the training data behind `needed` ones that they lack.

    A build records stage `absent` only if it marked a joint. Clips to predict may have gaps that the training data had
    not, so the stage is added as the build had it.

    Args:
        needed: Stages that the recording needs.
        metadata: Metadata of the training data.
        origin: Joint at which the recording is centred, -1 if at none; None: it comes from the sensor, without gaps.
    """
    own = metadata.stages()
    names = {stage.name for stage in own}
    marking = tuple(stage for stage in own if stage.name == "absent")
    if not marking and origin is not None:
        centre = next((stage.parameters["joint"] for stage in own if stage.name == "centre"), -1.0)
        marking = (Stage("absent", {"zeros": 1, "nan": 1, "origin": origin if origin >= 0 else centre}),)
    needed = tuple(stage for stage in needed if stage.name not in names)
    return (*marking, *needed, *(stage for stage in own if stage.name != "absent"))


def check_selection(name: str, raw: RawClip, metadata: Metadata, network: str) -> None:
    """Raise SkeletonError if the bodies of a sensor's recording cannot be chosen as those of the training data were."""
    if len(raw.tracks) > 1 and not CHOOSING & {stage.name for stage in metadata.stages()}:
        raise SkeletonError(
            name, 0, "selection", f"{len(raw.tracks)} raw bodies, and the data that {network} was trained on came with "
            "its bodies chosen by stages that it does not name. Leave the bodies that act"
        )  # fmt: skip


def reordered(raw: RawClip, order_V: list[int]) -> RawClip:
    """Return a clip with its joints in another order."""
    if not raw.tracks or order_V == list(range(raw.tracks[0].joints_FV3.shape[1])):
        return raw
    tracks = tuple(
        track._replace(
            joints_FV3=np.ascontiguousarray(track.joints_FV3[:, order_V]),
            tracked_FV=None if track.tracked_FV is None else np.ascontiguousarray(track.tracked_FV[:, order_V]),
        )
        for track in raw.tracks
    )
    return raw._replace(tracks=tracks)


def _of_file(path: Path, metadata: Metadata, network: str) -> Iterator[Recording]:
    """Yield the clips of a data file, which are cleaned already. Its classes do not matter.

    Stages that turn, shift or scale are applied again to a part of a clip.
    """
    file = match(open_file(path), metadata, network, labels=False).file
    again = tuple(stage for stage in metadata.stages() if stage.name not in SELECTING)
    for clip, name in enumerate(file.clips["name"]):
        if not file.clips["bodies"][clip]:
            yield Recording(str(name), None, fault=f"{name}: no-body: no frame has a body")
            continue
        done = Clip(clip_rows(file, clip), clip_present(file, clip), (), clip_tracked(file, clip))
        yield Recording(str(name), raw_again(done), again, file.fps, finished=done)


def raw_again(clip: Clip) -> RawClip:
    """Return a finished clip as tracks."""
    tracks = []
    for body, (rows_TVC, present_T) in enumerate(zip(clip.joints_MTV3, clip.present_MT, strict=True)):
        frame_F = np.flatnonzero(present_T)
        tracked_FV = None if clip.tracked_MTV is None else clip.tracked_MTV[body, frame_F]
        tracks.append(Track(body, frame_F, rows_TVC[frame_F], tracked_FV))
    return RawClip(clip.present_MT.shape[1], tuple(tracks))


def _from_stdin(folder: Path) -> Path:
    content = sys.stdin.buffer.read()
    if not content:
        raise ValueError("Standard input is empty: pipe one recording into it, or name files instead of -.")
    suffix = next((suffix for head, suffix in HEADS if content.lstrip()[: len(head)] == head), "")
    if content[:2] == b"PK":
        suffix = ".npz" if b".npy" in content[:200] else ".zip"
    if not suffix:
        first = content[:4096].split(b"\n", 1)[0].strip()
        suffix = ".skeleton" if first.isdigit() else ".csv"
    path = folder / f"stdin{suffix}"
    path.write_bytes(content)
    return path
