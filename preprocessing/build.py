"""Build one HDF5 file from recordings: `python -m preprocessing.build SOURCE... --out FILE.h5`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing import engines
from preprocessing.files import LockedError, lock
from preprocessing.hdf5 import Contents, IntegrityError, Spool, open_file, write
from preprocessing.manifest import Manifest, describe_input, manifest_path
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import COLUMNS, Entry, Source, SourceError, open_sources
from preprocessing.stages import RECIPES, Clip, Stage, apply, describe, recipe

EXIT_USAGE, EXIT_REJECTS, EXIT_INTEGRITY, EXIT_NO_SPACE, EXIT_INTERRUPT = 2, 4, 6, 7, 130
MAX_REJECTED = 0.05

EXAMPLES = """Build one HDF5 file, and its manifest, from skeleton recordings.

examples:
  python -m preprocessing.build nturgbd_skeletons_s001_to_s017.zip --out ntu60.h5
  python -m preprocessing.build s001_to_s017.zip s018_to_s032.zip --out ntu120.h5 --workers 8
  python -m preprocessing.build my_recordings/ --out mine.h5 --allow-rejects
  python -m preprocessing.build utd_mhad.npz --out utd_mhad.h5

exit codes: 0 built, 2 usage, 4 too many rejects, 6 integrity, 7 no space, 130 interrupted
"""


@dataclass(frozen=True)
class Options:
    """What to build, and where to."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    """Folders or zips of .skeleton files (several make one file), or one array .npz."""
    out: Path
    """The HDF5 file; FILE.manifest.json is written beside it."""
    recipe: str = "exact"
    """Preprocessing recipe."""
    workers: int = os.cpu_count() or 1
    """Threads that read clips."""
    allow_rejects: bool = False
    """Build even if more than 5 % of the clips cannot be read."""


class TooManyRejects(RuntimeError):
    """More clips were unreadable than a healthy download has."""


def build(options: Options, console: Console) -> Manifest:
    """Build `options.out` and its manifest."""
    if not options.sources:
        raise SourceError("no SOURCE given; name a folder, a .zip or an array .npz")
    if options.workers < 1:
        raise SourceError(f"--workers {options.workers} is too few; give 1 or more")
    if options.out.suffix not in (".h5", ".hdf5"):
        raise SourceError(f"--out {options.out} must end in .h5")
    if options.recipe not in RECIPES:
        near = get_close_matches(options.recipe, RECIPES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SourceError(f"recipe {options.recipe!r} is unknown; {hint}choose one of {', '.join(RECIPES)}")
    source = open_sources(options.sources)
    stages = recipe(options.recipe, source.kinect, source.centre_joint)
    manifest = Manifest(
        recipe=describe(options.recipe, stages),
        inputs=[describe_input(path) for path in options.sources],
        found=len(source.entries) + len(source.unusable),
        quarantine=list(source.unusable),
    )
    with (
        lock(options.out.with_name(f".{options.out.name}.lock")),
        Spool(options.out.parent, len(source.joint_names)) as spool,
    ):
        kept, shapes = _run(source, stages, options.workers, spool, manifest, console)
        _judge(manifest, options)
        contents = _contents(source, kept, shapes, manifest)
        write(options.out, contents, spool)
        manifest.content_sha256 = open_file(options.out, fast_start=True).content_sha256
        manifest.publish(manifest_path(options.out))
    return manifest


def _judge(manifest: Manifest, options: Options) -> None:
    """Refuse a build that lost too much; its manifest says what, and no HDF5 file is written."""
    rejected = len(manifest.quarantine)
    message = ""
    if not manifest.clips:
        message = f"no clip could be built ({rejected} rejected, {len(manifest.skipped)} skipped)"
    elif manifest.rejected_share > MAX_REJECTED and not options.allow_rejects:
        message = (
            f"{rejected} of {manifest.found} clips rejected (over {MAX_REJECTED:.0%}); --allow-rejects builds anyway"
        )
    if message:
        manifest.publish(manifest_path(options.out))
        raise TooManyRejects(f"{message}; see {manifest_path(options.out)}")


def _process(stages: tuple[Stage, ...], missing: frozenset[str], entry: Entry) -> Clip | SkeletonError | str:
    """A finished clip, or why there is none: an error to quarantine, a reason to skip."""
    if entry.name in missing:
        return "known-missing"
    try:
        raw = entry.read()
    except SkeletonError as error:
        return error
    return apply(entry.name, raw, stages) if raw.tracks else "no-body"


def _run(
    source: Source, stages: tuple[Stage, ...], workers: int, spool: Spool, manifest: Manifest, console: Console
) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """Frames of all clips into the spool: positions of the clips kept; of each, frames and first rows of its bodies."""
    kept: list[int] = []
    shapes: list[tuple[int, list[int]]] = []
    outcomes = engines.threads(partial(_process, stages, source.missing), source.entries, workers)
    for position, outcome in enumerate(_track(outcomes, len(source.entries), console)):
        if isinstance(outcome, str):
            manifest.skipped[source.entries[position].name] = outcome
        elif isinstance(outcome, SkeletonError):
            manifest.quarantine.append(outcome)
        else:
            starts = [spool.append(*body) for body in zip(outcome.joints_MTV3, outcome.present_MT, strict=True)]
            kept.append(position)
            shapes.append((outcome.present_MT.shape[1], starts))
            manifest.decisions += outcome.decisions
            manifest.bodies += len(starts)
    manifest.clips, manifest.rows = len(kept), spool.rows
    return kept, shapes


def _track(
    outcomes: Iterable[Clip | SkeletonError | str], total: int, console: Console
) -> Iterable[Clip | SkeletonError | str]:
    columns = (TextColumn("build"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.0f} clips/s"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("build", total=total, rate=0.0)
        for outcome in outcomes:
            yield outcome
            progress.update(task, advance=1, rate=progress.tasks[0].speed or 0.0)


def _contents(source: Source, kept: list[int], shapes: list[tuple[int, list[int]]], manifest: Manifest) -> Contents:
    clips = {key: np.array([source.entries[i].columns[key] for i in kept], np.int64) for key in COLUMNS}
    bodies_N = np.array([len(starts) for _, starts in shapes], np.int64)
    clips |= {
        "name": np.array([source.entries[i].name for i in kept]),
        "frames": np.array([frames for frames, _ in shapes], np.int64),
        "first_body": np.cumsum(bodies_N) - bodies_N,
        "bodies": bodies_N,
    }
    manifest.splits = source.splits(kept, clips)
    return Contents(
        dataset=source.dataset,
        recipe=manifest.recipe,
        joint_names=source.joint_names,
        bones=source.bones,
        fps=source.fps,
        class_names=source.class_names,
        body_clip=np.repeat(np.arange(len(kept)), bodies_N),
        body_slot=np.concatenate([np.arange(n) for n in bodies_N]),
        body_start=np.array([start for _, starts in shapes for start in starts], np.int64),
        clips=clips,
        splits=manifest.splits.parts,
        default_protocol=manifest.splits.default,
    )


def summarise(manifest: Manifest, out: Path) -> str:
    """A build in a few lines of text."""
    counts = manifest.counts()
    lines = [f"{out}: {counts['clips']} clips, {counts['bodies']} bodies, {counts['rows']} rows"]
    lines += [
        f"  {what}: " + ", ".join(f"{reason} {number}" for reason, number in counts[what].items())
        for what in ("skipped", "quarantined", "decisions")
        if counts[what]
    ]
    if manifest.splits:
        for protocol, parts in manifest.splits.parts.items():
            default = " (default)" if protocol == manifest.splits.default else ""
            sizes = ", ".join(f"{part} {len(index)}" for part, index in parts.items())
            lines.append(f"  {protocol}{default}: {sizes}; {manifest.splits.rules[protocol]}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m preprocessing.build", description=EXAMPLES, args=arguments)
    code, message = EXIT_USAGE, ""
    try:
        manifest = build(options, Console(stderr=True))
        print(summarise(manifest, options.out))
        return 0
    except (SourceError, LockedError) as error:
        message = str(error)
    except TooManyRejects as error:
        code, message = EXIT_REJECTS, str(error)
    except IntegrityError as error:
        code, message = EXIT_INTEGRITY, str(error)
    except OSError as error:
        code, message = EXIT_NO_SPACE if error.errno == errno.ENOSPC else EXIT_USAGE, str(error)
    except KeyboardInterrupt:
        code, message = EXIT_INTERRUPT, "interrupted; nothing was left behind"
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
