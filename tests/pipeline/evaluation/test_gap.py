"""Statistics that will lag are announced, and a gap at the end is named with its likely cause."""

from typing import Any

import pytest

from pipeline.config import from_dict
from pipeline.evaluation import gap


def config(epochs: int = 40, batch: int = 32, nproc: int = 1, **norm: Any) -> Any:
    train = {"epochs": epochs, "batch_size": batch}
    return from_dict({"data": "a.h5", "out": "run", "nproc": nproc, "train": train, "norm": norm})


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (config(epochs=2, momentum=0.01, kind="bn"), 0.99**8),
        (config(epochs=2, momentum=0.01, kind="bn", persons="loop"), 0.99**16),
        (config(epochs=2, momentum=0.01, kind="bn", recalibrate="final"), 0.0),
        (config(epochs=2, momentum=0.01, kind="gn"), 0.0),
        (config(epochs=2, momentum=0.01, kind="frozen_bn"), 0.0),
    ],
)
def test_the_share_of_initial_values_follows_from_the_updates(settings: Any, share: float) -> None:
    """128 clips are 4 batches of 32."""
    assert gap.initial_share(settings, 128) == pytest.approx(share)
    assert bool(gap.lag_note(settings, 128)) is (share > 0.05)


def test_a_short_run_with_slow_statistics_is_announced() -> None:
    note = gap.lag_note(config(epochs=2, momentum=0.01, kind="bn"), 128)
    assert note.startswith("batch statistics: after 8 updates at norm.momentum 0.01 the running statistics keep 92 %")
    assert "norm.recalibrate final" in note
    assert "\n" not in note


def summary(a: float, b: float, clips: int = 400) -> dict[str, Any]:
    return {"accuracies": {"A": a, "B": b}, "clips": {"train": clips}}


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (config(epochs=2, momentum=0.01, kind="bn", persons="loop"), "(norm.persons loop), and their lag, with 59 %"),
        (config(epochs=2, momentum=0.01, kind="bn"), "likely their lag, with "),
        (config(kind="bn", persons="loop"), "likely the body loop"),
        (config(kind="bn", batch=4), "likely batches of 4 clips are too small"),
        (config(kind="bn", batch=32, nproc=4, sync=False), "likely batches of 8 clips are too small"),
        (config(kind="gn", input="vc"), "likely absent bodies in the statistics of the coordinates (norm.input vc)"),
        (config(kind="bn"), "the settings do not tell why"),
    ],
)
def test_a_gap_has_a_likely_cause(settings: Any, cause: str) -> None:
    note = gap.gap_note(settings, summary(0.2, 0.9))
    assert note.startswith("running statistics cost 70.0 ± 4.9 points (B - A on 400 training clips): ")
    assert cause in note


@pytest.mark.parametrize(("a", "b", "clips"), [(0.9, 0.9, 400), (0.9, 0.93, 100), (0.95, 0.9, 400), (0.0, 0.0, 1)])
def test_within_its_interval_nothing_is_said(a: float, b: float, clips: int) -> None:
    assert gap.gap_note(config(kind="bn"), summary(a, b, clips)) == ""
