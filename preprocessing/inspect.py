"""Count clips, bodies, frames and rejected clips, and measure the range of the coordinates.

Examples:
  python -m preprocessing.inspect nturgbd_skeletons_s001_to_s017.zip
  python -m preprocessing.inspect ntu60.h5 --out ntu60.html

exit codes: 0 ok, 2 usage, 6 FILE.h5 is damaged
"""

from __future__ import annotations

import sys

from preprocessing import startup
from preprocessing.options import read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("preprocessing.inspect"))  # before NumPy and h5py load

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from preprocessing import exits
from preprocessing.files import publish_text, require_suffix
from preprocessing.gaps import absent_shares
from preprocessing.hdf5 import PARTS, SkeletonFile, clip_present, clip_rows, clip_tracked, open_file
from preprocessing.manifest import read_manifest
from preprocessing.pages import Box, Column, Provenance, Row, Table, number, render, text
from preprocessing.pages.player import PlayerData, file_clip, player_data
from preprocessing.pages.strips import strip
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import Reading, open_sources
from preprocessing.stages.bodies import every_joint

BINS = 24  # of the histogram of frames
EXAMPLES = 12  # clips that the page plays
LISTED = 500  # rejected clips that the page names


@dataclass
class Survey:
    """Counts over clips; small whatever their number."""

    what: str
    clips: int = 0
    bodies: Counter[str] = field(default_factory=Counter)  # bodies in a clip -> clips
    frames: list[int] = field(default_factory=list)  # of each clip
    classes: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)  # reason -> clips
    rejected: list[tuple[str, str, str]] = field(default_factory=list)  # name, reason, message
    decisions: Counter[str] = field(default_factory=Counter)  # rule -> times
    low_C: np.ndarray = field(default_factory=lambda: np.full(1, np.inf))  # in the unit of the coordinates
    high_C: np.ndarray = field(default_factory=lambda: np.full(1, -np.inf))
    zero_joints: int = 0  # joints that were found and are exactly zero
    absent_joints: int = 0  # joints that were not found in a frame with the body
    joints: int = 0
    absent: int = 0  # frames without any tracked body
    unit: str = "metres"
    shares: list[tuple[str, str]] = field(default_factory=list)  # absent joints per part of the default protocol

    def add(
        self,
        action: str,
        frames: int,
        rows: list[np.ndarray],
        seen_T: np.ndarray,
        found: list[np.ndarray] | None = None,
    ) -> None:
        """Count one clip.

        Args:
            action: Name of its class.
            frames: Number of its frames T.
            rows: Tracked rows of each body, (F, V, C).
            seen_T: Frames in which at least one body is tracked, bool.
            found: Joints of these rows that were found, (F, V) bool each; None: those with finite coordinates.
        """
        self.clips += 1
        self.classes[action] += 1
        self.frames.append(frames)
        self.bodies[str(len(rows))] += 1
        self.absent += frames - int(seen_T.sum())
        for body, rows_FVC in enumerate(rows):
            found_FV = np.isfinite(rows_FVC).all(axis=-1) if found is None else found[body]
            self.joints += found_FV.size
            self.absent_joints += int(np.count_nonzero(~found_FV))
            points_XC = rows_FVC[found_FV]
            if len(points_XC):
                self.low_C = np.minimum(self.low_C, points_XC.min(axis=0))
                self.high_C = np.maximum(self.high_C, points_XC.max(axis=0))
                self.zero_joints += int((~points_XC.any(axis=1)).sum())

    def reject(self, name: str, reason: str, message: str) -> None:
        """Count a clip that is not usable."""
        self.rejects[reason] += 1
        # Name and reason have columns of their own.
        self.rejected.append((name, reason, message.rpartition(f"{reason}: ")[2] if name in message else message))


def survey_recordings(paths: tuple[Path, ...], console: Console) -> Survey:
    """Read every recording once."""
    source = open_sources(paths, Reading(labelled=False))
    survey = Survey(f"{', '.join(map(str, paths))}: recordings of {source.dataset}")
    for error in source.unusable:
        survey.reject(error.name, error.reason, str(error))
    entries = progress(source.entries, "inspect", console=console, transient=True)
    for entry, label in zip(entries, source.columns["label"], strict=True):
        if entry.name in source.missing:
            survey.reject(entry.name, "known-missing", "listed by the dataset's authors as missing or incomplete")
            continue
        try:
            raw = entry.read()
        except SkeletonError as error:
            survey.reject(entry.name, error.reason, str(error))
            continue
        seen_T = np.zeros(raw.frames, bool)
        for one in raw.tracks:
            seen_T[one.frame_F] = True
        found = [
            np.isfinite(one.joints_FV3).all(axis=-1) & (True if one.tracked_FV is None else one.tracked_FV > 0)
            for one in raw.tracks
        ]
        survey.add(source.class_names[label], raw.frames, [one.joints_FV3 for one in raw.tracks], seen_T, found)
    return survey


