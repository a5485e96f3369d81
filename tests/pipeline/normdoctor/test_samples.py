"""samples: a loader of any kind is read once, uniformly, in bounded memory, and its samples collated again."""

import random
import subprocess
import sys
import weakref
from collections import Counter, namedtuple
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pipeline.normdoctor.batches import leaves
from pipeline.normdoctor.samples import GIVEN, random_state_kept, take

X, Y = torch.arange(40.0).reshape(20, 2), torch.arange(20)
PARTS = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 20, 5)]
Pair = namedtuple("Pair", "x y")

LOADERS: dict[str, Callable[[], Iterable[Any]]] = {
    "tuples": lambda: PARTS,
    "lists": lambda: [list(part) for part in PARTS],
    "dicts": lambda: [{"x": x, "y": y} for x, y in PARTS],
    "named tuples": lambda: [Pair(*part) for part in PARTS],
    "nested": lambda: [((x, {"names": [str(i) for i in y.tolist()]}), y) for x, y in PARTS],
    "arrays": lambda: [(x.numpy(), y.numpy()) for x, y in PARTS],
    "a generator": lambda: iter(PARTS),
    "a DataLoader": lambda: DataLoader(TensorDataset(X, Y), batch_size=5),
    "plain tensors": lambda: [torch.cat([x, y[:, None].float()], 1) for x, y in PARTS],
}


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_are_put_together_anew_in_the_loaders_own_structure(kind: str) -> None:
    """Every sample once, each leaf of it where it belongs, in batches of the loader's type and size."""
    samples = take(LOADERS[kind]())
    assert samples.apart
    assert samples.size == 5
    seen = []
    for positions, batch in samples.batches():
        assert type(batch) is type(next(iter(LOADERS[kind]())))
        parts = leaves(batch)
        first = torch.as_tensor(parts[0])[:, 0]
        last = torch.as_tensor(parts[-1])
        last = last[:, -1] if last.dim() > 1 else last
        assert torch.equal(first.long(), 2 * last.long())
        assert len(positions) == 5
        seen += last.long().tolist()
    assert sorted(seen) == list(range(20))
    assert seen != list(range(20))


def test_a_sorted_loader_is_drawn_from_evenly() -> None:
    """10 classes in order, 5,000 samples, 500 kept: about 50 of each; the first 500 alone would be of one class."""
    loader = [(torch.zeros(50, 1), torch.full((50,), i // 10)) for i in range(100)]
    samples = take(loader, limit=500)
    counts = Counter(int(row[1]) for row in samples.kept)
    assert len(samples) == 500
    assert samples.seen == 5000
    assert set(counts) == set(range(10))
    assert max(counts.values()) < 80
    given = [int(rows[0][1]) for rows in samples.given]
    assert len(given) == GIVEN
    assert max(given) > 5  # whole batches too are drawn from all, not the first ones


@pytest.mark.parametrize("zeros", [torch.zeros, np.zeros])
def test_memory_does_not_grow_with_the_number_of_batches(zeros: Callable[[tuple[int, ...]], Any]) -> None:
    """Of 300 batches no more than the given ones and the kept samples stay alive."""
    alive = []

    def loader() -> Iterable[tuple[Any, Any]]:
        for _ in range(300):
            x = zeros((8, 3))
            alive.append(weakref.ref(x))
            yield x, zeros((8,))

    samples = take(loader(), limit=100)
    assert sum(ref() is not None for ref in alive) <= GIVEN + 15
    assert len(samples) == 100


def test_the_process_does_not_grow_with_the_number_of_batches() -> None:
    """Of 25,600 samples of 38 kB 200 are kept, 8 MB, beside the 39 MB of the given batches.

    As new copies they took 216 MB and more: freed memory is fragmented by what is kept.
    """
    code = (
        "import torch; from pipeline.normdoctor.samples import take\n"
        "held = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "before = held(); samples = take(((torch.rand(64, 9600), torch.zeros(64)) for _ in range(400)), limit=200)\n"
        "print(held() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150e6


def test_a_batch_of_half_the_usual_size_is_not_usual() -> None:
    """Batches of 4, 2 and 1: the passes over the given batches leave the small ones out."""
    samples = take([(torch.arange(4.0)[:n], torch.arange(n)) for n in (4, 4, 3, 2, 1)])
    assert [len(rows) for rows in samples.usual] == [4, 4, 3]
    assert [positions.tolist() for positions, _ in samples.as_given()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    mixed = [(positions.tolist(), batch[1].tolist()) for positions, batch in samples.mixed()]
    assert sorted(place for places, _ in mixed for place in places) == list(range(11))
    given = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert all([given[place] for place in places] == labels for places, labels in mixed)
    assert [place for places, _ in mixed for place in places] != list(range(11))


def test_batches_of_different_shapes_stay_whole() -> None:
    """Padded to each batch's own length: they cannot be mixed, and every pass sees them as they are."""
    loader = [(torch.zeros(4, length), torch.zeros(4)) for length in (3, 5, 7)]
    samples = take(loader)
    assert not samples.apart
    assert [batch[0].shape[1] for _, batch in samples.batches()] == [3, 5, 7]
    assert len(samples) == 12


@pytest.mark.parametrize("loader", [[], [(torch.zeros(1, 3), torch.zeros(1))], iter(())])
def test_fewer_than_two_samples_are_rejected(loader: Iterable[Any]) -> None:
    """Batch statistics need two."""
    with pytest.raises(ValueError, match=r"hold [01] samples?: batch statistics need two") as error:
        take(loader)
    assert "\n" not in str(error.value)


def test_a_batch_without_tensors_is_rejected() -> None:
    """With its type."""
    with pytest.raises(ValueError, match="a batch is a str without any tensor"):
        take(["no", "tensors"])


def test_random_states_go_on_as_if_nothing_had_been_drawn() -> None:
    """torch, numpy and random; the control draws without the guard."""

    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()  # noqa: NPY002

    def seeded() -> None:
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002

    seeded()
    expected = draw()
    seeded()
    with random_state_kept():
        draw()
    assert draw() == expected
    seeded()
    draw()
    assert draw() != expected
