"""A build that is killed at any moment leaves no wrong file and resumes to the same bytes (F1); 200 in a row (F32)."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocessing import build, faults, work_units
from preprocessing.hdf5 import verify
from preprocessing.synthetic import main as synthetic
from preprocessing.tokenizer import tokenize
from tests.processes import forked, resident

pytestmark = pytest.mark.slow

CLIPS, UNIT = 40, 5
POINTS = ("unit read", "rows written", "data completed", "file written", "file synced", "file renamed")
ENDS = ("data published", "manifest published")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "clips"
    assert synthetic([str(folder), "--clips", str(CLIPS), "--seed", "3"]) == 0
    tokenize(b"")  # else each fork would load the compiled code
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


@pytest.mark.parametrize("point", [*(f"{point}:{time}" for point in POINTS for time in (1, 2)), *ENDS])
def test_a_kill_at_each_step_of_a_build(point: str, clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """In a worker, between rows and their line, around each sync and rename, before and after the manifest."""
    code = kill_and_resume(clips, tmp_path / "out", undisturbed, faultpoint=point)
    reached = point != "data completed:2"
    assert code == ((3 if point.startswith("unit read") else -signal.SIGKILL) if reached else 0)  # the fault happened


def test_a_killed_worker_is_reported_with_the_place_and_the_build_resumes(
    clips: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3 and one line, with the clips that are done and the next one; the same command ends with the same bytes."""
    out = tmp_path / "a.h5"
    monkeypatch.setenv(faults.VARIABLE, "unit read:3")
    assert building(clips, out)() == 3
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    found = re.fullmatch(
        r"error: a worker process was killed, .*; try fewer --workers. (\d+) clips are done; the next is (\S+)\.", line
    )
    assert found, line
    assert int(found[1]) % UNIT == 0
    assert sorted(path.stem for path in clips.glob("*.skeleton"))[int(found[1])] == found[2]
    monkeypatch.delenv(faults.VARIABLE)
    assert building(clips, out)() == 0
    require_same(out, undisturbed)


def test_kills_of_builds_at_random_moments(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Until 500 have hit a running build; some come too late."""
    rng, began = random.Random(0), time.monotonic()
    assert kill_and_resume(clips, tmp_path / "out", undisturbed) == 0
    whole = (time.monotonic() - began) / 2
    count = int(os.environ.get("SKELNORM_KILLS", "500"))
    killed = late = 0
    while killed < count:
        code = kill_and_resume(clips, tmp_path / "out", undisturbed, kill_after=rng.uniform(0, whole))
        assert code in (-signal.SIGKILL, 0)
        killed, late = killed + (code != 0), late + (code == 0)
        print(f"{killed} builds killed, {late} had ended", flush=True)
    assert late < count


def growth(clips: Path, out: Path, count: int, each: Callable[[Path], object] = lambda out: None) -> tuple[float, int]:
    """Bytes of memory and descriptors that builds in this process cost, per build, after a quarter of them."""
    seen = []
    for number in range(count):
        out.unlink(missing_ok=True)
        assert building(clips, out)() == 0
        each(out)
        if number >= count // 4:
            seen.append((resident(), len(os.listdir("/proc/self/fd"))))
    (memory, descriptors), (memory_last, descriptors_last) = seen[0], seen[-1]
    return (memory_last - memory) / len(seen), descriptors_last - descriptors


def test_two_hundred_builds_in_one_process_leak_nothing(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Under 50 kB per build, where its rows have 1.2 MB; no descriptor; the same bytes as the first."""
    memory, descriptors = growth(clips, tmp_path / "a.h5", int(os.environ.get("SKELNORM_BUILDS", "200")))
    require_same(tmp_path / "a.h5", undisturbed)
    assert memory < 50_000
    assert descriptors == 0


def test_builds_that_leak_are_found(clips: Path, tmp_path: Path) -> None:
    """Negative control."""
    kept: list[tuple[int, bytes]] = []
    memory, descriptors = growth(
        clips, tmp_path / "a.h5", 20, lambda out: kept.append((os.open(out, os.O_RDONLY), os.urandom(2_000_000)))
    )
    for descriptor, _ in kept:
        os.close(descriptor)
    assert memory > 100_000
    assert descriptors > 10
