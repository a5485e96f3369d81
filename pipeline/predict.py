"""Name the action in recordings: classes and probabilities.

    python -m pipeline.predict runs/stgcn S001C001P001R001A023.skeleton
    python -m pipeline.predict runs/stgcn recordings/ other.zip clips.h5 poses.npz --out answers.json
    cat CLIP.skeleton | python -m pipeline.predict runs/stgcn -
    python -m pipeline.predict runs/stgcn crowd/ --per person
    python -m pipeline.predict runs/stgcn long.skeleton --window 2s --html page.html --out actions.csv
    python -m pipeline.predict runs/stgcn --onnx stgcn.onnx
    python -m pipeline.predict runs/together.json CLIP.skeleton    # what pipeline.ensemble --out has written
    python -m pipeline.predict runs/together.json --onnx together.onnx

    from pipeline.predict import load
    answer = load("runs/stgcn")("S001C001P001R001A023.skeleton")

Recordings are files, folders and zips of every format that preprocessing.build reads, data files, or - for standard
input. Each is cleaned by the recipe that the network was trained on, which the run folder names; joints are matched by
name. A recording that is far longer, or of another size or speed, than the training clips gets a warning.
--per person and --per pair answer for each of several people.
--window makes a timeline of a long recording: the action of each moment, or "none of these".
Probabilities are softmax(logits / T), T fitted to the val clips at the end of the training; of several runs, of the
weighted mean of their log-probabilities.
Exit codes: 0 ok, 2 wrong settings or a recording that cannot be used (the others are answered
all the same), 6 a damaged file, or an export that differs.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.options import Predict, read_options
from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: read_options("pipeline.predict"))  # before torch loads

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from pipeline import distributed, distribution, ensemble, export, people, recordings, share, timeline
from pipeline.config import Config
from pipeline.data.clips import Clips
from pipeline.evaluation import accuracies
from pipeline.evaluation.calibration import require_temperature
from pipeline.pages import timeline as timeline_page
from pipeline.run_folder import Metadata, Run
from pipeline.stream import Stream
from preprocessing import exits, files, ntu
from preprocessing.hdf5 import CLIP_KEYS, SkeletonFile, body_index
from preprocessing.pages import Provenance
from preprocessing.skeleton import RawClip, SkeletonError, parse
from preprocessing.sources import SUFFIX, Reading, SourceError
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


def main(arguments: list[str] | None = None) -> int:
    """Entry of `python -m pipeline.predict`; returns the exit code."""
    options: Predict = read_options("pipeline.predict", arguments)
    try:
        if not options.clips and options.onnx is None:
            raise ValueError("name recordings to answer, or --onnx PATH: python -m pipeline.predict RUN CLIP.skeleton")
        files.require_suffix("--onnx", options.onnx, ".onnx")
        files.require_suffix("--out", options.out, ".json", *([".csv"] if options.window else []))
        files.require_suffix("--html", options.html, ".html")
        if options.html is not None and not options.window:
            raise ValueError("--html is the page of a timeline: add --window 2s, or --window auto.")
        predictor = load(options.run)
        if options.window:
            return _timelines(predictor, options, arguments)
        cleaned, faults = _clean_all(predictor, options)
        answers = dict(zip(cleaned, predictor.answer(list(cleaned.values())), strict=True)) if cleaned else {}
        # Write files before printing: the reader of standard output may close it.
        if options.out is not None:
            _write(predictor, answers, options.out)
        difference = None if options.onnx is None else _export(predictor, list(cleaned.values()), options.onnx)
        if answers:
            _show(predictor, answers)
        if difference is not None:
            print(f"written: {options.onnx}; largest difference of a probability from torch's: {difference:.1e}")
    except BaseException as error:
        return exits.report(error)
    return exits.USAGE if faults else 0


def _timelines(predictor: Predictor, options: Predict, arguments: list[str] | None) -> int:
    """Answer recordings moment by moment."""
    windows = timeline.windows_of(options.window, options.stride, predictor)
    lines: list[timeline.Timeline] = []
    faults = []
    for path in options.clips:
        try:
            for one in _each(path, predictor, options):
                if one.raw is None:
                    faults.append(one.fault)
                    continue
                name = key_of(path, one)
                lines.append(timeline.timeline(predictor, name, one.raw, one.stages, one.fps, windows))
        except files.IntegrityError:
            raise
        except ValueError as error:
            faults.append(str(error))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if options.out is not None:
        _write_timelines(lines, windows, options.out)
    if options.html is not None and lines:
        bones, joints = predictor.metadata.bones, predictor.metadata.joint_names
        made_by = Provenance.of("pipeline.predict", sys.argv[1:] if arguments is None else arguments)
        name = predictor.source.resolve().name
        files.publish_text(options.html, timeline_page.page(lines, name, bones, joints, made_by))
    for row in (row for line in lines for row in line.rows()):
        when = f"{row['start']:7.2f} {row['end']:7.2f} s"
        print(f"{row['recording']}  {when}  {100 * row['probability']:5.1f} %  {row['label']}")
    return exits.USAGE if faults else 0


def _each(path: Path, predictor: Predictor, options: Predict) -> Iterator[recordings.Recording]:
    """Yield the recordings of a path, or the people in them."""
    reading = Reading(format=options.format, layout=options.layout, labelled=False)
    for one in recordings.recordings(path, predictor.metadata, str(predictor.source), reading):
        yield from people.split(one, options.per, trim=not options.window)


def _write_timelines(lines: Sequence[timeline.Timeline], windows: timeline.Windows, path: Path) -> None:
    if path.suffix == ".json":
        listed = {
            line.name: {
                "fps": line.fps,
                "frames": line.frames,
                "segments": [{key: value for key, value in row.items() if key != "recording"} for row in line.rows()],
                "windows": line.windows,
            }
            for line in lines
        }
        files.publish_json(path, {"window": windows.window, "stride": windows.stride, "timelines": listed})
        return
    columns = ("recording", "start", "end", "first_frame", "last_frame", "label", "probability")
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(row for line in lines for row in line.rows())
    files.publish_text(path, text.getvalue())


def _clean_all(predictor: Predictor, options: Predict) -> tuple[dict[str, Clip], int]:
    """Finished clips by name, and how many recordings could not be used: each costs only itself."""
    cleaned: dict[str, Clip] = {}
    faults = []
    for path in options.clips:
        try:
            if (
                options.per == "clip"
                and path.suffix == SUFFIX
                and predictor.metadata.joint_names == list(ntu.JOINT_NAMES)
            ):
                cleaned[str(path)] = predictor.clean(path)
                continue
            for one in _each(path, predictor, options):
                if one.raw is None:
                    faults.append(one.fault)
                    continue
                try:
                    cleaned[key_of(path, one)] = one.clip(str(predictor.source))
                except SkeletonError as error:
                    faults.append(str(error))
        except (SkeletonError, SourceError) as error:
            faults.append(str(error))
        except files.IntegrityError:
            raise
        except ValueError as error:  # joints or stages that do not fit
            faults.append(str(error))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return cleaned, len(faults)


def key_of(path: Path, recording: recordings.Recording) -> str:
    """Return the name of a recording in answers: its path, with the clip's name where a file has several clips."""
    where = str(path) if recording.name == path.stem else f"{path}:{recording.name}"
    return where + recording.part


