"""Timelines: the action of each moment of a long recording, from windows that slide over it.

Each window is cleaned as a clip of its own, so that the network sees what it was trained on. Windows of several lengths
end at each step, and dynamic programming finds the most probable sequence of segments (a semi-Markov model). A segment
costs what its own window says against it, and each further segment costs `CHANGE`. Stretches in which the body hardly
moves, or no action is probable enough, are "none of these".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline import distribution
from pipeline.recordings import cleaned
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.stages import Clip, Stage

if TYPE_CHECKING:
    from pipeline.predictor import Predictor

NONE = "none of these"
SHORTEST, LONGEST = (0.4, 0.6), (1.5, 3.2)  # bounds of the windows, as factors of the window
RATIO = 1.25  # at most, of neighbouring lengths
LEAST = 0.3  # probability below which a moment is none of the classes
CHANGE = 0.3  # cost of a change of action, in seconds of certainty
FLOOR = 1e-3  # of a probability: one window cannot rule a class out
STILL = (
    0.75  # share of the stillest training clips' motion (1st percentile), below which a moment is none of the classes
)
BATCH = 256


@dataclass(frozen=True)
class Windows:
    """Lengths and steps of the windows over a recording, in seconds."""

    window: float
    stride: float

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window or not math.isfinite(self.window):
            raise ValueError(
                f"--stride {self.stride:g}s and --window {self.window:g}s do not fit: the stride must be above 0 and "
                "at most the window."
            )


def seconds(text: str, option: str) -> float:
    """Return a duration such as 2s, 500ms or 1.5 in seconds; ValueError names the option."""
    number, factor = (text[:-2], 0.001) if text.endswith("ms") else (text.removesuffix("s"), 1.0)
    try:
        value = factor * float(number)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{option} {text!r} is an invalid duration: write it as 2s, 0.5s or 500ms.")
    return value


def windows_of(window: str, stride: str, predictor: Predictor) -> Windows:
    """Return the windows of the command's options; `auto` is the median length of the training clips."""
    if window != "auto":
        return Windows(seconds(window, "--window"), seconds(stride, "--stride"))
    typical = predictor.metadata.typical
    if not typical:
        raise ValueError(
            f"{predictor.source} does not name the length of its training clips: give --window a duration such as 2s, "
            "or run its python -m pipeline.train command again, which adds it."
        )
    return Windows(typical["frames"][1] / predictor.metadata.fps, seconds(stride, "--stride"))


class Segment(NamedTuple):
    """A stretch of a recording with one action."""

    first: int
    """First frame."""
    last: int
    """Last frame, inclusive."""
    label: str
    probability: float
    """Mean over its frames; of `none of these`: how far its frames are from every class."""


