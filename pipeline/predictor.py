"""Answers about recordings by a trained run, or by several together: `load(RUN)` gives a `Predictor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import distributed, distribution, ensemble, recordings, share
from pipeline.config import Config
from pipeline.data.clips import Clips
from pipeline.evaluation import accuracies
from pipeline.evaluation.calibration import require_temperature
from pipeline.run_folder import Metadata, Run
from pipeline.stream import Stream
from preprocessing import files, ntu
from preprocessing.hdf5 import CLIP_KEYS, SkeletonFile, body_index
from preprocessing.skeleton import RawClip, SkeletonError, parse
from preprocessing.sources import SUFFIX
from preprocessing.sources.tracks import array_tracks
from preprocessing.stages import Clip, Decision
from preprocessing.stages.bodies import every_joint

SHOWN = 5
BATCH = 32

# A path or the bytes of one .skeleton, a parsed clip, or joints (T, V, C) or (T, M, V, C) in the unit of the training.
Recording = str | Path | bytes | RawClip | np.ndarray


class Answer(NamedTuple):
    """The prediction for one recording."""

    classes: tuple[str, ...]
    """The likeliest classes, at most five, the likeliest first."""
    probabilities: tuple[float, ...]
    frames: int
    bodies: int
    decisions: tuple[Decision, ...]
    """Bodies that the recipe dropped or joined, and the reason."""
    warnings: tuple[str, ...] = ()
    """Differences to the clips of the training: far longer, another size or speed."""


class Network(NamedTuple):
    """The trained network of a run."""

    config: Config
    model: nn.Module


class Predictor:
    """Predict the action in recordings, by one trained run or several together.

    `temperature` is 1 if none could be fitted (`calibrated` is False then).

    Args:
        source: Run folder, or file of pipeline.ensemble, that the user named.
        metadata: Metadata of the data that the runs were trained on.
        networks: The trained networks.
        weights: Weight of each network; only their ratios count.
        result: Summary of the run, or content of the file; None for a run that is not finished.
        device: Device of the networks.
    """

    def __init__(
        self,
        source: Path,
        metadata: Metadata,
        networks: Sequence[Network],
        weights: Sequence[float],
        result: dict[str, Any] | None,
        device: torch.device,
    ) -> None:
        self.source, self.metadata, self.networks, self.device = source, metadata, networks, device
        self.share_R = ensemble.shares(torch.tensor(weights, dtype=torch.float64, device=device))
        self.stages = metadata.stages()
        self.finished = result is not None
        self.accuracies: dict[str, float] = (result or {}).get("accuracies", {})
        self.calibration: dict[str, Any] = (result or {}).get("calibration", {})
        self.calibrated = bool(self.calibration.get("clips"))
        require_temperature(source, self.calibration)
        self.temperature = float(self.calibration.get("temperature", 1.0))

    def __call__(self, recording: Recording) -> Answer:
        """Return the answer for one recording. SkeletonError names its fault, ValueError joints that do not match.

        Arrays and parsed clips carry no joint names: they must have the joints of the training data, in its order. In
        arrays, a joint at zero or NaN, or with score 0, is absent.
        """
        return self.answer([self.clean(recording)])[0]

    def clean(self, recording: Recording) -> Clip:
        """Clean a recording by the recipe of the training clips. Raises as `__call__` does."""
        name, raw = self._read(recording)
        if not isinstance(recording, RawClip | np.ndarray):
            recordings.check_selection(name, raw, self.metadata, str(self.source))
        joints = raw.tracks[0].joints_FV3.shape[1] if raw.tracks else len(self.metadata.joint_names)
        if joints != len(self.metadata.joint_names):
            raise ValueError(
                f"{name} has {joints} joints; {self.source} was trained on {len(self.metadata.joint_names)}"
            )
        stages = self.stages
        if isinstance(recording, np.ndarray):
            scored = recording.shape[-1] > self.metadata.channels
            bodies = recording.shape[1] if recording.ndim == 4 else 1
            stages = recordings.stages_for_array(bodies, scored, self.metadata)
        return recordings.cleaned(name, raw, stages, str(self.source))

    def _read(self, recording: Recording) -> tuple[str, RawClip]:
        if isinstance(recording, RawClip):
            return "clip", recording
        if isinstance(recording, np.ndarray):
            channels = self.metadata.channels
            if recording.ndim not in (3, 4) or recording.shape[-1] not in (channels, channels + 1):
                raise ValueError(
                    f"An array has shape {recording.shape}: must be (T, V, {channels}) or (T, M, V, {channels}); a "
                    "further value per joint is its score."
                )
            x_TMVC = recording[:, None] if recording.ndim == 3 else recording
            return "array", array_tracks(x_TMVC.astype(np.float32), None, channels)
        if self.metadata.joint_names != list(ntu.JOINT_NAMES):
            mine = f"{len(self.metadata.joint_names)} ({', '.join(self.metadata.joint_names[:3])}, ...)"
            theirs = f"the Kinect's {len(ntu.JOINT_NAMES)} ({', '.join(ntu.JOINT_NAMES[:3])}, ...)"
            raise ValueError(
                f"{self.source} was trained on other joints: {mine}, of {self.metadata.dataset}; "
                f"a .skeleton has {theirs}"
            )
        if isinstance(recording, bytes):
            return "bytes", parse(recording, "bytes")
        path = Path(recording)
        name = path.name.removesuffix(SUFFIX)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SkeletonError(name, 0, "unreadable", str(error)) from None
        return name, parse(content, name)

    def gathered(self, cleaned: Sequence[Clip]) -> Clips:
        """Finished clips as training has them, resampled by the same code."""
        return Clips(_in_memory(self.metadata, cleaned), self.device)

    def probabilities(self, cleaned: Sequence[Clip]) -> Tensor:
        """Return the probabilities (N, K) of finished clips, calibrated, on the CPU."""
        every, clips = torch.arange(len(cleaned)), self.gathered(cleaned)
        said = [accuracies.predict(model, clips, every, config.input.frames, BATCH) for config, model in self.networks]
        says_RNK = torch.stack([one.logits_NK.double().log_softmax(1) for one in said])
        return (ensemble.combine(says_RNK, self.share_R) / self.temperature).softmax(1).cpu()

    def stream(self, window: float | None = None, stride: float = 0.5, **more: float) -> Stream:
        """Return an object that answers while frames arrive (`pipeline.stream`).

        Args:
            window: Seconds that an answer looks back on; None: the median length of the training clips, or 2.
            stride: Seconds between two answers.
            **more: `smooth` and `fps` of `Stream`.
        """
        if window is None:
            frames = self.metadata.typical.get("frames")
            window = max(stride, frames[1] / self.metadata.fps) if frames else max(stride, 2.0)
        return Stream(self, window, stride, **more)

    def answer(self, cleaned: Sequence[Clip]) -> list[Answer]:
        """Return an answer for each finished clip."""
        best = self.probabilities(cleaned).topk(min(SHOWN, len(self.metadata.class_names)), dim=1)
        return [
            Answer(
                tuple(self.metadata.class_names[k] for k in classes),
                tuple(probabilities),
                clip.present_MT.shape[1],
                len(clip.present_MT),
                clip.decisions,
                distribution.warnings(self.metadata.typical, clip.joints_MTV3, clip.present_MT),
            )
            for clip, classes, probabilities in zip(cleaned, best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def load(run: str | Path, device: torch.device | None = None) -> Predictor:
    """Load a trained run, a folder of pipeline.share, or several runs by the file that pipeline.ensemble has written.

    No data file is needed.

    Raises:
        ValueError: A folder lacks something; the message names it.
    """
    path, device = Path(run), device or distributed.join()
    if share.is_model(path):
        config, metadata, model, result = share.load(path, device)
        return Predictor(path, metadata, [Network(config, _contiguous(model))], [1.0], result, device)
    return _together(path, device) if path.suffix == ".json" and path.is_file() else _alone(path, device)


def _alone(folder: Path, device: torch.device) -> Predictor:
    run = Run(folder, device)
    result = run.summary if run.finished else None
    return Predictor(folder, run.metadata, [_network(run)], [1.0], result, device)


def _together(path: Path, device: torch.device) -> Predictor:
    result = ensemble.read(path)
    runs = [Run(path.parent / folder, device) for folder in result["folders"]]
    for run, expected, _ in zip(runs, result["checkpoints"], result["weights"], strict=True):  # as many of each
        if run.pointer and run.pointer["sha256"] != expected:
            raise files.IntegrityError(
                f"{run.folder} was trained further, or replaced, after {path} was written; write it again with "
                "python -m pipeline.ensemble"
            )
    metadata = runs[0].metadata
    return Predictor(path, metadata, [_network(run) for run in runs], result["weights"], result, device)


def _network(run: Run) -> Network:
    # In torch's own memory order, which an export needs.
    return Network(run.config, _contiguous(run.network()))


def _contiguous(model: nn.Module) -> nn.Module:
    contiguous: nn.Module = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return contiguous


def _in_memory(metadata: Metadata, cleaned: Sequence[Clip]) -> SkeletonFile:
    """The data file that these clips would make."""
    frames_N = np.array([clip.present_MT.shape[1] for clip in cleaned], np.int64)
    bodies_N = np.array([len(clip.present_MT) for clip in cleaned], np.int64)
    index = body_index(frames_N, bodies_N)
    columns = dict.fromkeys(CLIP_KEYS, np.zeros(len(cleaned), np.int64))
    return SkeletonFile(
        path=Path("memory"),
        dataset=metadata.dataset,
        recipe=metadata.recipe,
        joint_names=metadata.joint_names,
        bones=np.array(metadata.bones, np.int64).reshape(-1, 2),
        fps=metadata.fps,
        class_names=metadata.class_names,
        content_sha256="",
        joints_RV3=np.concatenate([clip.joints_MTV3.reshape(-1, *clip.joints_MTV3.shape[2:]) for clip in cleaned]),
        present_R=np.concatenate([clip.present_MT.reshape(-1) for clip in cleaned]),
        tracked_RV=_marks(cleaned),
        body_clip=index.clip_B,
        body_slot=index.slot_B,
        body_start=index.start_B,
        clips=columns | {"frames": frames_N, "first_body": index.first_body_N, "bodies": bodies_N},
        splits={},
        default_protocol="",
    )


def _marks(cleaned: Sequence[Clip]) -> np.ndarray | None:
    """Marks of the joints that were found (R, V), None if none is absent in any clip."""
    if all(clip.tracked_MTV is None for clip in cleaned):
        return None
    marks = [
        every_joint(clip.present_MT, clip.joints_MTV3.shape[2]) if clip.tracked_MTV is None else clip.tracked_MTV
        for clip in cleaned
    ]
    return np.concatenate([marks_MTV.reshape(-1, marks_MTV.shape[2]) for marks_MTV in marks])
