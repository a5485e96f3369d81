"""Build one HDF5 file, and its manifest, from skeleton recordings.

Examples:
  python -m preprocessing.build nturgbd_skeletons_s001_to_s017.zip --out ntu60.h5
  python -m preprocessing.build s001_to_s017.zip s018_to_s032.zip --out ntu120.h5 --workers 8
  python -m preprocessing.build my_recordings/ --out mine.h5 --allow-rejects
  python -m preprocessing.build ntu60/ --out ntu60_ctr.h5 --recipe ctr
  python -m preprocessing.build ntu60/ --out ntu60_aligned.h5 --add yaw size
  python -m preprocessing.build utd_mhad.npz --out utd_mhad.h5
  python -m preprocessing.build poses.npz --out poses.h5 --fill linear --fill-gap 15 --smooth 5
  python -m preprocessing.build ntu60/ --out ten_classes.h5 --classes 1-10
  python -m preprocessing.build mine/ --out mine.h5 --labels mine.csv --splits folds.csv

A build that was stopped or killed resumes when the same command runs again.

exit codes: 0 built, 2 usage, 3 worker died, 4 too many rejects, 6 integrity, 7 no space, 130 and 143 stopped
"""

from __future__ import annotations

import sys

from preprocessing import startup
from preprocessing.options import Build, read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("preprocessing.build"))  # before NumPy and h5py load

import math
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing import engines, exits
from preprocessing.arguments import suggest, suggestion
from preprocessing.balance import balance_notes
from preprocessing.bones import check_bones
from preprocessing.faults import faultpoint
from preprocessing.files import IntegrityError, LockedError, lock_folder, require_space, require_suffix, sweep
from preprocessing.hdf5 import Contents, body_index, open_file, write
from preprocessing.ledger import BuildLedger, identity
from preprocessing.manifest import Manifest, describe_input, manifest_path
from preprocessing.overwrite import ExistsError, check_existing, check_place
from preprocessing.preview import centred, sentinel, units
from preprocessing.sources import ClipSource, Reading, SourceError, open_sources
from preprocessing.sources.array_files import is_unpacked
from preprocessing.splits import CountError, coverage
from preprocessing.stages import RECIPES, Decision, Landmarks, describe, recipe
from preprocessing.stages.bodies import motion
from preprocessing.work_units import Quarantined, Work, WorkUnit, cut, make

MAX_REJECTED = 0.05
READING = ("format", "layout", "labels", "classes", "splits", "channels", "fps", "bodies")
TEXT_PER_ROW = 10.0  # bytes of text per byte of rows: 9 in real recordings, so the space required is surely needed


class TooManyRejects(exits.Fault):
    """More clips are unreadable than in an intact download, or no clip could be built."""

    exit_code = exits.REJECTS


class Stopped(BaseException):
    """The process received SIGINT or SIGTERM; the argument is the exit code."""


