"""journal.py: a record is on the disk or absent, a torn end is cut off, damage before the end is an error."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preprocessing import journal
from preprocessing.files import IntegrityError
from preprocessing.journal import Journal, Tail, read

RECORDS = [{"epoch": 1, "name": "ü"}, {"epoch": 2, "loss": 0.1 + 0.2}, {"epoch": 3}]
both = pytest.mark.parametrize("checksum", [False, True])


def written(path: Path, checksum: bool = False) -> Journal:
    made = Journal(path, checksum=checksum)
    for record in RECORDS:
        made.append(record)
    return made


def test_a_line_is_json(tmp_path: Path) -> None:
    written(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == (
        b'{"epoch": 1, "name": "\\u00fc"}\n{"epoch": 2, "loss": 0.30000000000000004}\n{"epoch": 3}\n'
    )


def test_with_checksum_a_line_starts_with_its_crc_32(tmp_path: Path) -> None:
    Journal(tmp_path / "j", checksum=True).append({"a": [1, 2]})
    assert (tmp_path / "j").read_bytes() == b'17d6db84 {"a":[1,2]}\n'


@both
def test_a_kill_at_any_byte_costs_the_torn_record_alone(tmp_path: Path, checksum: bool) -> None:
    path = tmp_path / "j"
    written(path, checksum)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        left = sum(end <= size for end in ends)
        assert read(path, checksum=checksum) == RECORDS[:left]
        assert path.stat().st_size == size  # reading changes nothing
        again = Journal(path, checksum=checksum)
        assert again.records == RECORDS[:left]
        for record in RECORDS[left:]:
            again.append(record)
        assert path.read_bytes() == whole


@both
def test_keep_drops_the_records_after_the_first(tmp_path: Path, checksum: bool) -> None:
    for count in range(5):
        path = tmp_path / f"j{count}"
        written(path, checksum)
        again = Journal(path, checksum=checksum)
        again.keep(count)
        assert again.records == read(path, checksum=checksum) == RECORDS[:count]
        again.append({"epoch": 9})
        assert read(path, checksum=checksum) == [*RECORDS[:count], {"epoch": 9}]


def test_keep_leaves_what_was_appended_since(tmp_path: Path) -> None:
    made = written(tmp_path / "j")
    made.keep(0)
    assert read(tmp_path / "j") == RECORDS


def test_with_checksum_the_first_line_that_does_not_match_ends_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written(path, checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(b"loss")] ^= 1
    path.write_bytes(content)
    assert Journal(path, checksum=True).records == RECORDS[:1]
    assert path.read_bytes().count(b"\n") == 1


def test_without_checksum_a_damaged_line_is_an_error_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    for opened in (read, Journal):
        with pytest.raises(IntegrityError, match=rf"{path}: line 2 is damaged .*Restore the file from a copy"):
            opened(path)
    assert path.read_bytes() == b'{"epoch": 1}\n{"epo\n{"epoch": 3}\n'


def test_there_is_nothing_to_read_where_there_is_no_file(tmp_path: Path) -> None:
    assert read(tmp_path / "j") == []
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("sync", [True, False])
def test_a_record_is_on_the_disk_when_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """The file's name is, too. Without `sync`, nothing waits for the disk."""
    synced: list[tuple[str, int]] = []
    honest = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "j"
    made = Journal(path, sync=sync)
    assert [name for name, _ in synced] == [str(tmp_path)] * sync
    made.append({"a": 1})
    assert synced[1:] == [(str(path), 9)] * sync
    made.append({"b": 2})
    assert synced[2:] == [(str(path), 18)] * sync
    with path.open("ab") as file:
        file.write(b"torn")
    Journal(path, sync=sync)
    assert synced[3:] == [(str(path), 18)] * sync


def test_a_full_disk_leaves_the_journal_as_it_was(small_disk: Callable[[int], Path]) -> None:
    """Without the part of the record that there was room for."""
    path = small_disk(64) / "j"
    made = Journal(path)
    made.append({"epoch": 1})
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as raised:
            made.append({"long": "x" * 100_000})
        assert raised.value.errno == errno.ENOSPC
        assert path.read_bytes() == b'{"epoch": 1}\n'


def test_a_tail_returns_each_record_once_and_waits_for_the_end_of_its_line(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "j")
    assert tail.read() == []
    written(tmp_path / "j")
    assert tail.read() == RECORDS
    for part, found in ((b'{"epoch"', []), (b": 4}\n{", [{"epoch": 4}]), (b"}\n", [{}]), (b"", [])):
        with (tmp_path / "j").open("ab") as file:
            file.write(part)
        assert tail.read() == found


def test_a_line_that_the_kernel_takes_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = open

    class Slow:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = honest(*arguments, **options)

        def __enter__(self) -> "Slow":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: memoryview) -> int:
            return self.file.write(data[:3])

    made = Journal(tmp_path / "j")
    with monkeypatch.context() as patched:
        patched.setattr(journal, "open", Slow, raising=False)
        made.append({"epoch": 1})
    assert read(tmp_path / "j") == [{"epoch": 1}]
