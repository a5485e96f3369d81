"""Compare the raw inputs of both loaders: shape, mean, deviation and range, before any layer sees them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .batches import LABELS, Item, bytes_of, named_leaves
from .samples import Row, Samples

# Samples compared, and numbers of them at most.
COMPARED, NUMBERS = 256, 4_000_000
# Ratio of deviations, and distance of means in deviations, beyond which inputs are on another scale. Pictures that were
# not put from 0..1 to -1..1 have half the deviation.
SCALE_RATIO, MEAN_SHIFT = 1.8, 1.0
# Share of values at an end of the range, beyond that of the training inputs, from which inputs are clamped.
CLAMPED = 0.05


class Range(NamedTuple):
    """Range and distribution of an input."""

    shape: tuple[int, ...]
    """Of a sample; empty where samples differ, or are not known."""
    mean: float
    deviation: float
    low: float
    high: float
    at_low: float
    """Share of the values that are the lowest one."""
    at_high: float
    mean_C: Tensor
    deviation_C: Tensor

    @property
    def text(self) -> str:
        """In words."""
        return f"mean {self.mean:.3g}, deviation {self.deviation:.3g}, range {self.low:.3g} to {self.high:.3g}"


def difference(train: Samples, held_out: Samples | None) -> str:
    """Return how evaluation inputs differ from training inputs, in words; empty where they are alike."""
    if held_out is None:
        return ""
    ours, theirs = _ranges(train), _ranges(held_out)
    for name in ours:
        if name not in theirs:
            continue
        one, other = ours[name], theirs[name]
        shown = f"the evaluation inputs ({name})"
        if _on_another_scale(one, other):
            how = (
                "are not normalized like"
                if _is_normalized(one) != _is_normalized(other)
                else "are on another scale than"
            )
            return f"{shown} {how} the training inputs: {other.text}; training: {one.text}"
        for end, share, usual in (
            (other.low, other.at_low, one.at_low),
            (other.high, other.at_high, one.at_high),
        ):
            if share > usual + CLAMPED and one.low < end < one.high:
                return (
                    f"{100 * share:.0f} % of the values of {shown} are {end:.3g}, as if they were clamped there; "
                    f"training: {one.text}"
                )
        if one.shape and other.shape and one.shape != other.shape:
            return f"{shown} have shape {other.shape}, and the training inputs {one.shape}"
    return ""


def _on_another_scale(one: Range, other: Range) -> bool:
    """Return whether most channels differ in scale or level; all of them together where they cannot be paired."""
    paired = one.mean_C.shape == other.mean_C.shape
    means = (one.mean_C, other.mean_C) if paired else (torch.tensor([one.mean]), torch.tensor([other.mean]))
    deviations = (
        (one.deviation_C, other.deviation_C)
        if paired
        else (torch.tensor([one.deviation]), torch.tensor([other.deviation]))
    )
    varies = (deviations[0] > 1e-12) & (deviations[1] > 1e-12)
    if not bool(varies.any()):
        return False
    ratio = (deviations[1] / deviations[0])[varies].log().abs().median().exp().item()
    pooled = torch.maximum(*deviations)[varies]
    shift = ((means[1] - means[0]).abs()[varies] / pooled).median().item()
    return ratio > SCALE_RATIO or shift > MEAN_SHIFT


def _is_normalized(one: Range) -> bool:
    return abs(one.mean) < 1 and 1 / SCALE_RATIO < one.deviation < SCALE_RATIO


def _ranges(samples: Samples) -> dict[str, Range]:
    """Return the inputs of a loader by their paths: floating-point or 8-bit entries that are not labels."""
    each = max(1, bytes_of(samples.kept[0]) // 4)
    rows = (
        samples.kept[: min(COMPARED, max(2, NUMBERS // each))]
        if samples.apart
        else [_row(batch) for batch in samples.kept]
    )
    paths = [path for path, _ in named_leaves(samples.like if samples.apart else samples.kept[0])]
    found = {}
    for path, column in zip(paths, zip(*rows, strict=False), strict=False):
        named = not path.rpartition(".")[2].isdigit()
        values = [value for entry in column if (value := _values(entry, named)) is not None]
        if path.rpartition(".")[2] in LABELS or not values:
            continue
        found[path] = _range(values, samples.apart)
    return found


def _row(batch: object) -> Row:
    return Row(leaf for _, leaf in named_leaves(batch))


def _values(entry: object, named: bool) -> Tensor | None:
    """Return an entry as numbers where it may be an input: a tensor, floating-point or of 8 bits.

    One number per sample is a column of a table where it has a name, and may be a target where it has none.
    """
    value = entry.value if isinstance(entry, Item) else entry
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor) or not (value.dim() or named):
        return None
    value = value if value.dim() else value[None]
    return value.detach().float().cpu() if value.is_floating_point() or value.dtype == torch.uint8 else None


def _range(values: list[Tensor], apart: bool) -> Range:
    """Return the range of samples (C, ...), or of whole batches (N, C, ...), per channel and together.

    Where their shapes differ, zeros may be padding, and are left out.
    """
    by_channel = [
        x.flatten(1) if x.dim() > 1 else x[:, None] for x in (x if apart else _channels_first(x) for x in values)
    ]
    channels = {len(x) for x in by_channel}
    every = torch.cat([x.flatten() for x in by_channel])
    each = torch.cat(by_channel, 1) if len(channels) == 1 else every[None]
    alike = len({x.shape[-1] for x in by_channel}) == 1
    if not alike and bool(every.any()):
        every = every[every != 0]
        each = every[None]
    low, high = every.min().item(), every.max().item()
    return Range(
        tuple(values[0].shape) if apart and len({x.shape for x in values}) == 1 else (),
        every.mean().item(),
        every.std(correction=0).item(),
        low,
        high,
        (every == low).double().mean().item(),
        (every == high).double().mean().item(),
        each.mean(1),
        each.std(1, correction=0),
    )


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(1, 0) if x.dim() > 1 else x[None]