def build(options: Build, console: Console) -> Manifest:
    """Build `options.out` and its manifest, or resume a build of the same that was stopped.

    Args:
        options: Options of the command.
        console: Where progress is shown.

    Returns:
        The manifest, as published beside the file.

    Raises:
        SourceError: The options or the sources cannot be used.
        TooManyRejects: Too many clips are unreadable, or none is left; the manifest is published, the file is not.
        LockedError: Another process builds the same file.
        CountError: A whole benchmark does not have its published splits.
        ExistsError: The output exists with other content; the same command with --overwrite need not build again.
        IntegrityError: The finished rows do not match each other.
        EngineError: The engine cannot be used, or its workers died.
        OSError: A file cannot be read or written; ENOSPC for a full disk.
    """
    _check(options)
    reading = Reading(**{key: getattr(options, key) for key in READING})
    source = open_sources(options.sources, reading)
    if options.engine == "ray" and any(is_unpacked(entry.place) for entry in source.entries[:1]):
        raise SourceError(
            "--engine ray cannot read the compressed arrays of an npz, which are unpacked on this machine alone; save"
            " it with numpy.savez, or use --engine processes"
        )
    try:
        check_bones(source.bones, len(source.joint_names))
        unit, warning = units(source, options.unit)
        steps = recipe(options.recipe, source.kinect, source.landmarks, *chosen(options, source))
        marking = sum(stage.name == "absent" for stage in steps)  # comes first, so that other stages know gaps
        stages = (*steps[:marking], *unit, *source.stages, *steps[marking:])
    except ValueError as error:
        raise SourceError(str(error)) from None
    manifest = Manifest(
        recipe=describe(options.recipe, stages),
        inputs=[describe_input(path) for path in sorted(options.sources, key=str)],
        reading=reading.given(),
        found=len(source.entries) + len(source.unusable),
        quarantined=[Quarantined(error.name, error.line, error.reason, str(error)) for error in source.unusable],
    )
    if options.unit == "px":
        source = replace(source, unit="px")
    manifest.warnings += [*source.notes, *filter(None, [warning])]
    if not _value(options.absent) and (shared := sentinel(source)):
        manifest.warnings.append(shared)
    marks = "float16" if source.scores else "bool"
    part = options.out.with_name(f".{options.out.name}.part")
    with lock_folder(part):
        sweep(options.out)
        sweep(manifest_path(options.out))
        ledger = BuildLedger(
            part,
            identity({**manifest.recipe, **reading.given()}, source.entries),
            len(source.joint_names),
            len(source.channels),
            marks,
        )
        try:
            shapes = _run(source, Work(stages, source.missing, marks), ledger, manifest, options, console)
            _check_rejects(manifest, options)
            manifest.recipe = without_effect(manifest.recipe, manifest.decisions)
            contents = _contents(source, shapes, manifest)
            manifest.warnings += _balance(contents)
            write(options.out, contents, ledger.spool, partial(_allowed, options))
            faultpoint("data published")
            manifest.content_sha256 = open_file(options.out, fast_start=True).content_sha256
            manifest.publish(manifest_path(options.out))
            faultpoint("manifest published")
        except TooManyRejects:
            ledger.remove()
            raise
        except BaseException:
            ledger.close()
            raise
        ledger.remove()
    return manifest


