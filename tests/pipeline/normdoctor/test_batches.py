"""batches: leaves, sizes and samples of batches of any structure."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor.batches import bytes_of, device_of, is_opaque, leaves, moved, named_leaves, size_of
from pipeline.normdoctor.samples import take

PICTURES = [torch.full((3, 4 + i, 5), float(i)) for i in range(6)]
TARGETS = [{"boxes": torch.zeros(i, 4), "id": torch.tensor(i)} for i in range(6)]
GRAPH = {
    "x": torch.randn(12, 5),
    "edge_index": torch.zeros(2, 30, dtype=torch.long),
    "batch": torch.arange(12) // 4,
    "y": torch.arange(3),
}

SIZES: dict[str, tuple[Any, int]] = {
    "pictures of different sizes and their targets": ((PICTURES[:3], TARGETS[:3]), 3),
    "tuples of them": ((tuple(PICTURES[:3]), tuple(TARGETS[:3])), 3),
    "pictures of one size": (([torch.zeros(3, 8, 8)] * 2, [{"boxes": torch.zeros(1, 4)}] * 2), 2),
    "dicts as detectron2 has them": ([{"image": PICTURES[0], "height": 4}, {"image": PICTURES[1], "height": 5}], 2),
    "sequences of different lengths": (([torch.zeros(6, 20 + i) for i in range(3)], torch.zeros(3)), 3),
    "crops of several sizes": (([torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 5, 5)], torch.zeros(4)), 4),
    "pairs that nobody collated": ([(PICTURES[0], 1), (PICTURES[1], 0), (PICTURES[2], 1)], 3),
    "graphs": (GRAPH, 3),
    "graphs that count themselves": (SimpleNamespace(**GRAPH, num_graphs=7), 7),
    "several inputs": (((torch.zeros(5, 2), torch.zeros(5, 3)), torch.zeros(5)), 5),
    "one channel and one sample": ((torch.zeros(1, 3, 4), torch.zeros(1, 4)), 1),
    "sequences of three": ((torch.zeros(3, 7, 2), torch.zeros(3, 7, 2)), 3),
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_batch_has_as_many_samples_as_it_means(kind: str) -> None:
    """Not always the length of its first tensor."""
    batch, size = SIZES[kind]
    assert size_of(batch) == size


def test_lists_with_one_entry_per_sample_are_divided_and_put_together_again() -> None:
    """Pictures go with their own targets; sizes of pictures may differ."""
    samples = take([(PICTURES[:3], TARGETS[:3]), (PICTURES[3:], TARGETS[3:])])
    assert samples.apart
    (_, (pictures, targets)), _ = samples.batches()
    assert isinstance(pictures, list)
    assert [int(picture[0, 0, 0]) for picture in pictures] == [int(target["id"]) for target in targets]
    assert [int(target["id"]) for target in targets] != [0, 1, 2]


@pytest.mark.parametrize("kind", ["graphs", "other constants", "an object"])
def test_what_cannot_be_divided_safely_stays_whole(kind: str) -> None:
    """Edges of graphs; a tensor that goes with every sample and differs from batch to batch; an unknown object."""
    make = {
        "graphs": lambda i: GRAPH,
        "other constants": lambda i: (torch.zeros(4, 2), torch.full((7,), float(i))),
        "an object": lambda i: SimpleNamespace(x=torch.zeros(4, 2), y=torch.zeros(4)),
    }[kind]
    assert not take([make(0), make(1)]).apart
    same = take([(torch.zeros(4, 2), torch.full((7,), 1.0))] * 2)  # the control: one adjacency for all samples
    assert same.apart
    assert len(same) == 8


def test_batches_that_turn_out_not_to_be_divisible_are_whole_again() -> None:
    """The third batch is of another length: the first two are what they were."""
    loader = [(torch.arange(4.0)[:, None].expand(4, n) + 10 * n, torch.arange(4)) for n in (3, 3, 5)]
    samples = take(loader)
    assert not samples.apart
    assert [tuple(batch[0].shape) for _, batch in samples.batches()] == [(4, 3), (4, 3), (4, 5)]
    assert all(torch.equal(found[0], given[0]) for (_, found), given in zip(samples.batches(), loader, strict=True))
    assert len(samples.given) == 3


def test_a_loader_without_an_end_is_read_as_far_as_needed() -> None:
    """Ten times the samples kept, or the batches asked for; one with an end is read to it."""
    forever = ((torch.zeros(5, 2), torch.zeros(5)) for _ in itertools.count())
    samples = take(forever, limit=20)
    assert (samples.seen, samples.unread, len(samples)) == (200, True, 20)
    assert take(forever, limit=20, most=7).seen == 35
    finite = take([(torch.zeros(5, 2), torch.zeros(5))] * 7, limit=20)
    assert (finite.seen, finite.unread) == (35, False)


def test_memory_bounds_what_is_kept() -> None:
    """Samples of 4 kB: two batches as given at least, and the rest of 400 kB."""
    loader = [(torch.zeros(20, 1000), torch.zeros(20)) for _ in range(50)]
    samples = take(loader, memory=400_000)
    assert len(samples.given) == 2
    assert len(samples) == 400_000 // 4004 - 40
    assert len(take(loader)) == 1000  # the control


def test_a_sample_is_kept_once() -> None:
    """All samples are kept, and the batches as given are made of the same tensors."""
    samples = take([(torch.randn(8, 50), torch.zeros(8)) for _ in range(10)])
    held = {leaf.data_ptr() for row in samples.kept for leaf in row if leaf.dim()}
    assert all(row[0].data_ptr() in held for rows in samples.given for row in rows)
    assert sum(bytes_of(row) for row in samples.kept) == 80 * 51 * 4


def test_a_sample_of_a_given_batch_is_not_written_over() -> None:
    """1,000 samples, each its own number, 30 kept: given batches hold ten numbers in a row."""
    loader = [(torch.arange(10.0 * i, 10.0 * i + 10)[:, None], torch.zeros(10)) for i in range(100)]
    samples = take(loader, limit=30)
    for _, batch in samples.as_given():
        first = batch[0].flatten().tolist()
        assert first == [first[0] + i for i in range(10)]
    assert len({float(row[0]) for row in samples.kept}) == 30


def test_batches_are_moved_to_where_the_model_is() -> None:
    """Every tensor in any structure; a model on two devices, or without tensors, leaves them where they are."""
    batch = {"x": torch.zeros(2), "more": [torch.zeros(2, 3), {"y": torch.zeros(1)}], "name": "a"}
    there = moved(batch, torch.device("meta"))
    assert {leaf.device.type for leaf in leaves(there) if isinstance(leaf, Tensor)} == {"meta"}
    assert there["name"] == "a"
    assert moved(batch, torch.device("cpu")) is batch
    assert moved(batch, None) is batch
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))) is None
    assert device_of(nn.ReLU()) is None


def test_leaves_have_paths_and_unknown_objects_are_opaque() -> None:
    """In the order of the structure."""
    names = [name for name, _ in named_leaves(({"a": torch.zeros(1), "b": [1, 2]}, torch.zeros(1)))]
    assert names == ["0.a", "0.b", "1"]
    assert is_opaque([SimpleNamespace(x=torch.zeros(1)), torch.zeros(1)])
    assert not is_opaque([{"x": torch.zeros(1)}, torch.zeros(1)])
