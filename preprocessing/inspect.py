"""What recordings or a built file hold, as a table and as a page: `python -m preprocessing.inspect SOURCE|FILE.h5`."""

from __future__ import annotations

import html
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track as progress

from preprocessing import exits
from preprocessing.export import clip_present, clip_rows
from preprocessing.files import publish_text, require_suffix
from preprocessing.hdf5 import open_file
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import open_sources
from preprocessing.view import read_manifest

BINS = 24

DESCRIPTION = """Count what is there: clips, bodies, frames, rejects, and how far coordinates reach.

examples:
  python -m preprocessing.inspect nturgbd_skeletons_s001_to_s017.zip
  python -m preprocessing.inspect ntu60.h5 --out ntu60.html

exit codes: 0 told, 2 usage, 6 FILE.h5 is damaged
"""


@dataclass(frozen=True)
class Options:
    """What to look at."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE|FILE.h5")]
    """A built file, or folders, zips or an array file of recordings."""
    out: Path | None = None
    """Write the table and plots there as a page, too."""


@dataclass
class Survey:
    """Counts of what was seen; small whatever the number of clips."""

    what: str
    clips: int = 0
    bodies: Counter[str] = field(default_factory=Counter)  # bodies in a clip -> clips
    frames: list[int] = field(default_factory=list)  # of each clip
    classes: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)  # reason -> clips
    decisions: Counter[str] = field(default_factory=Counter)  # rule -> times
    low_3: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))  # metres
    high_3: np.ndarray = field(default_factory=lambda: np.full(3, -np.inf))
    zero_joints: int = 0  # joints that are exactly (0, 0, 0) in a tracked frame
    joints: int = 0
    absent: int = 0  # frames of a clip in which nobody is tracked

    def add(self, action: str, frames: int, rows: list[np.ndarray], seen_T: np.ndarray) -> None:
        """Count one clip: its bodies' tracked rows (F, V, 3) in metres, and where anybody is."""
        self.clips += 1
        self.classes[action] += 1
        self.frames.append(frames)
        self.bodies[str(len(rows))] += 1
        self.absent += frames - int(seen_T.sum())
        for rows_FV3 in rows:
            if len(rows_FV3):
                points_X3 = rows_FV3.reshape(-1, 3)
                self.low_3 = np.minimum(self.low_3, points_X3.min(axis=0))
                self.high_3 = np.maximum(self.high_3, points_X3.max(axis=0))
                self.zero_joints += int((~points_X3.any(axis=1)).sum())
                self.joints += len(points_X3)


def survey_recordings(paths: tuple[Path, ...], console: Console) -> Survey:
    """Read every recording once."""
    source = open_sources(paths)
    survey = Survey(f"{', '.join(map(str, paths))}: recordings of {source.dataset}")
    survey.rejects.update(error.reason for error in source.unusable)
    entries = progress(source.entries, "inspect", console=console, transient=True)
    for entry, label in zip(entries, source.columns["label"], strict=True):
        if entry.name in source.missing:
            survey.rejects["known-missing"] += 1
            continue
        try:
            raw = entry.read()
        except SkeletonError as error:
            survey.rejects[error.reason] += 1
            continue
        seen_T = np.zeros(raw.frames, bool)
        for one in raw.tracks:
            seen_T[one.frame_F] = True
        survey.add(source.class_names[label], raw.frames, [one.joints_FV3 for one in raw.tracks], seen_T)
    return survey


def survey_file(path: Path, console: Console) -> Survey:
    """Look at every clip of a built file, and at its manifest."""
    file, manifest = open_file(path), read_manifest(path)
    survey = Survey(f"{path}: {file.dataset}, recipe {file.recipe.get('name', '?')}")
    survey.decisions.update(decision["rule"] for decision in manifest["decisions"])
    survey.rejects.update(entry["reason"] for key in ("quarantine", "skipped") for entry in manifest.get(key, []))
    for clip in progress(range(len(file.clips["name"])), "inspect", console=console, transient=True):
        rows_MTV3, present_MT = clip_rows(file, clip), clip_present(file, clip)
        rows = [rows_TV3[present_T] for rows_TV3, present_T in zip(rows_MTV3, present_MT, strict=True)]
        survey.add(file.class_names[file.clips["label"][clip]], rows_MTV3.shape[1], rows, np.any(present_MT, axis=0))
    return survey


