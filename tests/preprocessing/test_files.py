"""A published file is complete or absent; a lock has one owner."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing import exits, files
from preprocessing.files import (
    LockedError,
    lock,
    lock_folder,
    publish,
    publish_json,
    publish_text,
    require_space,
    sha256_file,
)


def test_a_published_file_is_complete_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    publish_text(tmp_path / "a" / "note.txt", "text")
    assert (tmp_path / "a" / "note.txt").read_text() == "text"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["note.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    publish_text(path, "old")
    half = publish(path)
    half.__enter__().write_text("half")
    assert not half.__exit__(OSError, OSError("disk"), None), "the error reaches the caller"
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish_json(tmp_path / "a.json", float("nan"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged (Expecting value"),
        (b'{"a": 1', "is damaged (Expecting"),
        (b"\xff", "is damaged ('utf-8'"),
        (b"[1]", "is damaged (no a in it)"),
        (b'{"b": 1}', "is damaged (no a in it)"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    """The file, what is wrong in it, and exit code 6."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(files.IntegrityError) as caught:
        files.read_json(path, "a")
    assert f"{path} {words}" in str(caught.value)
    assert exits.code(caught.value) == exits.INTEGRITY


def test_json_that_we_wrote_is_read(tmp_path: Path) -> None:
    files.publish_json(tmp_path / "a.json", {"a": 1})
    assert files.read_json(tmp_path / "a.json", "a") == {"a": 1}


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """It is named, and left unchanged."""
    with pytest.raises(IsADirectoryError, match="this is a folder; name a file"):
        files.publish_text(tmp_path, "text")
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_file(tmp_path / "empty").startswith("e3b0c442")


def test_too_little_space_is_reported_before_writing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="free") as caught:
        require_space(tmp_path, 1 << 60)
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk_is_reported_with_the_path_and_both_sizes(full_disk: Path) -> None:
    """And leaves no part of the file."""
    with pytest.raises(OSError, match=r"9.0 MB needed, 0 bytes free: '.*file'") as caught:
        files.publish_bytes(full_disk / "file", bytes(9_000_000))
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


def test_writing_in_place_on_a_full_disk_destroys_the_old_file(full_disk: Path) -> None:
    """Negative control of `publish`, which keeps it."""
    for name, write in (("kept", files.publish_bytes), ("lost", Path.write_bytes)):
        (full_disk / "filler").write_bytes(bytes(8192))
        path = full_disk / name
        path.write_bytes(b"old")
        with open(full_disk / "more", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        with pytest.raises(OSError, match="No space left|needed"):
            write(path, bytes(9_000_000))
        assert (path.read_bytes() == b"old") == (name == "kept")
        (full_disk / "more").unlink()


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from preprocessing.files import lock\nwith lock(Path(sys.argv[1])): pass"
    )
    with lock(path):
        owner = path.read_text().strip()
        other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "LockedError" in other.stderr
        assert owner in other.stderr
        with pytest.raises(LockedError, match="wait"), lock(path):
            pass
    with lock(path):
        pass
    assert not path.exists()


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        calls.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    publish_text(tmp_path / "a.txt", "text")
    assert calls == [("fsync", f".a.txt.{os.getpid()}.tmp"), ("replace", "a.txt"), ("fsync", tmp_path.name)]


def test_a_lock_file_removed_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its previous owner may remove it between our open and our lock: the lock of that file protects nothing."""
    path, flock, calls = tmp_path / "lock", fcntl.flock, []

    def slow_flock(descriptor: int, kind: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
            path.write_text("of another process")
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    with lock(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert len(calls) == 2


def test_only_what_killed_writers_of_the_same_file_left_is_swept(tmp_path: Path) -> None:
    for name in (".a.h5.12.tmp", ".a.h5.lock", ".b.h5.12.tmp", "a.h5"):
        (tmp_path / name).touch()
    files.sweep(tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.h5.lock", ".b.h5.12.tmp", "a.h5"]


def test_an_output_must_have_its_suffix() -> None:
    with pytest.raises(ValueError, match=r"--out a.skeleton must end in .h5"):
        files.require_suffix("--out", Path("a.skeleton"), ".h5", ".hdf5")
    files.require_suffix("--out", Path("a.hdf5"), ".h5", ".hdf5")
    files.require_suffix("--out", None, ".h5")


def test_a_deleted_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    """The folder itself is locked."""
    with lock_folder(tmp_path):
        (tmp_path / "lock").unlink()
        with pytest.raises(LockedError, match="is in use by another process, although its lock file is gone"):
            lock_folder(tmp_path).__enter__()
    with lock_folder(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "lock").exists()


def test_a_lock_file_alone_lets_a_second_one_in_once_it_is_deleted(tmp_path: Path) -> None:
    """Negative control."""
    with lock(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        with lock(tmp_path / "lock"):
            pass


def test_the_lock_of_another_process_stays(tmp_path: Path) -> None:
    """Where ours was deleted and somebody made a new one."""
    with lock(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("another")
    assert (tmp_path / "lock").read_text() == "another"
