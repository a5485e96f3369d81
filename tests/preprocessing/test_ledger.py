"""ledger.py: a build resumes after exactly the work units whose rows and lines are whole."""

from pathlib import Path

from preprocessing.ledger import BuildLedger
from preprocessing.work_units import Shape, WorkUnit

JOINTS = 2


def unit(first: int, rows: int) -> WorkUnit:
    """One clip with one body of `rows` frames; its coordinates are bytes of its position."""
    joints = bytes([first + 1]) * (rows * JOINTS * 12)
    return WorkUnit(first, 1, 100, joints, b"\1" * rows, [Shape(first, rows, 1)], [], [], [])


def gappy(first: int, rows: int, mark: int) -> WorkUnit:
    """The same with a mask of the joints that were found."""
    return unit(first, rows)._replace(tracked=bytes([mark, 1]) * rows, marked=2 * rows, absent=rows * (1 - mark))


def opened(folder: Path, identity: str = "a build") -> BuildLedger:
    """The ledger in `folder`."""
    return BuildLedger(folder, identity, JOINTS)


def test_a_line_follows_its_rows(tmp_path: Path) -> None:
    """A second attempt finds every unit although the first one was never closed, as after a kill."""
    first = opened(tmp_path)
    for position in range(3):
        first.add(unit(position, 4))
    again = opened(tmp_path)
    assert [one.first for one in again.done] == [0, 1, 2]
    assert (again.next, again.spool.rows) == (3, 12)


def test_a_unit_with_damaged_rows_is_dropped_for_good(tmp_path: Path) -> None:
    """It and those after it are done again, and a third attempt keeps what the second one did."""
    first = opened(tmp_path)
    for position in range(3):
        first.add(unit(position, 4))
    first.close()
    present = tmp_path / "present"
    present.write_bytes(present.read_bytes()[:4] + b"\0" * 8)
    second = opened(tmp_path)
    assert (second.next, second.spool.rows) == (1, 4)
    second.add(unit(1, 7))
    third = opened(tmp_path)
    assert [(one.first, one.shapes[0].frames) for one in third.done] == [(0, 4), (1, 7)]
    assert third.spool.rows == 11


def test_another_build_starts_over(tmp_path: Path) -> None:
    """Another recipe or other recordings have another identity."""
    first = opened(tmp_path)
    first.add(unit(0, 4))
    first.close()
    assert opened(tmp_path, "another build").done == []


def test_marks_of_found_joints_resume_with_their_rows(tmp_path: Path) -> None:
    """Units without a gap before and after one with gaps; the resumed marks are those of an undisturbed build."""
    units = [unit(0, 2), gappy(1, 3, 0), unit(2, 1)]
    whole = opened(tmp_path / "whole")
    for one in units:
        whole.add(one)
    for stop in range(1, 4):
        folder = tmp_path / f"stopped after {stop}"
        first = opened(folder)
        for one in units[:stop]:
            first.add(one)
        second = opened(folder)
        assert second.next == stop
        for one in units[stop:]:
            second.add(one)
        assert second.spool.digests() == whole.spool.digests()
        assert sum(one.absent for one in second.done) == (3 if stop > 1 else 0)
    assert (tmp_path / "whole" / "tracked").read_bytes() == b"\1\1" * 2 + b"\0\1" * 3 + b"\1\1"


def test_a_unit_with_damaged_marks_is_dropped(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.add(unit(0, 2))
    first.add(gappy(1, 3, 0))
    first.close()
    (tmp_path / "tracked").write_bytes(b"\1" * 10)
    second = opened(tmp_path)
    assert (second.next, second.spool.gaps, (tmp_path / "tracked").exists()) == (1, False, False)
