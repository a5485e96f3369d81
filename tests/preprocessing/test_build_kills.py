"""A build that is killed at any moment leaves no wrong file and resumes to the same bytes (F1); 200 in a row (F32)."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocessing import build, work_units
from preprocessing.hdf5 import verify
from preprocessing.synthetic import main as synthetic
from tests.processes import forked, resident

CLIPS, UNIT = 60, 8
POINTS = ("unit read", "rows written", "data completed", "file written", "file synced", "file renamed")
ENDS = ("data published", "manifest published")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "clips"
    assert synthetic([str(folder), "--clips", str(CLIPS), "--seed", "3"]) == 0
    return folder


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several work units in a small build."""
    monkeypatch.setattr(work_units, "CLIPS", UNIT)


def building(clips: Path, out: Path) -> Callable[[], int]:
    return lambda: build.main([str(clips), "--out", str(out), "--allow-rejects", "--workers", "2"])


@pytest.fixture(scope="module")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "a.h5"
    assert forked(building(clips, out)) == 0
    return out


def require_same(out: Path, undisturbed: Path) -> None:
    """The same bytes, the same manifest, nothing beside them."""
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.h5", "a.manifest.json"]
    assert out.read_bytes() == undisturbed.read_bytes()
    mine, theirs = (json.loads(path.with_suffix(".manifest.json").read_text()) for path in (out, undisturbed))
    assert mine.pop("provenance")["skelnorm"] == theirs.pop("provenance")["skelnorm"]
    assert mine == theirs


def kill_and_resume(clips: Path, folder: Path, undisturbed: Path, **how: object) -> int:
    """Kill a build once and resume it; return how the first one ended."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    out = folder / "a.h5"
    code = forked(building(clips, out), **how)  # type: ignore[arg-type]
    assert not out.exists() or verify(out) == []
    assert forked(building(clips, out)) == 0
    require_same(out, undisturbed)
    return code


@pytest.mark.slow
@pytest.mark.parametrize("point", [*(f"{point}:{time}" for point in POINTS for time in (1, 2)), *ENDS])
def test_a_kill_at_each_step_of_a_build(point: str, clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """In a worker, between rows and their line, around each sync and rename, before and after the manifest."""
    code = kill_and_resume(clips, tmp_path / "out", undisturbed, faultpoint=point)
    reached = point != "data completed:2"
    assert code == ((3 if point.startswith("unit read") else -signal.SIGKILL) if reached else 0)  # the fault happened


@pytest.mark.slow
def test_kills_of_builds_at_random_moments(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """500; most of them hit a running build."""
    rng, began = random.Random(0), time.monotonic()
    assert kill_and_resume(clips, tmp_path / "out", undisturbed) == 0
    whole = (time.monotonic() - began) / 2
    count = int(os.environ.get("SKELNORM_KILLS", "500"))
    codes = [
        kill_and_resume(clips, tmp_path / "out", undisturbed, kill_after=rng.uniform(0, whole)) for _ in range(count)
    ]
    assert codes.count(-signal.SIGKILL) > 0.7 * count
    assert set(codes) <= {-signal.SIGKILL, 0}


@pytest.mark.slow
@pytest.mark.parametrize("leak", [False, True])
def test_two_hundred_builds_in_one_process_leak_nothing(
    clips: Path, undisturbed: Path, tmp_path: Path, leak: bool
) -> None:
    """Memory and descriptors stay as they are after a warm-up. Negative control: a leak of each is found."""
    count, kept = int(os.environ.get("SKELNORM_BUILDS", "200")) if not leak else 30, []
    grown = []
    for number in range(count):
        out = tmp_path / "a.h5"
        out.unlink(missing_ok=True)
        assert building(clips, out)() == 0
        if leak:
            kept.append((os.open(out, os.O_RDONLY), bytearray(os.urandom(200_000))))
        if number >= count // 4:
            grown.append((resident(), len(os.listdir("/proc/self/fd"))))
    require_same(out, undisturbed)
    for descriptor, _ in kept:
        os.close(descriptor)
    (memory, descriptors), (memory_last, descriptors_last) = grown[0], grown[-1]
    slope = (memory_last - memory) / len(grown)
    assert (slope < 50_000, descriptors_last == descriptors) == (not leak, not leak), (slope, descriptors_last)
