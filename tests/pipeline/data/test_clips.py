"""clips.py: the content of a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.clips import Clips, fits
from preprocessing.hdf5 import open_file
from tests.conftest import write_file

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(data_file: Path) -> Clips:
    """All clips on the CPU."""
    return Clips(open_file(data_file), CPU)


def by_hand(data_file: Path, clip: int, slot: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """One body resampled the slow way: (T, V, 3) and present (T,)."""
    file = open_file(data_file)
    body = [b for b in range(len(file.body_clip)) if (file.body_clip[b], file.body_slot[b]) == (clip, slot)]
    if not body:
        return np.zeros((frames, file.joints_RV3.shape[1], 3)), np.zeros(frames, dtype=bool)
    rows = slice(int(file.body_start[body[0]]), int(file.body_start[body[0]]) + int(file.clips["frames"][clip]))
    joints, present = np.asarray(file.joints_RV3[rows], dtype=np.float64), np.asarray(file.present_R[rows])
    out, seen = np.zeros((frames, joints.shape[1], 3)), np.zeros(frames, dtype=bool)
    for t, at in enumerate(np.linspace(0, 1, frames) * (len(joints) - 1)):
        low, high = int(at + 1e-9), min(int(at + 1e-9) + 1, len(joints) - 1)
        near = low if at - low < 0.5 else high
        if present[near]:
            seen[t] = True
            both = present[low] and present[high]
            out[t] = joints[low] + (at - low) * (joints[high] - joints[low]) if both else joints[near]
    return out, seen


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("frames", [16, 64])
def test_a_batch_is_the_resampled_clip(data_file: Path, clips: Clips, frames: int, slot: int) -> None:
    """One body, two bodies, a late entry: equal to frame-by-frame interpolation."""
    batch = clips.batch(torch.arange(8), frames)
    for clip in range(8):
        joints, present = by_hand(data_file, clip, slot, frames)
        np.testing.assert_allclose(batch.x_NCTVM[clip, ..., slot].permute(1, 2, 0), joints, atol=1e-5)
        np.testing.assert_array_equal(batch.present_NMT[clip, slot], present)


def test_no_body_is_drawn_halfway_to_the_origin(data_file: Path, clips: Clips) -> None:
    """At the border of a late entry every joint is a real one or absent, never a blend with zero."""
    batch = clips.batch(torch.tensor([3]), 64)
    late, seen = batch.x_NCTVM[0, 1, :, 0, 1], batch.present_NMT[0, 1]
    assert 0 < seen.sum() < 64
    assert (late[~seen] == 0).all()
    assert (late[seen] < -0.6).all()  # joint 0 hangs 0.72 m or more below the centre


def test_a_crop_window_is_interpolated_between_its_own_ends(data_file: Path, clips: Clips) -> None:
    """By hand, in float64: from a quarter of a clip to three quarters, per clip its own window."""
    file, frames = open_file(data_file), 9
    windows_N2 = torch.tensor([[0.25, 0.75], [0.0, 0.5]])
    batch = clips.batch(torch.tensor([0, 1]), frames, windows_N2)
    for clip, (first, end) in enumerate(windows_N2.tolist()):
        start, length = int(file.body_start[file.body_clip == clip][0]), int(file.clips["frames"][clip])
        rows = np.asarray(file.joints_RV3[start : start + length], np.float64)
        at = (first + np.linspace(0, 1, frames) * (end - first)) * (length - 1)
        expected = np.stack([[np.interp(at, np.arange(length), rows[:, v, c]) for v in range(10)] for c in range(3)])
        np.testing.assert_allclose(batch.x_NCTVM[clip, ..., 0].permute(0, 2, 1), expected, atol=1e-5)


def test_only_a_gpu_without_room_keeps_its_clips_on_the_cpu(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the free memory is the limit; a CPU maps the file and needs no threads."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    gpu = torch.device("cuda", 0)
    assert [fits(needed, gpu) for needed in (499, 500)] == [True, False]
    assert fits(10**15, CPU)
    assert (clips.home, clips.workers) == (CPU, 0)


@pytest.mark.parametrize(("at", "present"), [(2.45, False), (2.5, True), (2.55, True)])
def test_at_a_border_of_presence_the_nearer_frame_decides(
    data_file: Path, clips: Clips, at: float, present: bool
) -> None:
    """The second body of clip 3 is absent in frames 0 to 2; half-way the later frame decides."""
    last = int(open_file(data_file).clips["frames"][3]) - 1
    batch = clips.batch(torch.tensor([3]), 2, torch.tensor([[at / last, 1.0]]))
    assert batch.present_NMT[0, 1].tolist() == [present, True]


def test_a_joint_is_resampled_between_the_frames_that_have_it(tmp_path: Path) -> None:
    """Without gaps longer than a second: as numpy interpolates the frames in which the joint was found."""
    file = open_file(write_file(tmp_path / "gaps.h5", clips=8, gaps=0.3))
    batch = Clips(file, CPU).batch(torch.arange(8), 16)
    assert not batch.x_NCTVM.isnan().any()
    assert file.tracked_RV is not None
    for clip in (0, 1):
        rows = slice(int(file.body_start[clip]), int(file.body_start[clip]) + int(file.clips["frames"][clip]))
        at = np.linspace(0, 1, 16) * (int(file.clips["frames"][clip]) - 1)
        for joint in range(10):
            found = np.flatnonzero(file.tracked_RV[rows, joint])
            values = np.asarray(file.joints_RV3[rows][found, joint], np.float64)
            for channel in range(3):
                expected = np.interp(at, found, values[:, channel])
                np.testing.assert_allclose(batch.x_NCTVM[clip, channel, :, joint, 0], expected, atol=1e-5)


def test_a_joint_that_is_never_found_is_nan(tmp_path: Path) -> None:
    """And only that one: bodies that are absent stay zero."""
    path = write_file(tmp_path / "gaps.h5", clips=8, gaps=1.0)
    x = Clips(open_file(path), CPU).batch(torch.arange(8), 16)
    assert x.x_NCTVM.isnan().all(dim=1).transpose(2, 3)[x.present_NMT.transpose(1, 2)].all()
    assert not x.x_NCTVM.isnan().any(dim=1).transpose(2, 3)[~x.present_NMT.transpose(1, 2)].any()
