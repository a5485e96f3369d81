"""inputs: raw evaluation inputs that are not what the training inputs are, in words."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.normdoctor import diagnose
from pipeline.normdoctor.inputs import difference
from pipeline.normdoctor.samples import take
from tests.pipeline.normdoctor.planted import Small, data, trained

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def pictures(seed: int, change: Callable[[Tensor], Tensor], size: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Batches of pictures (8, 3, H, W) with the channels of ImageNet, in 0 to 1."""
    draw = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(6):
        x = MEAN[:, None, None] + DEVIATION[:, None, None] * torch.randn(8, 3, size, size, generator=draw)
        result.append((change(x.clamp(0, 1)), torch.randint(3, (8,), generator=draw)))
    return result


def normalized(x: Tensor) -> Tensor:
    """As most training transforms do."""
    return (x - MEAN[:, None, None]) / DEVIATION[:, None, None]


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "the same": (normalized, ""),
    "a little brighter": (lambda x: normalized((1.1 * x).clamp(0, 1)), ""),
    "not normalized": (
        lambda x: x,
        "are not normalized like the training inputs: mean 0.448, deviation 0.219, range 0 to 1; "
        "training: mean -0.00995",
    ),  # fmt: skip
    "on another scale": (
        lambda x: normalized(x) * 0.8 + 0.95 * 8,
        "are not normalized like the training inputs: mean 7",
    ),
    "half the deviation": (lambda x: normalized(x) / 2 + 0.5, "are not normalized like"),
    "three quarters of it": (lambda x: normalized(x) * 0.75, ""),
    "8 bits": (lambda x: (255 * x).byte(), "are not normalized like the training inputs: mean 11"),
    "0 to 255": (lambda x: 255 * x, "are not normalized like the training inputs: mean 11"),
    "a tenth": (lambda x: 0.1 * normalized(x), "are not normalized like"),
    "other statistics": (lambda x: normalized(x) * 10 + 50, "are not normalized like"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_inputs_on_another_scale_are_named_with_their_figures(kind: str) -> None:
    """The same, and slightly other ones, are not."""
    change, words = CHANGES[kind]
    found = difference(take(pictures(0, normalized)), take(pictures(1, change)))
    assert (words in found) if words else (found == "")


def test_other_shapes_are_named() -> None:
    """Per sample."""
    found = difference(take(pictures(0, normalized)), take(pictures(1, normalized, size=9)))
    assert found == "the evaluation inputs (0) have shape (3, 9, 9), and the training inputs (3, 6, 6)"


def test_whole_batches_are_compared_too() -> None:
    """Of different lengths; labels are no inputs."""
    draw = torch.Generator().manual_seed(0)

    def batches(scale: float) -> list[dict[str, Any]]:
        sizes = (3, 5, 7)
        return [{"signal": scale * torch.randn(4, 2, n, generator=draw), "y": scale * torch.ones(4)} for n in sizes]

    assert difference(take(batches(1.0)), take(batches(1.0)[::-1])) == ""
    assert "the evaluation inputs (signal) are" in difference(take(batches(1.0)), take(batches(30.0)))
    assert "(y)" not in difference(take(batches(1.0)), take(batches(30.0)))
    assert difference(take(batches(1.0)), None) == ""


def test_a_diagnosis_names_the_inputs_first_and_no_norm() -> None:
    """Evaluation inputs that miss the scaling of training; the control is healthy."""
    train = [((x - 4) / 2, y) for x, y in data(0)]
    torch.manual_seed(0)
    model = trained(Small(), train)
    raw = [(10 * x, y) for x, y in data(1)]
    diagnosis = diagnose(model, train, raw)
    assert diagnosis.causes == []
    assert diagnosis.named[0] == "inputs"
    assert (
        "Data (inputs): the evaluation inputs (0) are not normalized like the training inputs: mean"
        in diagnosis.verdict
    )
    assert "inputs" not in diagnose(model, train, [((x - 4) / 2, y) for x, y in data(1)]).named


def test_inputs_that_cost_nothing_are_not_named() -> None:
    """Noise that training adds, of twice the deviation: the evaluation samples score as well without it."""
    torch.manual_seed(0)
    noisy = [(x + 2 * torch.randn_like(x), y) for x, y in data(0)]
    model = trained(Small(), data(0))
    assert difference(take(noisy), take(data(1)))
    assert "inputs" not in diagnose(model, noisy, data(1)).named
    assert diagnose(model, data(0), noisy).named[0] == "inputs"


def test_clamped_inputs_are_named() -> None:
    """A third of the evaluation values stand at 0, which no training value does."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, 8, generator=draw)
    train = take([(x[:100], torch.zeros(100, dtype=torch.long))])
    clamped = take([(x[100:].clamp(min=-0.4), torch.zeros(100, dtype=torch.long))])
    free = take([(x[100:], torch.zeros(100, dtype=torch.long))])
    assert "of the values of the evaluation inputs (0) are -0.4, as if they were clamped" in difference(train, clamped)
    assert difference(train, free) == ""


def test_columns_of_a_table_are_inputs_and_targets_are_not() -> None:
    """One number per sample: a column where it has a name."""
    draw = torch.Generator().manual_seed(0)
    age, label = torch.randn(200, generator=draw), torch.zeros(100, dtype=torch.long)
    train, raw = take([{"age": age[:100], "label": label}]), take([{"age": 38 + 13 * age[100:], "label": label}])
    assert "the evaluation inputs (age) are not normalized" in difference(train, raw)
    x = torch.randn(100, 2, generator=draw)
    assert difference(take([(x, age[:100])]), take([(x, 38 + 13 * age[100:])])) == ""


def test_padding_of_samples_of_different_lengths_is_left_out() -> None:
    """Padded batches against single sequences: what is real has the same level."""
    draw = torch.Generator().manual_seed(0)

    def padded(lengths: list[int]) -> dict[str, torch.Tensor]:
        x = torch.zeros(len(lengths), 2, max(lengths))
        for row, length in zip(x, lengths, strict=True):
            row[:, :length] = 3 + torch.randn(2, length, generator=draw)
        return {"x": x, "y": torch.zeros(len(lengths), dtype=torch.long)}

    train = take([padded([5, 40, 6, 7]), padded([6, 50, 5, 8])])
    assert difference(train, take([padded([length]) for length in (5, 8, 6, 7)])) == ""