def _write(predictor: Predictor, answers: dict[str, Answer], path: Path) -> None:
    listed = {
        clip: {**answer._asdict(), "decisions": [one._asdict() for one in answer.decisions]}
        for clip, answer in answers.items()
    }
    files.publish_json(path, {"temperature": predictor.temperature, "answers": listed})


def _show(predictor: Predictor, answers: dict[str, Answer]) -> None:
    console = Console(emoji=False)
    for path, answer in answers.items():
        console.print(f"[bold]{escape(path)}[/bold]  {answer.frames} frames, {answer.bodies} bodies", soft_wrap=True)
        for name, probability in zip(answer.classes, answer.probabilities, strict=True):
            console.print(f"  {100 * probability:5.1f} %  {escape(name)}", highlight=False)
        for warning in answer.warnings:
            console.print(f"  warning: {escape(warning)}", highlight=False, soft_wrap=True)
        for decision in answer.decisions:
            console.print(f"  body {decision.body}: {decision.rule} ({decision.value:.3g}, threshold"
                          f" {decision.threshold:.3g})", highlight=False)  # fmt: skip
    console.print(_sureness(predictor), highlight=False, soft_wrap=True)


def _sureness(predictor: Predictor) -> str:
    if not predictor.finished:
        return (
            f"{predictor.source} is not finished, so its probabilities are not calibrated; the same"
            " python -m pipeline.train command resumes it"
        )
    if not predictor.calibrated:
        return "probabilities are not calibrated: no val clips were held out (input.fit train holds them out)"
    line = f"temperature {predictor.temperature:.2f}, from {predictor.calibration['clips']} val clips"
    errors = predictor.calibration.get("test") or predictor.calibration.get("val")
    if errors:
        where = "test" if "test" in predictor.calibration else "val"
        line += (
            f"; confidence is off by {100 * errors['ece_calibrated']:.1f} points on {where} clips"
            f" (ECE; {100 * errors['ece']:.1f} without it)"
        )
    return line


def _export(predictor: Predictor, cleaned: list[Clip], path: Path) -> float:
    """Write the networks; the largest difference of a probability from torch's."""
    lengths = {config.input.frames for config, _ in predictor.networks}
    if len(lengths) > 1:
        raise ValueError(
            f"the networks of {predictor.source} see {' and '.join(map(str, sorted(lengths)))} frames, and an ONNX "
            "file takes clips of one length: name one run, or put runs of one input.frames together"
        )
    (frames,), joints = lengths, len(predictor.metadata.joint_names)
    if cleaned:
        tried = cleaned[:BATCH]
        batch = predictor.gathered(tried).batch(torch.arange(len(tried)), frames)
        sample = batch.x_NCTVM, batch.present_NMT
    else:
        sample = export.noise(frames, joints, predictor.device, predictor.metadata.channels)
    about = {
        "class_names": json.dumps(predictor.metadata.class_names),
        "joint_names": json.dumps(predictor.metadata.joint_names),
        "recipe": json.dumps(predictor.metadata.recipe),
    }
    models = [model for _, model in predictor.networks]
    return export.to_onnx(models, predictor.share_R, predictor.temperature, sample, path, about)


if __name__ == "__main__":
    sys.exit(startup.run(main))
