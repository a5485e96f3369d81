"""A page that plays clips, raw beside cleaned: `python -m preprocessing.view FILE.h5 --out PAGE.html`."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from preprocessing import exits
from preprocessing.entries import Source, SourceError
from preprocessing.export import clip_present, clip_rows
from preprocessing.files import publish_text, read_json, require_suffix
from preprocessing.hdf5 import SkeletonFile, open_file
from preprocessing.manifest import manifest_path
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources import open_sources

MOST = 200  # clips of a page: each is some 100 kB of it
DROPPING = ("length", "spread", "motion", "actors")

DESCRIPTION = """Write a page that plays clips, the recording beside what the recipe made of it. It needs no network.

The recordings are read again from where the manifest says they were; without them only the cleaned clips are shown.
Dropped bodies are grey, with the rule that dropped them, the value it measured and its threshold.

examples:
  python -m preprocessing.view ntu60.h5 --out view.html
  python -m preprocessing.view ntu60.h5 --clip S001C001P001R001A013 S017C003P020R002A059 --out view.html
  python -m preprocessing.view ntu60.h5 --raw /data/nturgb+d_skeletons --out view.html

exit codes: 0 written, 2 usage, 6 FILE.h5 is damaged
"""


@dataclass(frozen=True)
class Options:
    """What to show, and where to write it."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.h5")]
    """The built file; its manifest must lie beside it for the rules to be told."""
    out: Path
    """The page to write."""
    clip: tuple[str, ...] = ()
    """Names of clips; without any, those with the most decisions, then the first."""
    raw: tuple[Path, ...] = ()
    """Folders, zips or the array file the recordings are in now, if not where the manifest says."""
    most: int = 12
    """Clips to choose when none is named."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest beside a built file; an empty one where there is none."""
    beside = manifest_path(path)
    if not beside.is_file():
        return {"inputs": [], "decisions": []}
    return read_json(beside, "inputs", "decisions")


def choose(file: SkeletonFile, decisions: dict[str, list[dict[str, Any]]], options: Options) -> list[int]:
    """Positions of the clips to show; ValueError names a clip that is not there."""
    names = file.clips["name"].tolist()
    if options.clip:
        place = {name: position for position, name in enumerate(names)}
        for name in options.clip:
            if name not in place:
                raise ValueError(
                    f"clip {name!r} is not in {options.file}; its manifest tells what was left out and why"
                )
        return [place[name] for name in options.clip]
    told = sorted(range(len(names)), key=lambda position: (-len(decisions.get(names[position], [])), position))
    return told[: options.most]


def pack(values: np.ndarray) -> str:
    """Millimetres as int16 in base64: a third of the page's size, and finer than the sensor."""
    return base64.b64encode(np.clip(np.rint(values * 1000), -32767, 32767).astype("<i2").tobytes()).decode()


def cleaned_panel(file: SkeletonFile, clip: int) -> dict[str, Any]:
    """The bodies of a clip as the file has them."""
    rows_MTV3, present_MT = clip_rows(file, clip), clip_present(file, clip)
    bodies = [
        {
            "label": f"slot {slot}",
            "dropped": "",
            "frames": np.flatnonzero(present_T).tolist(),
            "joints": pack(rows_TV3[present_T]),
        }
        for slot, (rows_TV3, present_T) in enumerate(zip(rows_MTV3, present_MT, strict=True))
    ]
    return {"title": f"cleaned, recipe {file.recipe.get('name', '?')}", "bodies": bodies}


def raw_panel(raw: RawClip, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The bodies of a recording, each with the rules that spoke about it."""
    bodies = []
    for track in raw.tracks:
        mine = [decision for decision in told if decision["body"] == track.body_id]
        dropped = next((rule(decision) for decision in mine if decision["rule"] in DROPPING), "")
        bodies.append(
            {
                "label": f"body {track.body_id}",
                "dropped": dropped,
                "frames": track.frame_F.tolist(),
                "joints": pack(track.joints_FV3),
            }
        )
    return {"title": "raw", "bodies": bodies}


def rule(decision: dict[str, Any]) -> str:
    """A decision in words: the rule, its value and its threshold."""
    return f"{decision['rule']}: {decision['value']:.4g} against {decision['threshold']:.4g}"


def page_clips(file: SkeletonFile, manifest: dict[str, Any], options: Options) -> list[dict[str, Any]]:
    """All that the page needs to know about each clip."""
    told: dict[str, list[dict[str, Any]]] = {}
    for decision in manifest["decisions"]:
        told.setdefault(decision["clip"], []).append(decision)
    chosen = choose(file, told, options)
    source, why = _recordings(options, manifest)
    entries = {entry.name: entry for entry in source.entries} if source else {}
    clips = []
    for position in chosen:
        name = str(file.clips["name"][position])
        decisions = told.get(name, [])
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
            note = "the recording is not where the manifest says"
        panels.append(cleaned_panel(file, position))
        clips.append(
            {
                "name": name,
                "action": file.class_names[int(file.clips["label"][position])],
                "frames": frames,
                "rules": [f"body {decision['body']}: {rule(decision)}" for decision in decisions],
                "note": note,
                "panels": panels,
            }
        )
    return clips


def _recordings(options: Options, manifest: dict[str, Any]) -> tuple[Source | None, str]:
    """The recordings, or why there are none."""
    paths = options.raw or tuple(Path(one["source"]) for one in manifest["inputs"])
    if not paths:
        return None, "no manifest beside the file; name the recordings with --raw"
    try:
        return open_sources(paths), ""
    except SourceError as error:
        if options.raw:
            raise
        return None, f"no recordings ({error}); name them with --raw"


def render(file: SkeletonFile, clips: list[dict[str, Any]]) -> str:
    """The page: data as JSON that cannot end its own script tag, and the script that draws it."""
    data = {
        "clips": clips, "bones": file.bones.tolist(), "joints": len(file.joint_names), "fps": file.fps,
        "dataset": file.dataset,
    }  # fmt: skip
    text = json.dumps(data).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    return (files("preprocessing") / "view.html").read_text(encoding="utf-8").replace("__DATA__", text)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m preprocessing.view", description=DESCRIPTION, args=arguments)
    try:
        require_suffix("--out", options.out, ".html")
        if not 1 <= max(options.most, len(options.clip)) <= MOST or options.most < 1:
            raise ValueError(f"a page holds 1 to {MOST} clips; name fewer with --clip or --most")
        file = open_file(options.file)
        clips = page_clips(file, read_manifest(options.file), options)
        publish_text(options.out, render(file, clips))
        print(f"{options.out}: {len(clips)} clips")
        for note in sorted({clip["note"] for clip in clips if clip["note"]}):
            print(f"  {note}")
        return 0
    except (OSError, ValueError, KeyboardInterrupt) as error:
        return exits.report(error)


if __name__ == "__main__":
    sys.exit(main())
