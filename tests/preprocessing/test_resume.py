"""A build that is killed, stopped or runs out of space leaves no wrong file; its rerun ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocessing import build, ledger, work_units
from preprocessing.hdf5 import open_file, verify, writer
from preprocessing.synthetic import main as synthetic

CLIPS = 600


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough clips that a build takes several work units."""
    few = tmp_path_factory.mktemp("few") / "clips"
    assert synthetic([str(few), "--clips", "60", "--seed", "3"]) == 0
    folder = tmp_path_factory.mktemp("many")
    contents = [path.read_bytes() for path in sorted(few.glob("*.skeleton"))]
    for number in range(CLIPS):
        name = f"S{1 + number // 120:03d}C{1 + number % 3:03d}P{1 + number // 3 % 40:03d}R001A{1 + number % 50:03d}"
        (folder / f"{name}.skeleton").write_bytes(contents[number % len(contents)])
    return folder


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of them that is not interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "a.h5"
    assert build.main([str(many), "--out", str(out), "--allow-rejects"]) == 0
    return out


def start(many: Path, out: Path, **environment: str) -> subprocess.Popen[str]:
    """The command as a user starts it."""
    command = [sys.executable, "-m", "preprocessing.build", str(many), "--out", str(out), "--allow-rejects"]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


