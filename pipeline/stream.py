"""Answers while frames arrive: the last `window` seconds are answered at each `stride`.

stream = load("runs/stgcn").stream(window=2.0, stride=0.5)
for frame in camera:  # (V, C) or (M, V, C) in the joints and unit of the training data
    moment = stream.push(frame)
    if moment is not None:
        print(moment.seconds, moment.label, moment.probability)
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.recordings import cleaned, stages_for_array
from pipeline.timeline import LEAST, NONE
from preprocessing.skeleton import SkeletonError
from preprocessing.sources.tracks import array_tracks

if TYPE_CHECKING:
    from pipeline.predictor import Predictor


class Moment(NamedTuple):
    """The answer at one moment."""

    seconds: float
    """Since the first frame."""
    label: str
    """The likeliest class, or `timeline.NONE`."""
    probability: float
    probabilities: np.ndarray
    """(K,) smoothed probabilities of the classes."""


class Stream:
    """Answers for the last seconds of a stream of frames.

    Args:
        predictor: The trained network.
        window: Seconds that an answer looks back on.
        stride: Seconds between two answers.
        smooth: Weight of the answers before in the next one, from 0 (none) to below 1.
        fps: Frames per second; None: those of the training data.
    """

    def __init__(
        self, predictor: Predictor, window: float, stride: float, smooth: float = 0.5, fps: float | None = None
    ) -> None:
        self.predictor, self.smooth = predictor, smooth
        self.fps = predictor.metadata.fps if fps is None else fps
        if not 0 < stride <= window or not 0 <= smooth < 1 or not self.fps > 0:
            raise ValueError(
                f"window {window:g}, stride {stride:g}, smooth {smooth:g} and fps {self.fps:g} do not fit: the stride "
                "must be above 0 and at most the window, smooth from 0 to below 1, and fps above 0."
            )
        self.every = max(1, round(stride * self.fps))
        self.frames: deque[np.ndarray] = deque(maxlen=max(2, round(window * self.fps)))
        self.count = 0
        self.mean_K: np.ndarray | None = None

    def push(self, frame: np.ndarray) -> Moment | None:
        """Take the next frame, (V, C) or (M, V, C); zeros or NaN where nothing is. Return an answer when one is due.

        Raises:
            ValueError: The frame has another shape than the training data.
        """
        joints_MVC = np.asarray(frame, np.float32)
        joints_MVC = joints_MVC[None] if joints_MVC.ndim == 2 else joints_MVC
        metadata = self.predictor.metadata
        expected = (len(metadata.joint_names), metadata.channels)
        if joints_MVC.ndim != 3 or joints_MVC.shape[1:] != expected:
            raise ValueError(
                f"A frame has shape {np.shape(frame)}: must be {expected}, or (bodies, {expected[0]}, ...)."
            )
        if self.frames and self.frames[-1].shape != joints_MVC.shape:
            raise ValueError(
                f"A frame has {len(joints_MVC)} bodies, the one before {len(self.frames[-1])}: pad by zeros."
            )
        self.frames.append(joints_MVC)
        self.count += 1
        if self.count % self.every or len(self.frames) < 2:
            return None
        return self._answer()

    def _answer(self) -> Moment:
        seconds = self.count / self.fps
        x_TMVC = np.stack(self.frames)
        raw = array_tracks(x_TMVC, None)
        stages = stages_for_array(x_TMVC.shape[1], False, self.predictor.metadata)
        try:
            clip = cleaned("stream", raw, stages, str(self.predictor.source))
        except SkeletonError as error:
            if error.reason == "body-count":
                raise
            self.mean_K = None
            return Moment(seconds, NONE, 1.0, np.zeros(len(self.predictor.metadata.class_names)))
        now_K = self.predictor.probabilities([clip])[0].numpy()
        self.mean_K = now_K if self.mean_K is None else self.smooth * self.mean_K + (1 - self.smooth) * now_K
        best = int(self.mean_K.argmax())
        probability = float(self.mean_K[best])
        label = self.predictor.metadata.class_names[best] if probability >= LEAST else NONE
        return Moment(seconds, label, probability, self.mean_K.copy())
