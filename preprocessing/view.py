"""Write a page that plays clips, the recording beside the built file. The page needs no network.

The recordings are read from the place that the manifest names; without them only the built clips are shown.
Dropped bodies are grey, with the rule that dropped them, the value it measured and its threshold.

Examples:
  python -m preprocessing.view ntu60.h5 --out view.html
  python -m preprocessing.view ntu60.h5 --clip S001C001P001R001A013 S017C003P020R002A059 --out view.html
  python -m preprocessing.view ntu60.h5 --raw /data/nturgb+d_skeletons --out view.html

exit codes: 0 written, 2 usage, 6 FILE.h5 is damaged
"""

from __future__ import annotations

import sys

from preprocessing import startup
from preprocessing.options import View, read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("preprocessing.view"))  # before NumPy and h5py load

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing import exits
from preprocessing.files import publish_text, require_suffix
from preprocessing.hdf5 import SkeletonFile, open_file
from preprocessing.manifest import read_manifest
from preprocessing.pages import Provenance, render
from preprocessing.pages.player import BodyTrack, ClipMotion, Panel, file_panel, in_space, pack, player_data
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources import ClipSource, Reading, SourceError, open_sources

MOST = 200  # clips per page: each adds about 100 kB
DROPPING = ("length", "spread", "motion", "actors")
# Rule -> what it did to a body, and why.
EXPLAINED = {
    "join": "joined to another track, {value:.3g} m away; tracks within {threshold:.3g} m are one body",
    "length": "dropped: tracked in {value:.0f} frames; {threshold:.0f} or fewer are too few beside another body",
    "spread": "dropped as a ghost: too wide for its height in {value:.0%} of its frames; {threshold:.0%} are too many",
    "motion": "dropped: its motion of {value:.3g} m² is beyond the limit of {threshold:.3g} m²",
    "actors": "dropped: its motion of {value:.3g} m² is below the {threshold:.3g} m² of the bodies in both slots",
    "actors-continued": "continues the body of a slot, with which it shares no frame",
    "kept-best": "kept although the rule would drop it: it moves most, and no body would be left",
    "yaw-undefined": "clip not turned: its shoulders are {value:.3g} m apart; at least {threshold:.3g} m are needed",
    "yaw-later": "clip turned by frame {value:.0f}: its shoulders were not found before",
    "size-undefined": "clip not scaled: its spine is {value:.3g} m long; at least {threshold:.3g} m are needed",
    "centre-later": "clip centred by frame {value:.0f}: its origin was not found before",
    "centre-mean": "clip centred by the mean of {value:.0f} joints: its origin was never found",
}


def choose(file: SkeletonFile, decisions: dict[str, list[dict[str, Any]]], options: View) -> list[int]:
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
    for track, joints_FV3 in zip(raw.tracks, in_space([track.joints_FV3 for track in raw.tracks]), strict=True):
        own = [decision for decision in decisions if decision["body"] == track.body_id]
        dropped = next((f"dropped ({decision['rule']})" for decision in own if decision["rule"] in DROPPING), "")
        bodies.append(
            BodyTrack(
                label=f"body {track.body_id}",
                dropped=dropped,
                frames=track.frame_F.tolist(),
                joints=pack(joints_FV3, track.tracked_FV),
            )
        )
    return Panel(title="raw", frames=raw.frames, bodies=bodies)


def describe(decision: dict[str, Any]) -> str:
    """Return a decision in one sentence: what the rule did to the body, the measured value and the threshold."""
    rule, value, threshold = decision["rule"], decision["value"], decision["threshold"]
    words = EXPLAINED.get(rule, f"{rule}: {value:.4g} against {threshold:.4g}")
    return f"Body {decision['body']}: {words.format(value=value, threshold=threshold)} ({rule})."


def page_clips(file: SkeletonFile, manifest: dict[str, Any], options: View) -> list[ClipMotion]:
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
                decisions=[describe(decision) for decision in decisions]
                or ["No rule dropped or changed a body of this clip."],
                note=note,
                panels=panels,
            )
        )
    return clips


def _recordings(options: View, manifest: dict[str, Any]) -> tuple[ClipSource | None, str]:
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
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = read_options("preprocessing.view", arguments)
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
    sys.exit(startup.run(main))
