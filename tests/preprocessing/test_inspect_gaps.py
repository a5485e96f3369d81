"""inspect of sources and files with absent joints: shares in text and page."""

from pathlib import Path

import pytest

from preprocessing import inspect
from tests.preprocessing.test_build_gaps import coordinates, gappy, make, save


def test_absent_joints_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = make(save(tmp_path / "a.npz", gappy()))
    capsys.readouterr()
    page = tmp_path / "a.html"
    assert inspect.main([str(file.path), "--out", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["absent", "joints", "2", "of", "600", "(0.33%)"] for line in lines)
    assert any("absent joints per clip, train of holdout" in line for line in lines)
    assert "Absent joints" in page.read_text()


def test_a_file_without_gaps_and_two_coordinates_has_no_such_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make(save(tmp_path / "a.npz", coordinates()[..., :2]))
    capsys.readouterr()
    assert inspect.main([str(file.path)]) == 0
    text = capsys.readouterr().out
    assert "absent joints" not in text
    assert "x, px" in text
    assert "z, px" not in text