def chosen(options: Build, source: ClipSource) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Return the optional stages that the options switch on, and the parameters that they give to stages."""
    add, given = list(options.add), {}
    nan = options.nan == "absent" and options.absent != "none"
    value = _value(options.absent)
    zeros = options.absent == "zero" or value != 0
    given["absent"] = {"zeros": float(zeros), "nan": float(nan), "origin": float(centred(source))}
    if value:
        given["absent"]["value"] = value
    if options.fill != "none":
        add.append("fill")
        given["fill"] = {"gap": options.fill_gap, "spline": float(options.fill == "spline")}
    if options.smooth:
        add.append("smooth")
        given["smooth"] = {"frames": options.smooth}
    return add, given


def _value(absent: str) -> float:
    """Return the number that --absent names, or 0 for one of its words."""
    if absent in ("zero", "nan", "none"):
        return 0.0
    try:
        value = float(absent)
    except ValueError:
        value = 0.0
    if not value or not math.isfinite(value):
        raise SourceError(f"--absent {absent!r} is invalid: choose zero, nan, none, or a number such as --absent=-1")
    return value


def without_effect(described: dict[str, Any], decisions: list[Decision]) -> dict[str, Any]:
    """Return the recipe without stage `absent` as it is by default, if it has marked no joint."""
    if any(decision.rule == "absent" for decision in decisions):
        return described
    kept = [s for s in described["stages"] if s["stage"] != "absent" or not (s["zeros"] and s["nan"])]
    return described | {"stages": kept}


def _check(options: Build) -> None:
    """Check the options before any file is opened."""
    if not options.sources:
        raise SourceError("no SOURCE given; name a folder, a zip or a file of recordings")
    if options.workers < 1:
        raise SourceError(f"--workers {options.workers} is too small: must be at least 1")
    if options.fill_gap < 1:
        raise SourceError(f"--fill-gap {options.fill_gap} is too small: must be at least 1 frame")
    if options.smooth and (options.smooth < 3 or options.smooth % 2 == 0):
        raise SourceError(f"--smooth {options.smooth} is not a window: must be an odd number of frames from 3, or 0")
    try:
        require_suffix("--out", options.out, ".h5", ".hdf5")
        check_place(options.out, options.sources)
        if options.recipe not in RECIPES:
            recipe(options.recipe, True, Landmarks(0))
    except ValueError as error:
        raise SourceError(str(error)) from None
    if options.engine not in engines.ENGINES:
        hint = suggestion(options.engine, engines.ENGINES)
        known = ", ".join(engines.ENGINES)
        raise SourceError(f"--engine {options.engine!r} is unknown; choose one of {known}{hint}")


def _allowed(options: Build, content_sha256: str) -> None:
    """Raise ExistsError if the output exists with other content, unless it may be overwritten."""
    if not options.overwrite:
        check_existing(options.out, content_sha256)


def _balance(contents: Contents) -> list[str]:
    parts = contents.splits.get(contents.default_protocol, {})
    label_N, subject_N = contents.clips["label"], contents.clips["subject"]
    return balance_notes(label_N, subject_N, parts, contents.class_names, contents.default_protocol)


def _check_rejects(manifest: Manifest, options: Build) -> None:
    """Raise TooManyRejects if too many clips were lost; the manifest names them, and no HDF5 file is written."""
    rejected = len(manifest.quarantined)
    message = ""
    if not manifest.clips:
        message = f"no clips could be built ({rejected} rejected, {len(manifest.skipped)} skipped)"
    elif manifest.rejected_share > MAX_REJECTED and not options.allow_rejects:
        message = (
            f"{rejected} of {manifest.found} clips rejected (over {MAX_REJECTED:.0%}); --allow-rejects builds anyway"
        )
    if message:
        if rejected:
            message += f". The first: {manifest.quarantined[0].message}"
        manifest.publish(manifest_path(options.out))
        raise TooManyRejects(f"{message}; see {manifest_path(options.out)}")


def _located(units: Iterator[WorkUnit], source: ClipSource, done: int) -> Iterator[WorkUnit]:
    """Yield the units; add to the error of a dead worker how many clips were done, and which is next."""
    try:
        for unit in units:
            yield unit
            done = unit.first + unit.entries
    except engines.WorkerDied as error:
        raise engines.WorkerDied(f"{error}. {done} clips are done; the next is {source.entries[done].name}.") from None


def _run(
    source: ClipSource, work: Work, ledger: BuildLedger, manifest: Manifest, options: Build, console: Console
) -> np.ndarray:
    """Append all clips to the ledger's spool; return (N, 3): positions of the kept clips, their frames and bodies."""
    from preprocessing.tokenizer import tokenize

    shapes = [_tally(manifest, unit) for unit in ledger.done]
    if ledger.next:
        console.print(
            f"resuming the build of {options.out} at clip {ledger.next} of {len(source.entries)}",
            soft_wrap=True,
            highlight=False,
        )
    left = sum(entry.size for entry in source.entries[ledger.next :])
    require_space(options.out.parent, int(left / TEXT_PER_ROW) if source.kinect else left)
    tokenize(b""), motion(np.zeros((1, 1, 3), np.float32))  # load the compiled code before workers are forked
    units = engines.ENGINES[options.engine](
        partial(make, work), cut(source.entries, ledger.next), options.workers, options.address
    )
    with _progress(console) as progress:
        task = progress.add_task("build", total=len(source.entries), completed=ledger.next, clips=0.0, megabytes=0.0)
        began, clips, read = time.monotonic(), 0, 0
        for unit in _located(units, source, ledger.next):
            ledger.add(unit)
            shapes.append(_tally(manifest, unit))
            clips, read = clips + unit.entries, read + unit.read
            seconds = max(time.monotonic() - began, 1e-3)
            progress.update(
                task, advance=unit.entries, clips=clips / seconds, megabytes=read / seconds / 1e6, refresh=True
            )
    manifest.rows = ledger.spool.rows
    return np.concatenate([np.zeros((0, 3), np.int64), *shapes])


