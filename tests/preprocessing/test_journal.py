"""journal.py: a record is on the disk or absent, a torn end is cut off, damage before the end is an error."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preprocessing import journal
from preprocessing.files import IntegrityError
from preprocessing.journal import Journal, Tail, publish, read

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
    Journal(path, sync=sync)  # publishes the file without the torn line, which waits in any case
    (name, size), (folder, _) = synced[-2:]
    assert (Path(name).name.startswith(".j."), size, folder) == (True, 18, str(tmp_path))


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


def test_a_tail_reads_on_from_where_it_was(tmp_path: Path) -> None:
    """A long file is not read again: its beginning may be anything by then."""
    tail = Tail(tmp_path / "j")
    written(tmp_path / "j")
    tail.read()
    content = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(b"x" * (len(content) - 1) + b'\n{"epoch": 4}\n')
    assert tail.read() == [{"epoch": 4}]


def test_a_tail_of_a_file_that_was_cut_starts_over(tmp_path: Path) -> None:
    """As a resumed training cuts the epochs that it trains again, and writes them anew."""
    tail, made = Tail(tmp_path / "j"), written(tmp_path / "j")
    assert tail.read() == RECORDS
    again = Journal(made.path)
    again.keep(1)
    assert tail.read() == RECORDS[:1]
    for record in ({"epoch": 2, "loss": 7}, {"epoch": 3, "loss": 7}):
        again.append(record)
    assert tail.read() == [{"epoch": 2, "loss": 7}, {"epoch": 3, "loss": 7}]


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


def chained(path: Path, count: int = 4) -> list[bytes]:
    """Lines of a chained journal of so many records."""
    made = Journal(path, chain=True)
    for number in range(count):
        made.append({"epoch": number, "loss": number / 7})
    return path.read_bytes().splitlines(keepends=True)


EDITS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a number": lambda lines: [lines[0], lines[1].replace(b'"epoch": 1', b'"epoch": 7'), *lines[2:]],
    "a line dropped": lambda lines: [lines[0], *lines[2:]],
    "the first dropped": lambda lines: lines[1:],
    "a line twice": lambda lines: [*lines[:2], *lines[1:]],
    "lines swapped": lambda lines: [lines[0], lines[2], lines[1], lines[3]],
    "a checksum removed": lambda lines: [*lines[:3], lines[3][: lines[3].index(b', "chain"')] + b"}\n"],
    "a line appended": lambda lines: [*lines, b'{"epoch": 4}\n'],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_chain_is_named(tmp_path: Path, edit: str) -> None:
    """By the file and the line; opening it to append, too."""
    lines = chained(tmp_path / "j")
    (tmp_path / "j").write_bytes(b"".join(EDITS[edit](lines)))
    for opened in (read, Journal):
        with pytest.raises(IntegrityError, match=r"j: line \d, or one before it, was edited, dropped or inserted"):
            opened(tmp_path / "j")


@pytest.mark.parametrize("edit", EDITS)
def test_without_a_chain_edits_pass(tmp_path: Path, edit: str) -> None:
    """Negative control of the test above: it is the chain that finds them."""
    edited = [re.sub(rb', "chain": "\w+"', b"", line) for line in EDITS[edit](chained(tmp_path / "j"))]
    (tmp_path / "j").write_bytes(b"".join(edited))
    assert len(read(tmp_path / "j")) == len(edited)


def test_a_chain_continues_after_lines_without_one(tmp_path: Path) -> None:
    """A ledger of an older version: its lines count in the first new checksum."""
    (tmp_path / "j").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    Journal(tmp_path / "j", chain=True).append({"epoch": 3})
    assert [record["epoch"] for record in read(tmp_path / "j")] == [1, 2, 3]
    content = (tmp_path / "j").read_text()
    (tmp_path / "j").write_text(content.replace('{"epoch": 2}', '{"epoch": 5}'))
    with pytest.raises(IntegrityError, match="line 3, or one before it"):
        read(tmp_path / "j")


def test_published_records_are_a_chained_journal(tmp_path: Path) -> None:
    """The same bytes as appended ones."""
    lines = chained(tmp_path / "j")
    publish(tmp_path / "k", read(tmp_path / "j"))
    assert (tmp_path / "k").read_bytes() == b"".join(lines)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, number: str) -> None:
    """JSON has none; Python's reader takes them."""
    (tmp_path / "j").write_text(f'{{"epoch": 1}}\n{{"epoch": {number}}}\n')
    assert json.loads(number) != 0
    with pytest.raises(IntegrityError, match=rf"j: line 2 is damaged \({number} is not a finite number\)"):
        read(tmp_path / "j")
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal(tmp_path / "k").append({"loss": float("nan")})
