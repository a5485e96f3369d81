"""Clip viewer, the recording beside the built file: `python -m preprocessing.view FILE.h5 --out PAGE.html`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from preprocessing import exits
from preprocessing.files import publish_text, require_suffix
from preprocessing.hdf5 import SkeletonFile, open_file
from preprocessing.manifest import read_manifest
from preprocessing.pages import Provenance, render
from preprocessing.pages.player import BodyTrack, ClipMotion, Panel, file_panel, pack, player_data
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources import ClipSource, Reading, SourceError, open_sources

MOST = 200  # clips per page: each adds about 100 kB
DROPPING = ("length", "spread", "motion", "actors")
MEANINGS = {
    "join": "Two tracks that are close in time and space are one body; the value is their distance (m).",
    "length": "A body tracked in this many frames or fewer is dropped when there are others.",
    "spread": "A body that is too wide for its height in this share of its frames is a ghost and is dropped.",
    "motion": "A body that moves less or more than the threshold (square metres) is dropped when another moves more.",
    "actors": "Each clip has two slots; a body that moves less (square metres) than those that fill them is dropped.",
    "actors-continued": "A body that shares no frame with a slot's body continues it.",
    "kept-best": "The rule would drop every body: the one that moves most is kept.",
    "yaw-undefined": "The shoulders of actor 1 are too close together (m) to turn the clip by them.",
    "size-undefined": "The spine of actor 1 is too short (m) to scale the clip by it.",
}

DESCRIPTION = """Write a page that plays clips, the recording beside the built file. The page needs no network.

The recordings are read from the place that the manifest names; without them only the built clips are shown.
Dropped bodies are grey, with the rule that dropped them, the value it measured and its threshold.

examples:
  python -m preprocessing.view ntu60.h5 --out view.html
  python -m preprocessing.view ntu60.h5 --clip S001C001P001R001A013 S017C003P020R002A059 --out view.html
  python -m preprocessing.view ntu60.h5 --raw /data/nturgb+d_skeletons --out view.html

exit codes: 0 written, 2 usage, 6 FILE.h5 is damaged
"""


@dataclass(frozen=True)
class Options:
    """Clips to show and the page to write."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.h5")]
    """The built file; the rules' decisions are read from the manifest beside it."""
    out: Path
    """The page to write."""
    clip: tuple[str, ...] = ()
    """Names of clips; default: the clips with most decisions, then the first of the file."""
    raw: tuple[Path, ...] = ()
    """Folders, zips or the array file that hold the recordings now, if the manifest's place is out of date."""
    most: int = 12
    """Number of clips when none is named."""


def choose(file: SkeletonFile, decisions: dict[str, list[dict[str, Any]]], options: Options) -> list[int]:
    """Return the positions of the clips to show.

    Raises:
        ValueError: A clip that was asked for is not in the file.
    """
    names = file.clips["name"].tolist()
    if options.clip:
        place = {name: position for position, name in enumerate(names)}
        for name in options.clip:
            if name not in place:
                raise ValueError(f"clip {name!r} is not in {options.file}. Its manifest lists rejected clips and why.")
        return [place[name] for name in options.clip]
    by_decisions = sorted(range(len(names)), key=lambda place: (-len(decisions.get(names[place], [])), place))
    return by_decisions[: options.most]


def raw_panel(raw: RawClip, decisions: Sequence[dict[str, Any]]) -> Panel:
    """Return the bodies of a recording, each with the rule that dropped it."""
    bodies = []
    for track in raw.tracks:
        own = [decision for decision in decisions if decision["body"] == track.body_id]
        dropped = next((describe(decision) for decision in own if decision["rule"] in DROPPING), "")
        bodies.append(
            BodyTrack(
                label=f"body {track.body_id}",
                dropped=dropped,
                frames=track.frame_F.tolist(),
                joints=pack(track.joints_FV3),
            )
        )
    return Panel(title="raw", frames=raw.frames, bodies=bodies)


def describe(decision: dict[str, Any]) -> str:
    """Return a decision in words: the rule, its value and its threshold."""
    return f"{decision['rule']}: {decision['value']:.4g} against {decision['threshold']:.4g}"


def page_clips(file: SkeletonFile, manifest: dict[str, Any], options: Options) -> list[ClipMotion]:
    """Return the clips of the page, with their recordings where those are found."""
    by_clip: dict[str, list[dict[str, Any]]] = {}
    for decision in manifest["decisions"]:
        by_clip.setdefault(decision["clip"], []).append(decision)
    chosen = choose(file, by_clip, options)
    source, why = _recordings(options, manifest)
    entries = {entry.name: entry for entry in source.entries} if source else {}
    clips = []
    for position in chosen:
        name = str(file.clips["name"][position])
        decisions = by_clip.get(name, [])
        panels, note = [], why
        frames = int(file.clips["frames"][position])
        if name in entries:
            try:
                raw = entries[name].read()
                panels.append(raw_panel(raw, decisions))
                frames = max(frames, raw.frames)
            except SkeletonError as error:
                note = str(error)
        elif source:
            note = "The recording is not in the place that the manifest names."
        panels.append(file_panel(file, position, f"cleaned, recipe {file.recipe.get('name', '?')}"))
        clips.append(
            ClipMotion(
                name=name,
                action=file.class_names[int(file.clips["label"][position])],
                frames=frames,
                decisions=[f"body {decision['body']}: {describe(decision)}" for decision in decisions]
                or ["No rule dropped or changed a body of this clip."],
                note=note,
                panels=panels,
            )
        )
    return clips


def _recordings(options: Options, manifest: dict[str, Any]) -> tuple[ClipSource | None, str]:
    """Return the recordings, or None and why they are not shown."""
    paths = options.raw or tuple(Path(one["source"]) for one in manifest["inputs"])
    if not paths:
        return None, "No manifest beside the file: name the recordings with --raw."
    try:
        return open_sources(paths, Reading.recorded(manifest.get("reading", {}))), ""
    except SourceError as error:
        if options.raw:
            raise
        return None, f"No recordings ({error}): name them with --raw."


def page(file: SkeletonFile, clips: list[ClipMotion], provenance: Provenance) -> str:
    """Return the page as text."""
    recipe = file.recipe.get("name", "?")
    raw = any(len(clip["panels"]) > 1 for clip in clips)
    title = f"{file.dataset}: raw beside cleaned" if raw else f"{file.dataset}: cleaned clips"
    return render(
        "clips.html",
        provenance,
        kind="clips",
        title=title,
        subtitle=f"{len(clips)} of {len(file.clips['name'])} clips of {file.path.name}, recipe {recipe}",
        data=player_data(file, clips),
        rules=list(MEANINGS.items()),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, prog="python -m preprocessing.view", description=DESCRIPTION, args=arguments)
    try:
        require_suffix("--out", options.out, ".html")
        if not 1 <= max(options.most, len(options.clip)) <= MOST or options.most < 1:
            raise ValueError(f"A page holds 1 to {MOST} clips: name fewer with --clip or --most.")
        file = open_file(options.file)
        clips = page_clips(file, read_manifest(options.file), options)
        publish_text(options.out, page(file, clips, Provenance.of("preprocessing.view", arguments)))
        print(f"{options.out}: {len(clips)} clips")
        for note in sorted({clip["note"] for clip in clips if clip["note"]}):
            print(f"  {note}")
        return 0
    except (OSError, ValueError, KeyboardInterrupt) as error:
        return exits.report(error)


if __name__ == "__main__":
    sys.exit(main())
