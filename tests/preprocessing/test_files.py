"""A published file is whole or absent; a lock has one owner."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.files import LockedError, lock, publish, publish_json, publish_text, require_space, sha256_file


def test_a_published_file_is_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    publish_text(tmp_path / "a" / "note.txt", "whole")
    assert (tmp_path / "a" / "note.txt").read_text() == "whole"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["note.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    publish_text(path, "old")
    half = publish(path)
    half.__enter__().write_text("half")
    assert not half.__exit__(OSError, OSError("disk"), None), "the error goes on to the caller"
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish_json(tmp_path / "a.json", float("nan"))


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_file(tmp_path / "empty").startswith("e3b0c442")


def test_too_little_space_is_said_before_writing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="free") as caught:
        require_space(tmp_path, 1 << 60)
    assert caught.value.errno == errno.ENOSPC


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
