"""tokenizer: where lines end."""

import numpy as np
import pytest

from preprocessing.tokenizer import _line_ends

# A line feed, its neighbours, and bytes that differ from it in the highest bit alone or carry into the next one.
BYTES = np.array([10, 9, 11, 0, 1, 128, 138, 255, 74], np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_line_ends_are_those_of_a_plain_search(seed: int) -> None:
    """Every length up to 64 bytes, and any mixture with line feeds beside each other."""
    draw = np.random.default_rng(seed)
    for size in range(65):
        data = BYTES[draw.integers(len(BYTES), size=size)]
        end_L = np.full(size + 1, -1, np.int64)
        lines = _line_ends(data, data[: size // 8 * 8].view(np.uint64), end_L)
        assert end_L[:lines].tolist() == [*np.flatnonzero(data == 10), size]


def test_the_mixture_has_line_feeds_in_all_places() -> None:
    """Negative control: without the last bytes of a file of 13 bytes, some ends are missing."""
    data = np.full(13, 10, np.uint8)
    end_L = np.full(14, -1, np.int64)
    assert _line_ends(data[:8], data[:8].view(np.uint64), end_L) == 9
    assert _line_ends(data, data[:8].view(np.uint64), end_L) == 14
