"""watch.py: a data file that is in use stays the same, or the command ends with exit 6."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import Identity, Watch, check_once, open_file
from tests.preprocessing.hdf5.examples import write_to


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_to(tmp_path_factory.mktemp("intact") / "a.h5")


@pytest.fixture
def watched(intact: Path, tmp_path: Path) -> Watch:
    file = open_file(shutil.copyfile(intact, tmp_path / "a.h5"))
    assert file.identity is not None
    return Watch(file.path, file.identity, file.content_sha256)


def overwrite(path: Path) -> None:
    """One byte in place, the time of modification set back."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    shutil.copyfile(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (replace, "was replaced by another file"),
        (lambda path: os.truncate(path, 100), "was truncated from .* to 100 bytes"),
        (lambda path: os.truncate(path, 1 << 20), "was extended"),
        (touch, "was written to"),
        (lambda path: path.unlink(), r"cannot be read any more \(No such file"),
        (overwrite, "has other content than when it was opened. Put the file back"),
    ],
)
def test_a_change_is_named_with_the_remedy(watched: Watch, damage: Callable[[Path], None], words: str) -> None:
    watched.check()
    damage(watched.path)
    with pytest.raises(IntegrityError, match=words):
        watched.check()


def test_permissions_and_links_may_change(watched: Watch) -> None:
    """Negative control: the content is read once and is the same."""
    watched.path.chmod(0o600)
    os.link(watched.path, watched.path.with_suffix(".link"))
    assert Identity.of(watched.path) != watched.identity
    watched.check()
    assert Identity.of(watched.path) == watched.identity


def test_other_content_is_found_by_reading_it(watched: Watch) -> None:
    """A whole file of the same schema, in place of the one that was opened."""
    watched.verify()
    watched.content_sha256 = "0" * 64
    with pytest.raises(IntegrityError, match="has other content than"):
        watched.verify()


READ = """
import os, sys, numpy
from pathlib import Path
from preprocessing.hdf5 import end_on_bus_error
path = Path(sys.argv[1])
path.write_bytes(bytes(1 << 20))
mapped = numpy.memmap(path, "u1", mode="r")
if sys.argv[2] == "handled":
    end_on_bus_error(path)
os.truncate(path, 4096)
print(mapped[-1])
"""


@pytest.mark.parametrize(("how", "code"), [("handled", 6), ("alone", -7)])
def test_a_read_behind_a_cut_end_is_reported(tmp_path: Path, how: str, code: int) -> None:
    """Negative control: alone it is SIGBUS, without a word."""
    words = [sys.executable, "-c", READ, str(tmp_path / "a.h5"), how]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result
    said = f"error: {tmp_path / 'a.h5'} was truncated or became unreadable while it was in use."
    assert result.stderr.startswith(said) if code == 6 else not result.stderr


def test_a_file_is_checked_once_per_machine(intact: Path, tmp_path: Path) -> None:
    """And again when it is another file; a damaged one is never recorded."""
    path = Path(shutil.copyfile(intact, tmp_path / "a.h5"))
    assert [check_once(path, tmp_path / "trials") for _ in range(3)] == [True, False, False]
    replace(path)
    assert check_once(path, tmp_path / "trials")
    overwrite(path)
    for _ in range(2):
        with pytest.raises(IntegrityError):
            check_once(path, tmp_path / "trials")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        check_once(path, tmp_path / "trials")
