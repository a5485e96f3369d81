"""gaps.py: rows of a file with absent joints as batches and exports take them."""

from pathlib import Path

import numpy as np

from preprocessing.gaps import bridged_rows
from preprocessing.hdf5 import Spool, open_file, write
from tests.preprocessing.hdf5.examples import T, V, contents, rows


def test_short_gaps_are_interpolated_and_the_rest_is_nan(tmp_path: Path) -> None:
    """At 3 frames per second, gaps of up to 3 frames; a joint that is never found, and rows of an absent body."""
    from dataclasses import replace

    marks = np.ones((T, V), bool)
    marks[1:4, 0] = False  # 3 frames
    marks[1:5, 1] = False  # 4 frames
    marks[:, 2] = False
    present = np.arange(T) > 0
    with Spool(tmp_path, V) as spool:
        spool.append(rows()[0] * present[:, None, None], present)
        for body in (1, 2):
            spool.append(rows()[body] * marks[..., None], np.ones(T, bool), marks if body == 1 else None)
        write(tmp_path / "a.h5", replace(contents(), fps=3.0), spool)
    file = open_file(tmp_path / "a.h5")
    made = bridged_rows(file)
    gaps = np.argwhere(np.isnan(made).any(axis=-1))
    np.testing.assert_array_equal(gaps, [[T + t, v] for t in range(T) for v in (1, 2) if v == 2 or 1 <= t < 5])
    for t in (1, 2, 3):
        expected = rows()[1, 0, 0] + (rows()[1, 4, 0] - rows()[1, 0, 0]) * t / 4
        np.testing.assert_allclose(made[T + t, 0], expected, atol=1e-6)
    assert not made[0].any()
    kept = ~np.isnan(made).any(axis=-1)
    kept[T + 1 : T + 4, 0] = False
    np.testing.assert_array_equal(made[kept], np.asarray(file.joints_RV3)[kept])
