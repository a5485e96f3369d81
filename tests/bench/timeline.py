"""Timelines of made-up recordings: test clips in a row with pauses between them. Prints a table row.

    python tests/bench/timeline.py RUN --data utd.h5 --sequences 40

Three to six test clips of one subject, never seen in training; between them the body moves slowly from the last pose to
the next first one, for one to two seconds. Frame-wise accuracy counts pauses as "none of these"; F1@50 counts a segment
as found if it overlaps one of its class by half (intersection over union), pauses left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

from pipeline import predict  # noqa: E402 - the path is set above
from pipeline.evaluate import evaluate  # noqa: E402
from pipeline.evaluation.matching import SELECTING  # noqa: E402
from pipeline.timeline import NONE, Windows, segments_of, timeline  # noqa: E402
from preprocessing.hdf5 import SkeletonFile, clip_rows, open_file  # noqa: E402
from preprocessing.skeleton import RawClip, Track  # noqa: E402


def sequence(file: SkeletonFile, test_N: np.ndarray, rng: np.random.Generator) -> tuple[RawClip, list[str]]:
    """A recording of several clips of one subject, and the label of each frame."""
    subject = rng.choice(np.unique(file.clips["subject"][test_N]))
    chosen = rng.choice(test_N[file.clips["subject"][test_N] == subject], rng.integers(3, 7), replace=False)
    parts: list[np.ndarray] = []
    labels: list[str] = []
    for clip in chosen:
        rows = clip_rows(file, int(clip))[0]
        if parts:
            pause = int(file.fps * rng.uniform(1, 2))
            share = np.linspace(0, 1, pause, dtype=np.float32)[:, None, None]
            parts.append((1 - share) * parts[-1][-1] + share * rows[0])
            labels += [NONE] * pause
        parts.append(rows)
        labels += [str(file.class_names[int(file.clips["label"][clip])])] * len(rows)
    joints = np.concatenate(parts)
    return RawClip(len(joints), (Track(0, np.arange(len(joints)), joints),)), labels


def f1(found: list[str], true: list[str], overlap: float = 0.5) -> tuple[int, int, int]:
    """True positives, found and true segments, without pauses."""
    mine, theirs = ([one for one in segments_of(labels) if one[2] != NONE] for labels in (found, true))
    hits, used = 0, set()
    for first, last, label in mine:
        for place, (start, end, name) in enumerate(theirs):
            both = min(last, end) - max(first, start) + 1
            if name == label and place not in used and both > 0:
                union = max(last, end) - min(first, start) + 1
                if both / union >= overlap:
                    hits += 1
                    used.add(place)
                    break
    return hits, len(mine), len(theirs)


def latency(predictor: predict.Predictor, raw: RawClip, window: float, stride: float) -> float:
    """Median milliseconds from a frame to the answer that is due with it."""
    stream, times = predictor.stream(window, stride), []
    for frame in raw.tracks[0].joints_FV3:
        begin = time.perf_counter()
        if stream.push(frame) is not None:
            times.append(time.perf_counter() - begin)
    return 1000 * float(np.median(times))


def main() -> None:
    """Print a row per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=40)
    parser.add_argument("--window", type=float, default=2.0)
    parser.add_argument("--stride", type=float, default=0.25)
    options = parser.parse_args()
    predictor, file = predict.load(options.run, torch.device("cpu")), open_file(options.data)
    result = evaluate(predictor, file)
    test_N = np.asarray(file.splits[result["protocol"]]["test"])
    stages = tuple(stage for stage in predictor.stages if stage.name not in SELECTING)
    right = frames = quiet = pauses = 0
    counts, begin, rng = np.zeros(3, int), time.perf_counter(), np.random.default_rng(0)
    for number in range(options.sequences):
        raw, labels = sequence(file, test_N, rng)
        windows = Windows(options.window, options.stride)
        found = timeline(predictor, str(number), raw, stages, file.fps, windows).labels()
        right += sum(a == b for a, b in zip(found, labels, strict=True))
        quiet += sum(a == b == NONE for a, b in zip(found, labels, strict=True))
        pauses += labels.count(NONE)
        frames += len(labels)
        counts += f1(found, labels)
    single, frame = result["metrics"]["top1"], right / frames
    acting = (right - quiet) / (frames - pauses)
    row = {
        "single clip": single, "frames": frame, "frames of actions": acting, "pauses": quiet / max(1, pauses),
        "F1@50": 2 * counts[0] / (counts[1] + counts[2]), "of single": frame / single,
        "seconds per minute": (time.perf_counter() - begin) / (frames / file.fps) * 60,
        "ms per streamed answer": latency(predictor, raw, options.window, options.stride),
    }  # fmt: skip
    print(json.dumps({key: round(float(value), 3) for key, value in row.items()}))


if __name__ == "__main__":
    main()
