"""overwrite.py: a build never destroys a file with other content, and never writes among the recordings."""

import json
from pathlib import Path

import pytest

from preprocessing import build
from preprocessing.hdf5 import open_file
from tests.preprocessing.test_build_gaps import coordinates, save


def run(source: Path, out: Path, *options: str) -> int:
    return build.main([str(source), "--out", str(out), "--engine", "threads", "--workers", "1", *options])


def test_the_same_content_may_be_built_again(tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.h5"
    source = save(tmp_path / "a.npz", coordinates())
    assert [run(source, out), run(source, out)] == [0, 0]


def test_other_content_needs_overwrite_and_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "a.h5"
    assert run(save(tmp_path / "a.npz", coordinates()), out) == 0
    before, old = out.read_bytes(), open_file(out)
    for name, content in (("mine", old.content_sha256), ("other", "0")):
        (tmp_path / "out" / "runs" / name).mkdir(parents=True)
        (tmp_path / "out" / "runs" / name / "data.json").write_text(json.dumps({"content_sha256": content}))
    other = save(tmp_path / "a.npz", coordinates() + 1)
    manifest = out.with_suffix(".manifest.json").read_bytes()
    assert run(other, out) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "exists with other content" in message
    assert "--overwrite replaces it" in message
    assert str(tmp_path / "out" / "runs" / "mine") in message
    assert "other," not in message
    assert (out.read_bytes(), out.with_suffix(".manifest.json").read_bytes()) == (before, manifest)
    assert run(other, out, "--overwrite") == 0
    assert open_file(out).content_sha256 != old.content_sha256
    assert {path.name for path in out.parent.iterdir()} == {"a.h5", "a.manifest.json", "runs"}


def test_a_file_of_something_else_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.h5"
    out.write_text("my notes")
    assert run(save(tmp_path / "a.npz", coordinates()), out) == 2
    assert "is not a readable data file. --overwrite replaces it" in capsys.readouterr().err
    assert out.read_text() == "my notes"


def test_an_output_inside_the_source_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (tmp_path / "a.h5", tmp_path / "deep" / "er" / "a.h5"):
        assert run(tmp_path, out) == 2
        assert f"lies inside the source folder {tmp_path}. Name a file outside of it." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
