"""The manifest: its counts, its order, and what is read when there is none."""

import json
from pathlib import Path

import pytest

from preprocessing.files import IntegrityError
from preprocessing.manifest import Manifest, describe_input, manifest_path, read_manifest
from preprocessing.stages import Decision
from preprocessing.work_units import Quarantined


def example() -> Manifest:
    """Ten clips found: four skipped, three quarantined, three built."""
    return Manifest(
        recipe={"name": "exact", "stages": []},
        inputs=[],
        found=10,
        decisions=[Decision("c", 1, "length", 9.0, 11.0), Decision("a", 2, "join", 0.1, 0.5)],
        quarantined=[
            Quarantined("z", 1, "truncated", "z:1"), Quarantined("a", 2, "bad-number", "a:2"),
            Quarantined("m", 3, "truncated", "m:3"),
        ],
        skipped={"y": "no-body", "b": "known-missing", "d": "no-body", "e": "no-body"},
        clips=3, bodies=4, rows=50,
    )  # fmt: skip


def test_the_rejected_share_is_of_the_clips_that_were_expected() -> None:
    assert example().rejected_share == 0.5
    assert Manifest(recipe={}, inputs=[], found=1, skipped={"a": "no-body"}).rejected_share == 0


def test_counts_are_per_reason_and_rule() -> None:
    assert example().counts() == {
        "found": 10, "clips": 3, "bodies": 4, "rows": 50, "skipped": {"known-missing": 1, "no-body": 3},
        "quarantined": {"bad-number": 1, "truncated": 2}, "decisions": {"join": 1, "length": 1}, "rejected_share": 0.5,
    }  # fmt: skip


def test_clips_are_sorted_by_name_and_decisions_stay_in_order(tmp_path: Path) -> None:
    example().publish(manifest_path(tmp_path / "a.h5"))
    document = json.loads((tmp_path / "a.manifest.json").read_text())
    assert [entry["name"] for entry in document["quarantine"]] == ["a", "m", "z"]
    assert document["quarantine"][0] == {"name": "a", "line": 2, "reason": "bad-number", "message": "a:2"}
    assert [entry["name"] for entry in document["skipped"]] == ["b", "d", "e", "y"]
    assert [decision["clip"] for decision in document["decisions"]] == ["c", "a"]
    assert document["schema"] == "skelnorm-manifest/1"
    assert read_manifest(tmp_path / "a.h5") == document


def test_a_file_without_a_manifest_has_an_empty_one_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "a.h5") == {"inputs": [], "decisions": []}
    manifest_path(tmp_path / "a.h5").write_text("{}")
    with pytest.raises(IntegrityError, match="no inputs, decisions in it"):
        read_manifest(tmp_path / "a.h5")


def test_inputs_are_described_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path = str(tmp_path / "a.npz")
    assert describe_input(tmp_path / "a.npz") == {"source": path, "kind": "npz", "bytes": 0, "sha256": empty}
    assert describe_input(tmp_path) == {"source": str(tmp_path), "kind": "folder"}