class Timeline(NamedTuple):
    """The actions of one recording."""

    name: str
    fps: float
    frames: int
    segments: list[Segment]
    windows: list[dict[str, Any]]
    """`first`, `last`, `label` and `probability` of each window."""
    raw: RawClip

    def labels(self) -> list[str]:
        """Return the label of each frame."""
        return [segment.label for segment in self.segments for _ in range(segment.first, segment.last + 1)]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the segments as records with times in seconds."""
        for segment in self.segments:
            yield {
                "recording": self.name,
                "start": round(segment.first / self.fps, 3),
                "end": round((segment.last + 1) / self.fps, 3),
                "first_frame": segment.first,
                "last_frame": segment.last,
                "label": segment.label,
                "probability": round(segment.probability, 4),
            }


def timeline(
    predictor: Predictor, name: str, raw: RawClip, stages: Sequence[Stage], fps: float, windows: Windows
) -> Timeline:
    """Return the actions of a recording.

    Args:
        predictor: The trained network.
        name: Name of the recording.
        raw: The recording, with the joints of the training data.
        stages: Stages that clean a clip.
        fps: Frames per second.
        windows: Length and stride of the windows.
    """
    step = max(1, round(windows.stride * fps))
    factors = lengths_of(predictor.metadata.typical)
    lengths = sorted({max(2, round(factor * windows.window * fps / step)) for factor in factors})
    steps = max(1, math.ceil(raw.frames / step))
    places = [(max(0, end - length), end) for end in range(1, steps + 1) for length in lengths if end >= min(lengths)]
    places = sorted({place for place in places if place[1] - place[0] >= min(min(lengths), steps)} or {(0, steps)})
    clips = [_clean(name, cut(raw, first * step, last * step), stages, predictor) for first, last in places]
    probability_PK = _probabilities(predictor, clips)
    still_S = _still(predictor.metadata.typical, raw, stages, name, predictor, step, steps)
    path = decode(places, probability_PK, still_S, CHANGE / windows.stride)
    names = predictor.metadata.class_names
    segments = _segments(path, names, step, raw.frames)
    listed = [
        {
            "first": first * step,
            "last": min(last * step, raw.frames) - 1,
            "label": names[int(row_K.argmax())] if row_K.any() else NONE,
            "probability": float(row_K.max()),
        }
        for (first, last), row_K in zip(places, probability_PK, strict=True)
    ]
    return Timeline(name, fps, raw.frames, segments, listed, raw)


def lengths_of(typical: dict[str, list[float]]) -> list[float]:
    """Return the lengths of the windows as factors of the window: as the lengths of the training clips vary.

    Args:
        typical: `distribution.quantiles` of the training clips; empty if they are not known.
    """
    low, middle, high = typical.get("frames", (0.0, 1.0, 0.0))
    shortest = min(max(low / middle, SHORTEST[0]), SHORTEST[1]) if typical else SHORTEST[1]
    longest = min(max(high / middle, LONGEST[0]), LONGEST[1])
    count = math.ceil(math.log(longest / shortest) / math.log(RATIO)) + 1
    return np.geomspace(shortest, longest, count).tolist()


def cut(raw: RawClip, first: int, last: int) -> RawClip:
    """Return the frames from `first` to before `last`; bodies without a frame there are left out."""
    last = min(last, raw.frames)
    tracks = []
    for track in raw.tracks:
        kept_F = (track.frame_F >= first) & (track.frame_F < last)
        if kept_F.any():
            tracked_FV = None if track.tracked_FV is None else track.tracked_FV[kept_F]
            tracks.append(
                track._replace(
                    frame_F=track.frame_F[kept_F] - first, joints_FV3=track.joints_FV3[kept_F], tracked_FV=tracked_FV
                )
            )
    return RawClip(max(0, last - first), tuple(tracks))


def decode(
    places: Sequence[tuple[int, int]], probability_PK: np.ndarray, still_S: np.ndarray, change: float
) -> list[tuple[int, int, int, float]]:
    """Return the most probable segments (first step, end, class or -1, probability).

    Args:
        places: First step and end of each window.
        probability_PK: Probabilities of each window; zero where nobody is there.
        still_S: Steps in which the body hardly moves.
        change: Cost of a further segment, in steps of certainty.
    """
    steps = len(still_S)
    none_S = np.where(still_S, 0.0, math.log(LEAST))
    best = np.full(steps + 1, -np.inf)
    best[0] = 0.0
    back: list[tuple[int, int, float]] = [(0, -1, 0.0)] * (steps + 1)
    ending: dict[int, list[tuple[int, int]]] = {}
    for row, (first, end) in enumerate(places):
        ending.setdefault(end, []).append((first, row))
    choice_P = probability_PK.argmax(1)
    log_P = np.log(np.maximum(probability_PK.max(1), FLOOR))
    stillness = np.concatenate([[0.0], np.cumsum(still_S)])
    for end in range(1, steps + 1):
        # One more step of none: the change is paid where it begins.
        begins = 0.0 if back[end - 1][1] == -1 and end > 1 else change * 0.5
        best[end] = best[end - 1] + none_S[end - 1] - begins
        back[end] = (end - 1, -1, 1.0 if still_S[end - 1] else LEAST)
        for first, row in ending.get(end, []):
            # A still step inside an action speaks against it as strongly as an improbable window.
            rest = stillness[end] - stillness[first]
            value = best[first] + (end - first) * log_P[row] + rest * math.log(LEAST) - change
            if value > best[end]:
                best[end], back[end] = value, (first, int(choice_P[row]), float(probability_PK[row].max()))
    segments = []
    end = steps
    while end > 0:
        first, label, probability = back[end]
        segments.append((first, end, label, probability))
        end = first
    return segments[::-1]


def segments_of(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return (first frame, last frame, label) of each run of equal labels."""
    change = [place for place in range(1, len(labels)) if labels[place] != labels[place - 1]]
    bounds = [0, *change, len(labels)]
    return [(a, b - 1, labels[a]) for a, b in zip(bounds, bounds[1:], strict=False) if b > a]


def _segments(
    path: Sequence[tuple[int, int, int, float]], names: Sequence[str], step: int, frames: int
) -> list[Segment]:
    """Neighbouring segments of one action as one, in frames."""
    result: list[Segment] = []
    for first, end, label, probability in path:
        name = NONE if label < 0 else names[label]
        begin, last = first * step, min(end * step, frames) - 1
        if last < begin:
            continue
        if result and result[-1].label == name:
            before = result.pop()
            old, new = before.last - before.first + 1, last - begin + 1
            mean = (old * before.probability + new * probability) / (old + new)
            result.append(Segment(before.first, last, name, mean))
        else:
            result.append(Segment(begin, last, name, probability))
    return result


def _clean(name: str, raw: RawClip, stages: Sequence[Stage], predictor: Predictor) -> Clip | None:
    """Return the window as a clip; None where no body is present, or a stage cannot process it."""
    try:
        return cleaned(name, raw, stages, str(predictor.source))
    except SkeletonError as error:
        if error.reason == "body-count":
            raise
        return None


def _probabilities(predictor: Predictor, clips: Sequence[Clip | None]) -> np.ndarray:
    result_PK = np.zeros((len(clips), len(predictor.metadata.class_names)))
    there = [place for place, clip in enumerate(clips) if clip is not None]
    for start in range(0, len(there), BATCH):
        rows = there[start : start + BATCH]
        result_PK[rows] = predictor.probabilities([clip for row in rows if (clip := clips[row]) is not None]).numpy()
    return result_PK


def _still(
    typical: dict[str, list[float]],
    raw: RawClip,
    stages: Sequence[Stage],
    name: str,
    predictor: Predictor,
    step: int,
    steps: int,
) -> np.ndarray:
    """Return the steps (S,) in which no body is present, or it moves far less than in any training clip.

    A body that glides as a whole does not act, so motion is relative to it. Older runs know only the speed.
    """
    if not typical:
        return np.zeros(steps, bool)
    key = "motion" if "motion" in typical else "speed"
    result_S = np.ones(steps, bool)
    for place in range(steps):
        clip = _clean(name, cut(raw, place * step, (place + 1) * step + 1), stages, predictor)
        if clip is not None:
            moves = max(
                distribution.of_clip(clip.joints_MTV3[body : body + 1], clip.present_MT[body : body + 1])[key]
                for body in range(len(clip.present_MT))
            )
            result_S[place] = moves < STILL * typical[key][0]
    return result_S
