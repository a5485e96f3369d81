"""clips.py: what a batch holds, and the order of an epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.clips import Clips, InputConfig, ahead, epoch_batches, load
from preprocessing.hdf5 import open_file

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


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_made_ahead_come_in_order(clips: Clips, workers: int) -> None:
    """Whatever is ready first."""
    asked = [torch.tensor([clip]) for clip in range(8)] * 4
    made = list(ahead(lambda index_N: clips.batch(index_N, 16), asked, workers))
    assert [batch.index_N.item() for batch in made] == [index_N.item() for index_N in asked]


@pytest.mark.parametrize("workers", [0, 3])
def test_an_error_in_a_batch_made_ahead_is_the_trainings_own(workers: int) -> None:
    """It comes where the batch would have come."""
    made = ahead(lambda n: 1 // n, [1, 1, 0, 1], workers)
    assert [next(made), next(made)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)


@pytest.mark.parametrize(("clips_in", "size"), [(323, 64), (7, 64), (64, 64), (65, 64), (1, 4)])
def test_an_epoch_holds_every_clip_once_in_batches_of_nearly_one_size(clips_in: int, size: int) -> None:
    """No clip is dropped, and no batch is a leftover of one."""
    batches = epoch_batches(torch.arange(clips_in), torch.zeros(clips_in), size, seed=0, epoch=1, order="reshuffle")
    sizes = [len(batch) for batch in batches]
    assert sorted(torch.cat(batches).tolist()) == list(range(clips_in))
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("order", "same"), [("reshuffle", False), ("once", True), ("class", True), ("subject", True)])
def test_order_is_a_function_of_seed_and_epoch(order: str, same: bool) -> None:
    """The same key gives the same order; only `reshuffle` changes with the epoch."""
    label = torch.arange(40) % 4

    def draw(seed: int, epoch: int) -> list[int]:
        return torch.cat(epoch_batches(torch.arange(40), label, 8, seed, epoch, order)).tolist()

    assert draw(0, 1) == draw(0, 1)
    assert (draw(0, 1) == draw(0, 2)) is same


@pytest.mark.parametrize(("order", "column"), [("class", "label"), ("subject", "subject")])
def test_a_sorted_order_sorts_by_its_column(data_file: Path, order: str, column: str) -> None:
    """The question's suspicion, as an arm; and batches of one person, the correlated ones of pytorch#4741."""
    clips, splits = load(data_file, InputConfig(order=order), CPU)
    index_N = torch.cat(epoch_batches(splits.train, clips.sorted_by(order), 8, 0, 1, order))
    values = open_file(data_file).clips[column][index_N]
    assert values.tolist() == sorted(values.tolist())
    assert len(set(values.tolist())) > 1


def test_validation_clips_are_not_trained_on_unless_asked(data_file: Path) -> None:
    """train and val are disjoint by subject; train+val joins them and holds nothing out."""
    clips, splits = load(data_file, InputConfig(), CPU)
    subject = open_file(data_file).clips["subject"]
    assert not set(subject[splits.fit("train")]) & set(subject[splits.held_out("train")])
    assert len(splits.fit("train+val")) == len(splits.train) + len(splits.val)
    assert len(splits.held_out("train+val")) == 0


def test_an_unknown_protocol_names_those_of_the_file(data_file: Path) -> None:
    """The remedy is in the message."""
    with pytest.raises(ValueError, match="no protocol 'xview'; it has xsub"):
        load(data_file, InputConfig(protocol="xview"), CPU)
