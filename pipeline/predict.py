"""Name the action in recordings: classes and probabilities.

    python -m pipeline.predict runs/stgcn S001C001P001R001A023.skeleton
    python -m pipeline.predict runs/stgcn recordings/ other.zip clips.h5 poses.npz --out answers.json
    cat CLIP.skeleton | python -m pipeline.predict runs/stgcn -
    python -m pipeline.predict runs/stgcn crowd/ --per person
    python -m pipeline.predict runs/stgcn long.skeleton --window 2s --html page.html --out actions.csv
    python -m pipeline.predict runs/stgcn --onnx stgcn.onnx
    python -m pipeline.predict runs/together.json CLIP.skeleton    # what pipeline.ensemble --out has written
    python -m pipeline.predict runs/together.json --onnx together.onnx

    from pipeline import load
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

from pipeline.options import Predict, read_options
from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: read_options("pipeline.predict"))  # before torch loads

import torch
from rich.console import Console
from rich.markup import escape

from pipeline import export, people, recordings, timeline
from pipeline.pages import timeline as timeline_page
from pipeline.predictor import BATCH, Answer, Predictor, load
from preprocessing import exits, files, ntu
from preprocessing.pages import Provenance
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SUFFIX, Reading, SourceError
from preprocessing.stages import Clip

__all__ = ["Answer", "Predictor", "load", "main"]


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
