"""Recordings to measure with: hard links of real ones where they are, else of synthetic ones, under valid names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from preprocessing import ntu
from preprocessing.skeleton import SkeletonError, parse
from preprocessing.synthetic import main as synthetic

HOME = Path(__file__).resolve().parents[2]


def recordings(work: Path) -> tuple[list[Path], str]:
    """Copies of the recordings to link to, and what they are. Copied, so that links stay on one file system."""
    real = Path(os.environ.get("SKELNORM_REAL_DATA", HOME.parent / "shared" / "data")) / "ntu_raw"
    base = work / "base"
    if real.is_dir():
        shutil.copytree(real, base)
        kind = "real recordings"
    else:
        synthetic([str(base), "--clips", "240", "--seed", "0"])
        kind = "synthetic recordings"
    usable = []
    for path in sorted(base.glob("*.skeleton")):
        try:
            if path.stem not in ntu.MISSING and parse(path.read_bytes(), path.stem).tracks:
                usable.append(path)
        except SkeletonError:
            continue
    return usable, f"{len(usable)} {kind}"


def link(base: list[Path], folder: Path, clips: int) -> Path:
    """A folder of `clips` hard links of the base files under names that no list calls missing."""
    folder.mkdir()
    made = 0
    for number in range(2 * clips + 1000):
        if made == clips:
            break
        setup, rest = 1 + number // 9600, number % 9600
        camera, rest = 1 + rest // 3200, rest % 3200
        name = f"S{setup:03d}C{camera:03d}P{1 + rest // 80:03d}R{1 + rest // 40 % 2:03d}A{1 + rest % 40:03d}"
        if name not in ntu.MISSING:
            os.link(base[made % len(base)], folder / f"{name}.skeleton")
            made += 1
    return folder
