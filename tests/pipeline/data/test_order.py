"""order.py: the order of an epoch is a pure function of seed and epoch, and holds every clip once."""

from pathlib import Path

import pytest
import torch

from pipeline.data.clips import Clips
from pipeline.data.order import balanced, epoch_batches, generator, repeats, subsample
from pipeline.data.splits import splits_of
from preprocessing.hdf5 import open_file


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
    file = open_file(data_file)
    clips, splits = Clips(file, torch.device("cpu")), splits_of(file)
    index_N = torch.cat(epoch_batches(splits.train, clips.sorted_by(order), 8, 0, 1, order))
    values = file.clips[column][index_N]
    assert values.tolist() == sorted(values.tolist())
    assert len(set(values.tolist())) > 1


def test_generators_of_other_keys_draw_other_numbers() -> None:
    """And those of one key the same; the bits are those of earlier versions, so that a run resumes as it began."""
    assert torch.randperm(6, generator=generator(0, 1, 2)).tolist() == [2, 4, 5, 1, 3, 0]
    assert torch.randperm(6, generator=generator(0, 1, 2)).tolist() == [2, 4, 5, 1, 3, 0]
    assert torch.randperm(6, generator=generator(0, 2, 1)).tolist() != [2, 4, 5, 1, 3, 0]


def test_a_subsample_is_evenly_spaced() -> None:
    """From the first on; all of them where fewer are asked for than there are."""
    index_N = torch.arange(10, 20)
    assert subsample(index_N, 4).tolist() == [10, 12, 15, 17]
    assert subsample(index_N, 50).tolist() == index_N.tolist()
    assert subsample(index_N[:0], 4).tolist() == []


def test_an_epoch_is_shuffled_by_its_own_key() -> None:
    """(seed, 1, epoch) for reshuffle, (seed, 1, 0) for once: a run resumes in the order that it began with."""
    for order, epoch, key in (("reshuffle", 2, (0, 1, 2)), ("once", 2, (0, 1, 0))):
        (batch,) = epoch_batches(torch.arange(6), torch.zeros(6), 6, seed=0, epoch=epoch, order=order)
        assert torch.equal(batch, torch.randperm(6, generator=generator(*key)))


def test_a_balanced_epoch_has_each_class_equally_often() -> None:
    """Of 32, 8 and 2 clips: 14 each. Rare clips repeat equally often; frequent ones take turns over the epochs."""
    label_N = torch.tensor([0] * 32 + [2] * 8 + [1] * 2 + [9])  # the last clip is not trained on
    index_N = torch.arange(42)
    epochs = [balanced(index_N, label_N, 0, epoch) for epoch in range(1, 6)]
    for drawn in epochs:
        assert torch.bincount(label_N[drawn]).tolist() == [14, 14, 14]
        times = torch.bincount(drawn, minlength=42)
        assert times[:32].max() == 1
        assert sorted(set(times[32:40].tolist())) == [1, 2]
        assert times[40:42].tolist() == [7, 7]
    assert len(torch.cat(epochs)[label_N[torch.cat(epochs)] == 0].unique()) > 25
    assert torch.equal(epochs[0], balanced(index_N, label_N, 0, 1))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], balanced(index_N, label_N, 1, 1))
    uneven = balanced(torch.arange(41), label_N, 0, 1)
    assert len(uneven) == 41
    assert sorted(torch.bincount(label_N[uneven]).tolist()) == [13, 14, 14]


def test_repeats_are_counted_from_zero() -> None:
    """Each position by itself, in the order of the list."""
    assert repeats(torch.tensor([5, 3, 5, 5, 3, 7])).tolist() == [0, 0, 1, 2, 1, 0]