def same(out: Path, other: Path) -> bool:
    """Return whether two builds left the same bytes, equal manifests, and nothing beside them."""
    left = {path.name for path in out.parent.iterdir()}
    mine, theirs = (json.loads(path.with_suffix(".manifest.json").read_text()) for path in (out, other))
    assert mine.pop("provenance")["skelnorm"] == theirs.pop("provenance")["skelnorm"]
    return left == {"a.h5", "a.manifest.json"} and out.read_bytes() == other.read_bytes() and mine == theirs


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Wait until `what` holds, or the process ends, but not for ever."""
    end = time.monotonic() + seconds
    while not what() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)


def lines(out: Path) -> int:
    """Lines of the ledger, 0 where there is none."""
    path = out.with_name(f".{out.name}.part") / ledger.LINES
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("moment", ["unit 1", "unit 7", "completing", "random"])
def test_a_build_killed_at_any_moment_resumes_and_ends_with_the_same_bytes(
    many: Path, undisturbed: Path, tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "a.h5"
    process = start(many, out)
    if moment.startswith("unit"):
        wait_for(lambda: lines(out) > int(moment[-1]), process)
    elif moment == "completing":
        wait_for(lambda: (tmp_path / ".a.h5.part" / "shell.h5").exists(), process)
    else:
        wait_for(lambda: lines(out) > 0, process)
        time.sleep(random.Random(moment).uniform(0, 1.5))
    process.kill()
    process.communicate()
    if out.exists():
        assert verify(out) == []
    assert build.main([str(many), "--out", str(out), "--allow-rejects"]) == 0
    assert same(out, undisturbed)


def half_done(many: Path, out: Path) -> None:
    """Leave a build after some work units, by stopping it from inside."""
    done = 0

    class Enough(ledger.BuildLedger):
        def add(self, batch: work_units.WorkUnit) -> None:
            nonlocal done
            super().add(batch)
            done += 1
            if done == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    before, build.BuildLedger = build.BuildLedger, Enough  # type: ignore[misc]
    try:
        assert build.main([str(many), "--out", str(out), "--allow-rejects"]) == 143
    finally:
        build.BuildLedger = before  # type: ignore[misc]
    assert lines(out) == 6


def test_a_resumed_build_reads_no_clip_again(
    many: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.h5"
    half_done(many, out)
    seen: list[str] = []
    honest = work_units._clip
    monkeypatch.setattr(work_units, "_clip", lambda work, entry: (seen.append(entry.name), honest(work, entry))[1])
    # Threads, because what another process sees stays there.
    assert build.main([str(many), "--out", str(out), "--allow-rejects", "--engine", "threads"]) == 0
    assert len(seen) == CLIPS - 5 * work_units.CLIPS
    assert f"at clip {5 * work_units.CLIPS} of {CLIPS}" in capsys.readouterr().err
    assert same(out, undisturbed)


@pytest.mark.parametrize("damage", ["torn line", "garbled line", "garbled rows", "missing rows", "garbled present"])
def test_what_a_power_cut_tore_is_done_again(many: Path, undisturbed: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "a.h5"
    half_done(many, out)
    part = tmp_path / ".a.h5.part"
    path = part / {"line": "ledger", "rows": "joints", "present": "present"}[damage.split()[1]]
    content = bytearray(path.read_bytes())
    if damage.startswith(("torn", "missing")):
        content = content[: len(content) * 2 // 3]
    else:
        content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)
    assert build.main([str(many), "--out", str(out), "--allow-rejects"]) == 0
    assert same(out, undisturbed)


def test_without_the_checksums_torn_rows_would_get_into_the_file(
    many: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.h5"
    half_done(many, out)
    joints = tmp_path / ".a.h5.part" / "joints"
    content = bytearray(joints.read_bytes())
    content[len(content) // 2] ^= 4
    joints.write_bytes(content)

    def blind(self: ledger.Spool, rows: int, crc: int, gaps: bool) -> bool:
        self._take(self._files["joints"].read(rows * self.joints * 12), self._files["present"].read(rows))
        return True

    monkeypatch.setattr(ledger.Spool, "recover", blind)
    assert build.main([str(many), "--out", str(out), "--allow-rejects"]) == 0
    assert out.read_bytes() != undisturbed.read_bytes()


def test_a_changed_recording_or_recipe_starts_anew(many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(many, folder)
    out = tmp_path / "out" / "a.h5"
    half_done(folder, out)
    victim = min(folder.glob("*A013.skeleton"))
    victim.write_bytes(b"0\n")
    assert build.main([str(folder), "--out", str(out), "--allow-rejects"]) == 0
    assert victim.stem not in open_file(out).clips["name"]
    half_done(folder, out)
    assert build.main([str(folder), "--out", str(out), "--allow-rejects", "--recipe", "ctr", "--overwrite"]) == 0
    assert open_file(out).recipe["name"] == "ctr"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_build_with_its_code_and_one_line(
    many: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "a.h5"
    process = start(many, out)
    wait_for(lambda: lines(out) > 2, process)
    began = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert time.monotonic() - began < 5
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("error: stopped; the same command resumes")
    assert not out.exists()
    assert build.main([str(many), "--out", str(out), "--allow-rejects"]) == 0
    assert same(out, undisturbed)


def test_builds_of_one_file_exclude_each_other(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.h5"
    process = start(many, out)
    wait_for(lambda: lines(out) > 0, process)
    process.send_signal(signal.SIGSTOP)
    try:
        assert build.main([str(many), "--out", str(out)]) == 2
        assert f"held by process {process.pid}" in capsys.readouterr().err
        (tmp_path / ".a.h5.part" / "lock").unlink()
        before = lines(out)
        assert build.main([str(many), "--out", str(out)]) == 2
        assert "although its lock file is gone" in capsys.readouterr().err
        assert lines(out) == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "de_DE.UTF-8", "TZ": "Pacific/Auckland"},
        {"LC_ALL": "C", "LANG": "C", "TZ": "America/St_Johns", "PYTHONUTF8": "0", "PYTHONHASHSEED": "7"},
    ],
)
def test_locale_and_time_zone_change_no_byte(
    many: Path, undisturbed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    process = start(many, tmp_path / "a.h5", **environment)
    process.communicate()
    assert process.returncode == 0
    assert same(tmp_path / "a.h5", undisturbed)


def test_the_order_of_the_sources_and_the_workers_change_no_byte(many: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for position, path in enumerate(sorted(many.iterdir())):
        folder = (one, other)[position % 2] / path.name[:4]
        folder.mkdir(parents=True, exist_ok=True)
        os.link(path, folder / path.name)
    made = []
    for name, sources, workers in (("x", (one, other), 1), ("y", (other, one), 5)):
        out = tmp_path / name / "a.h5"
        assert build.main([*map(str, sources), "--out", str(out), "--workers", str(workers), "--allow-rejects"]) == 0
        made.append(out)
    assert same(*made)


@pytest.mark.parametrize("foresight", [2, 1, 0])
def test_a_full_disk_is_reported_and_changes_nothing_and_the_build_resumes(
    many: Path,
    undisturbed: Path,
    small_disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    foresight: int,
) -> None:
    size = undisturbed.stat().st_size // 1024
    disk = small_disk(size // 4)
    out = disk / "a.h5"
    out.write_bytes(b"an older file")
    # Without the check beforehand the rows run out of space, or the child that writes HDF5 does: each must be reported.
    if foresight < 2:
        monkeypatch.setattr(build, "require_space", lambda *_: None)
    if foresight < 1:
        monkeypatch.setattr(writer, "require_space", lambda *_: None)
    causes = []
    for percent in (25, 60, 95, 100, 101):
        subprocess.run(["mount", "-o", f"remount,size={size * percent // 100}k", str(disk)], check=True)
        assert build.main([str(many), "--out", str(out), "--allow-rejects"]) == 7, percent
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert f"{out} is unchanged; free some space" in line
        causes.append("foreseen" if "needed" in line else "child" if "writing failed" in line else "rows")
        assert out.read_bytes() == b"an older file"
    assert set(causes) == [{"rows", "child"}, {"rows", "foreseen"}, {"rows", "foreseen"}][foresight], causes
    assert causes[0] == ("foreseen" if foresight == 2 else "rows")
    subprocess.run(["mount", "-o", f"remount,size={4 * size}k", str(disk)], check=True)
    assert build.main([str(many), "--out", str(out), "--allow-rejects", "--overwrite"]) == 0
    assert same(out, undisturbed)


def test_the_manifest_lists_every_drop_of_the_undisturbed_build(undisturbed: Path) -> None:
    document = json.loads(undisturbed.with_suffix(".manifest.json").read_text())
    file = open_file(undisturbed)
    assert document["counts"]["clips"] == len(file.clips["name"])
    assert document["counts"]["rows"] == len(file.present_R)
    assert {entry["reason"] for entry in document["quarantine"]} == {"truncated", "bad-number"}
    assert all(":" in entry["message"] for entry in document["quarantine"])
    assert set(document["counts"]["decisions"]) >= {"spread", "join"}
    assert np.isfinite(file.joints_RV3).all()