def table(survey: Survey) -> list[tuple[str, str]]:
    """The survey in rows of two."""
    rows = [("clips", str(survey.clips)), ("classes", str(len(survey.classes)))]
    rows += [(f"clips with {count} {'body' if count == '1' else 'bodies'}", str(survey.bodies[count]))
             for count in sorted(survey.bodies)]  # fmt: skip
    if survey.frames:
        low, middle, high = np.percentile(survey.frames, [0, 50, 100]).astype(int)
        rows.append(("frames, least / median / most", f"{low} / {middle} / {high}"))
        rows.append(("frames with nobody", f"{survey.absent} of {sum(survey.frames)}"))
    if survey.joints:
        rows += [(f"{axis}, metres", f"{low:.2f} to {high:.2f}")
                 for axis, low, high in zip("xyz", survey.low_3, survey.high_3, strict=True)]  # fmt: skip
        rows.append(("joints at exactly zero", f"{survey.zero_joints} of {survey.joints}"))
    rows += [(f"left out: {reason}", str(count)) for reason, count in sorted(survey.rejects.items())]
    rows += [(f"rule {name}", str(count)) for name, count in sorted(survey.decisions.items())]
    return rows


def bars(title: str, counts: list[tuple[str, int]]) -> str:
    """Counts as horizontal bars in SVG."""
    if not counts:
        return ""
    most = max(count for _, count in counts) or 1
    lines = [
        f'<text x="215" y="{20 * row + 14}" text-anchor="end">{html.escape(name[:32])}</text>'
        f'<rect x="222" y="{20 * row + 3}" width="{400 * count / most:.1f}" height="14"/>'
        f'<text x="{228 + 400 * count / most:.1f}" y="{20 * row + 14}">{count}</text>'
        for row, (name, count) in enumerate(counts)
    ]
    height = 20 * len(counts) + 4
    drawing = f'<svg viewBox="0 0 700 {height}" width="700" height="{height}" role="img">{"".join(lines)}</svg>'
    return f"<h2>{html.escape(title)}</h2>{drawing}"


def histogram(values: list[int]) -> list[tuple[str, int]]:
    """Counts in equal steps."""
    if not values:
        return []
    edges = np.unique(np.linspace(min(values), max(values) + 1, BINS + 1).astype(int))
    counts, _ = np.histogram(values, edges)
    steps = zip(edges[:-1], edges[1:] - 1, strict=True)
    return [
        (f"{low}" if low == high else f"{low} to {high}", int(n)) for (low, high), n in zip(steps, counts, strict=True)
    ]


def page(survey: Survey) -> str:
    """The table and the plots as one page that needs nothing else."""
    rows = "".join(f"<tr><td>{html.escape(a)}<td>{html.escape(b)}" for a, b in table(survey))
    plots = (
        bars("Frames of a clip", histogram(survey.frames))
        + bars("Bodies of a clip", sorted(survey.bodies.items()))
        + bars("Left out, by reason", sorted(survey.rejects.items()))
        + bars("Decisions, by rule", sorted(survey.decisions.items()))
        + bars("Clips of a class", survey.classes.most_common())
    )
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;max-width:760px;margin:0 auto;padding:20px}"
        "h1{font-size:20px}h2{font-size:17px;margin:24px 0 6px}"
        "td{padding:2px 18px 2px 0;border-bottom:1px solid #dde4ea}"
        "svg{max-width:100%}svg text{font-size:12px;fill:#1c2733}rect{fill:#2471a3}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>skelnorm: inspect</title><style>{style}</style>'
        f"<h1>{html.escape(survey.what)}</h1><table>{rows}</table>{plots}</html>\n"
    )


def _lines(survey: Survey) -> Iterator[str]:
    yield survey.what
    yield from (f"  {name:32} {value}" for name, value in table(survey))


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m preprocessing.inspect", description=DESCRIPTION, args=arguments)
    console = Console(stderr=True)
    try:
        if not options.sources:
            raise ValueError("nothing to inspect; name a built file, a folder, a .zip or an array .npz")
        require_suffix("--out", options.out, ".html")
        built = [path for path in options.sources if path.suffix in (".h5", ".hdf5")]
        if built and len(options.sources) > 1:
            raise ValueError(f"{built[0]} is a built file and must be named alone")
        survey = survey_file(built[0], console) if built else survey_recordings(options.sources, console)
        print("\n".join(_lines(survey)))
        if options.out:
            publish_text(options.out, page(survey))
        return 0
    except (OSError, ValueError, KeyboardInterrupt) as error:
        return exits.report(error)


if __name__ == "__main__":
    sys.exit(main())