def survey_file(path: Path, console: Console) -> Survey:
    """Read every clip of a built file, and its manifest."""
    file, manifest = open_file(path), read_manifest(path)
    survey = Survey(f"{path}: {file.dataset}, recipe {file.recipe.get('name', '?')}")
    survey.unit = "metres" if file.unit == "m" else file.unit
    if file.tracked_RV is not None:
        share_N = absent_shares(file)
        parts = file.splits.get(file.default_protocol, {})
        survey.shares = [
            (f"absent joints per clip, {part} of {file.default_protocol}", f"{share_N[parts[part]].mean():.2%}")
            for part in PARTS
            if len(parts.get(part, ()))
        ]
    survey.decisions.update(decision["rule"] for decision in manifest["decisions"])
    for key in ("quarantine", "skipped"):
        for entry in manifest.get(key, []):
            survey.reject(entry["name"], entry["reason"], entry.get("message", ""))
    for clip in progress(range(len(file.clips["name"])), "inspect", console=console, transient=True):
        rows_MTV3, present_MT = clip_rows(file, clip), clip_present(file, clip)
        rows = [rows_TV3[present_T] for rows_TV3, present_T in zip(rows_MTV3, present_MT, strict=True)]
        marks = clip_tracked(file, clip)
        marks_MTV = every_joint(present_MT, rows_MTV3.shape[2]) if marks is None else marks
        found = [marks_TV[present_T] > 0 for marks_TV, present_T in zip(marks_MTV, present_MT, strict=True)]
        action = file.class_names[file.clips["label"][clip]]
        survey.add(action, rows_MTV3.shape[1], rows, np.any(present_MT, axis=0), found)
    return survey


def figures(survey: Survey) -> list[tuple[str, str]]:
    """Return the figures of a survey as (name, value)."""
    rows = [("clips", str(survey.clips)), ("classes", str(len(survey.classes)))]
    rows += [(f"clips with {count} {'body' if count == '1' else 'bodies'}", str(survey.bodies[count]))
             for count in sorted(survey.bodies)]  # fmt: skip
    if survey.frames:
        low, middle, high = np.percentile(survey.frames, [0, 50, 100]).astype(int)
        rows.append(("frames per clip, minimum / median / maximum", f"{low} / {middle} / {high}"))
        rows.append(("frames without a body", f"{survey.absent} of {sum(survey.frames)}"))
    if survey.joints:
        rows += [(f"{axis}, {survey.unit}", f"{low:.2f} to {high:.2f}")
                 for axis, low, high in zip("xyz", survey.low_C, survey.high_C, strict=False)]  # fmt: skip
        rows.append(("joints at exactly zero", f"{survey.zero_joints} of {survey.joints}"))
        if survey.absent_joints:
            share = survey.absent_joints / survey.joints
            rows.append(("absent joints", f"{survey.absent_joints} of {survey.joints} ({share:.2%})"))
        rows += survey.shares
    rows += [(f"rejected: {reason}", str(count)) for reason, count in sorted(survey.rejects.items())]
    rows += [(f"rule {name}", str(count)) for name, count in sorted(survey.decisions.items())]
    return rows