def _tally(manifest: Manifest, unit: WorkUnit) -> np.ndarray:
    """Add a unit to the manifest; return the shapes of its clips: (n, 3)."""
    manifest.skipped.update(unit.skipped)
    manifest.quarantined += unit.quarantined
    manifest.decisions += unit.decisions
    manifest.clips += len(unit.shapes)
    manifest.joints += unit.marked
    manifest.absent_joints += unit.absent
    manifest.bodies += sum(shape.bodies for shape in unit.shapes)
    return np.array(unit.shapes, np.int64).reshape(-1, 3)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("build"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[clips]:.0f} clips/s {task.fields[megabytes]:.0f} MB/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=False,  # it would start a thread, and the engine may fork
    )


def _contents(source: ClipSource, shapes_N3: np.ndarray, manifest: Manifest) -> Contents:
    kept, frames_N, bodies_N = shapes_N3.T
    clips = {key: values[kept] for key, values in source.columns.items()}
    index = body_index(frames_N, bodies_N)
    clips |= {
        "name": np.array([source.entries[i].name for i in kept]),
        "frames": frames_N,
        "first_body": index.first_body_N,
        "bodies": bodies_N,
    }
    manifest.splits = source.splits(kept)
    if source.benchmark:
        manifest.coverage = coverage(source.columns, kept, manifest.splits)
    return Contents(
        dataset=source.dataset,
        recipe=manifest.recipe,
        joint_names=source.joint_names,
        bones=source.bones,
        fps=source.fps,
        class_names=source.class_names,
        body_clip=index.clip_B,
        body_slot=index.slot_B,
        body_start=index.start_B,
        clips=clips,
        splits=manifest.splits.parts,
        default_protocol=manifest.splits.default,
        channels=source.channels,
        unit=source.unit,
    )


def summarise(manifest: Manifest, out: Path) -> str:
    """Summarise a build in a few lines of text."""
    counts = manifest.counts()
    lines = [f"{out}: {counts['clips']} clips, {counts['bodies']} bodies, {counts['rows']} rows"]
    lines += [
        f"  {what}: " + ", ".join(f"{reason} {number}" for reason, number in counts[what].items())
        for what in ("skipped", "quarantined", "decisions")
        if counts[what]
    ]
    if manifest.quarantined:
        lines.append(f"  the first quarantined: {manifest.quarantined[0].message}")
    if manifest.splits:
        for protocol, parts in manifest.splits.parts.items():
            default = " (default)" if protocol == manifest.splits.default else ""
            sizes = ", ".join(f"{part} {len(index)}" for part, index in parts.items())
            lines.append(f"  {protocol}{default}: {sizes}; {manifest.splits.rules[protocol]}")
    if manifest.absent_joints:
        share = manifest.absent_joints / manifest.joints
        lines.append(f"  absent joints: {manifest.absent_joints} of {manifest.joints} ({share:.2%})")
    if manifest.coverage:
        lines.append(f"  {manifest.coverage}")
    lines += [f"  warning: {warning}" for warning in manifest.warnings]
    return "\n".join(lines)


def _stop(number: int, _: object) -> None:
    raise Stopped(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = read_options("preprocessing.build", arguments)
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        manifest = build(options, Console(stderr=True))
        print(summarise(manifest, options.out))
        suggest("pipeline.train", "default", "--data", options.out, "--out", "runs/first")
        return 0
    except (
        SourceError,
        LockedError,
        engines.EngineError,
        TooManyRejects,
        IntegrityError,
        CountError,
        ExistsError,
    ) as error:
        code, message = exits.code(error), exits.describe(error)
    except OSError as error:
        code, message = exits.code(error), _disk_error(error, options.out)
    except Stopped as error:
        code, message = error.args[0], f"stopped; the same command resumes the build, {options.out} is unchanged"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"error: {message}", file=sys.stderr)
    return code


def _disk_error(error: OSError, out: Path) -> str:
    """Return the message; for a full disk with the space that was needed, or at least the space that is left."""
    if not exits.no_space(error):
        return exits.describe(error)
    left = "" if "needed" in str(error) else f"; {shutil.disk_usage(out.parent).free / 1e6:.1f} MB are left"
    return f"{error}{left}. {out} is unchanged; free some space and run the same command to resume"


if __name__ == "__main__":
    sys.exit(startup.run(main))
