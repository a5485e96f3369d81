"""Synthetic recordings are what NTU's look like, true to their truth.json, and a function of their seed alone."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing import build, performances, synthetic
from preprocessing.hdf5 import open_file
from preprocessing.ntu import BONES, XSUB_TRAIN, parse_name
from preprocessing.skeleton import SkeletonError, parse

CLIPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty recordings."""
    folder = tmp_path_factory.mktemp("synthetic") / "raw"
    assert synthetic.main([str(folder), "--clips", str(CLIPS), "--seed", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def truths(folder: Path) -> dict[str, dict[str, Any]]:
    """Ground truth of each clip, by name."""
    return {clip["name"]: clip for clip in json.loads((folder / "truth.json").read_text())["clips"]}


def scene(number: int) -> list[np.ndarray]:
    """The people of a performance, without a sensor's noise."""
    return performances.act(0, performances.performance(number))


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(folder: Path, tmp_path: Path) -> None:
    """Of a smaller set too: a clip does not depend on how many there are."""
    for seed in (3, 4):
        synthetic.main([str(tmp_path / str(seed)), "--clips", "7", "--seed", str(seed)])
    same = list((tmp_path / "3").glob("*.skeleton"))
    assert len(same) == 7
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in same)
    assert all(path.read_bytes() != (tmp_path / "4" / path.name).read_bytes() for path in same)


def test_the_text_is_ntus(folder: Path) -> None:
    """CRLF, 10 columns a body, 25 joints of 12 columns, a 17-digit ID."""
    lines = (folder / "S001C001P001R001A001.skeleton").read_bytes().split(b"\r\n")
    assert b"\n" not in b"".join(lines)
    assert lines[3] == b"25"
    assert [len(line.split()) for line in lines[2:30]] == [10, 1, *[12] * 25, 1]
    assert len(lines[2].split()[0]) == 17


def test_bone_lengths_are_constant_and_those_of_the_subject() -> None:
    """In every action, to a micrometre."""
    for number in range(len(performances.ACTIONS)):
        who = performances.person(0, performances.performance(number).subject)
        joints_TV3 = scene(number)[0]
        length_TB = np.linalg.norm(joints_TV3[:, BONES[:, 1]] - joints_TV3[:, BONES[:, 0]], axis=-1)
        expected_B = np.linalg.norm(performances.offsets(who)[BONES[:, 1]], axis=-1)
        np.testing.assert_allclose(length_TB, np.broadcast_to(expected_B, length_TB.shape), atol=1e-6)


def test_in_every_action_some_joint_goes_a_way() -> None:
    """At least ten centimetres."""
    way = [np.ptp(scene(number)[0], axis=0).max() for number in range(len(performances.ACTIONS))]
    assert min(way) > 0.1


def test_a_left_handed_subject_does_the_mirrored_action() -> None:
    """The hand that is raised most is the other one."""
    raised = {}
    for who in (1, performances.LEFT_HANDED[0]):
        number = next(
            n for n in range(200) if performances.performance(n)[2:] == (who, 1, 23)
        )  # hand waving, first replication
        rise_V = scene(number)[0][..., 1].max(axis=0) - scene(number)[0][0, :, 1]
        raised[who] = "left" if rise_V[7] > rise_V[11] else "right"
    assert raised == {1: "right", performances.LEFT_HANDED[0]: "left"}


def test_the_default_set_has_the_promised_mix() -> None:
    """12 or more actions, 20 % of them of two people, 8 or more subjects of both sides, 3 cameras, nearly even."""
    planned = [performances.performance(number) for number in range(240)]
    subjects = {what.subject for what in planned}
    assert len(performances.ACTIONS) >= 12
    assert np.mean([len(roles) == 2 for roles in performances.ACTIONS.values()]) == pytest.approx(0.2)
    assert len(subjects) >= 8
    assert 4 <= len(subjects & XSUB_TRAIN) < len(subjects)
    assert {what.setup % 2 for what in planned} == {0, 1}
    assert len(set(planned)) == 240
    assert len({what[1:] for what in planned}) == 240
    assert max(Counter(what.subject for what in planned).values()) <= 1.5 * 240 / len(subjects)


def test_sixty_clips_have_every_quirk(truths: dict[str, dict[str, Any]]) -> None:
    """Two damaged files, the rest at least one."""
    seen = Counter(clip["quirk"] for clip in truths.values())
    assert seen["truncated"] == seen["bad-number"] == 1
    assert seen["empty"] == 2
    assert set(seen) - {""} == set(synthetic.QUIRKS)


def test_the_parser_reads_what_the_truth_says(folder: Path, truths: dict[str, dict[str, Any]]) -> None:
    """IDs, frames, and the line of a damaged file."""
    for name, truth in truths.items():
        parse_name(name)
        content = (folder / f"{name}.skeleton").read_bytes()
        if truth["line"]:
            with pytest.raises(SkeletonError) as caught:
                parse(content, name)
            assert (caught.value.line, caught.value.reason) == (truth["line"], truth["quirk"])
            continue
        clip = parse(content, name)
        assert clip.frames == truth["frames"]
        read = {t.body_id: [int(t.frame_F[0]), int(t.frame_F[-1]), len(t.frame_F)] for t in clip.tracks}
        assert read == {b["id"]: [b["first"], b["last"], b["frames"]] for b in truth["bodies"]}


def test_a_build_undoes_the_quirks(folder: Path, truths: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Ghosts are dropped, changed IDs joined, empty clips skipped, damaged ones quarantined; other bodies are kept."""
    assert build.main([str(folder), "--out", str(tmp_path / "a.h5")]) == 0
    file = open_file(tmp_path / "a.h5")
    story = json.loads((tmp_path / "a.manifest.json").read_text())
    quirks = {name: truth["quirk"] for name, truth in truths.items()}
    assert {e["name"] for e in story["quarantine"]} == {
        n for n, q in quirks.items() if q in ("truncated", "bad-number")
    }
    assert {e["name"] for e in story["skipped"]} == {n for n, q in quirks.items() if q == "empty"}
    kept = dict(zip(file.clips["name"].tolist(), file.clips["bodies"].tolist(), strict=True))
    assert kept == {n: t["people"] for n, t in truths.items() if not t["line"] and t["quirk"] != "empty"}


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--clips", "0"], "must be at least 1"), ([], "not an empty folder")]
)
def test_a_mistake_gets_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit 2; a folder with something in it is never written to."""
    target = tmp_path / "new" if arguments else folder
    assert synthetic.main([str(target), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("clips", "missing"), [(240, "6 of 15 actions have no clip of a test subject"), (399, "")])
def test_actions_without_test_subjects_are_announced(clips: int, missing: str) -> None:
    """Of the performances alone: nothing is rendered."""
    done = [performances.performance(number) for number in range(clips // 3)]
    truths = [{"name": f"S001C001P{one.subject:03d}R001A001", "action": one.action} for one in done]
    note = synthetic.spread_note(truths)
    assert (missing in note, bool(note)) == (True, bool(missing))