def histogram(values: list[int]) -> list[tuple[str, int]]:
    """Return (interval, count) for at most `BINS` intervals of equal width."""
    if not values:
        return []
    low = min(values)
    width = (max(values) - low) // BINS + 1
    counts = np.bincount((np.asarray(values) - low) // width)
    starts = [low + width * place for place in range(len(counts))]
    names = [f"{start}" if width == 1 else f"{start} to {start + width - 1}" for start in starts]
    return [(name, int(count)) for name, count in zip(names, counts, strict=True)]


def lead(survey: Survey) -> list[Box]:
    """Return the boxes that stand first on the page."""
    classes = len(survey.classes)
    boxes = [Box("Clips", f"{survey.clips:,}", f"{classes} class{'' if classes == 1 else 'es'}")]
    if survey.frames:
        low, middle, high = np.percentile(survey.frames, [0, 50, 100]).astype(int)
        boxes.append(Box("Frames per clip", str(middle), f"median; {low} to {high}"))
        share = 100 * survey.absent / max(1, sum(survey.frames))
        boxes.append(Box("Frames without a body", f"{share:.2f} %", f"{survey.absent:,} of {sum(survey.frames):,}"))
    if survey.joints:
        share = 100 * survey.zero_joints / survey.joints
        boxes.append(Box("Joints at exactly zero", f"{share:.2f} %", f"{survey.zero_joints:,} of {survey.joints:,}"))
    if survey.absent_joints:
        share = 100 * survey.absent_joints / survey.joints
        boxes.append(Box("Absent joints", f"{share:.2f} %", f"{survey.absent_joints:,} of {survey.joints:,}"))
    rejected = survey.rejects.total()
    boxes.append(
        Box("Rejected clips", str(rejected), "see the list below" if rejected else "", "bad" if rejected else "good")
    )
    return boxes


def split_tables(file: SkeletonFile) -> list[Table]:
    """Return the clips of each class in each split: one table per protocol, the default protocol first."""
    order = sorted(file.splits, key=lambda protocol: protocol != file.default_protocol)
    tables = []
    for protocol in order:
        parts = file.splits[protocol]
        counts = {
            part: np.bincount(file.clips["label"][parts[part]], minlength=len(file.class_names))
            for part in sorted(parts, key=PARTS.index)
        }
        present = np.flatnonzero(np.sum(list(counts.values()), axis=0))
        rows = [Row(("all classes", *(int(count_K.sum()) for count_K in counts.values())), "total")]
        rows += [Row((file.class_names[k], *(int(count_K[k]) for count_K in counts.values()))) for k in present]
        default = " (default)" if protocol == file.default_protocol else ""
        columns: tuple[Column, ...] = (text("class"), *(number(part, "clips") for part in counts))
        tables.append(Table(f"Protocol {protocol}{default}", columns, tuple(rows)))
    return tables


def first_clips(file: SkeletonFile) -> list[int]:
    """Return the first clip of each of the first `EXAMPLES` classes that have one."""
    _, first = np.unique(file.clips["label"], return_index=True)
    return [int(clip) for clip in first[:EXAMPLES]]


def examples(file: SkeletonFile) -> PlayerData:
    """Return the clips of `first_clips` for the player."""
    return player_data(file, [file_clip(file, clip, "as built") for clip in first_clips(file)])


def page(survey: Survey, file: SkeletonFile | None, provenance: Provenance) -> str:
    """Return the page as text; `file` is the built file, None for recordings."""
    columns = (text("clip"), text("reason"), text("message"))
    shown = tuple(Row(entry) for entry in sorted(survey.rejected)[:LISTED])
    return render(
        "survey.html",
        provenance,
        kind="inspect",
        title=survey.what,
        subtitle="",
        lead=lead(survey),
        figures=Table("All figures", (text("figure"), number("value")), tuple(Row(row) for row in figures(survey))),
        charts=[
            ("Frames per clip", "frames", histogram(survey.frames)),
            ("Bodies per clip", "bodies", sorted(survey.bodies.items())),
            ("Rejected clips, by reason", "reason", sorted(survey.rejects.items())),
            ("Decisions, by rule", "rule", sorted(survey.decisions.items())),
            ("Clips per class", "class", survey.classes.most_common()),
        ],
        splits=split_tables(file) if file else [],
        rejected=Table(f"Rejected clips, {len(shown)} of {len(survey.rejected)}", columns, shown),
        clips=examples(file) if file and len(file.clips["name"]) else None,
        strips=[strip(file, clip) for clip in first_clips(file)] if file else [],
    )


def _lines(survey: Survey) -> Iterator[str]:
    yield survey.what
    yield from (f"  {name:44} {value}" for name, value in figures(survey))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = read_options("preprocessing.inspect", arguments)
    console = Console(stderr=True)
    try:
        if not options.sources:
            raise ValueError("Nothing to inspect: name a built file, a folder, a zip or a file of recordings.")
        require_suffix("--out", options.out, ".html")
        built = [path for path in options.sources if path.suffix in (".h5", ".hdf5")]
        if built and len(options.sources) > 1:
            raise ValueError(f"{built[0]} is a built file: it must be named alone.")
        survey = survey_file(built[0], console) if built else survey_recordings(options.sources, console)
        print("\n".join(_lines(survey)))
        if options.out:
            provenance = Provenance.of("preprocessing.inspect", arguments)
            publish_text(options.out, page(survey, open_file(built[0]) if built else None, provenance))
        return 0
    except (OSError, ValueError, KeyboardInterrupt) as error:
        return exits.report(error)


if __name__ == "__main__":
    sys.exit(startup.run(main))
