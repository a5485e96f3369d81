"""The batches of a training epoch: ordered, augmented, prefetched and guarded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pipeline.data.augment import Draw, augment, crop_windows, mirrored_joints
from pipeline.data.clips import Batch, Clips
from pipeline.data.order import balanced, epoch_batches, repeats
from pipeline.data.prefetch import prefetch
from pipeline.nonfinite import NonFiniteGuard

if TYPE_CHECKING:
    from pipeline.config import Config


COUNTED = 8192  # clips whose bodies are counted at once: 60 MB of positions


class Step(NamedTuple):
    """One optimizer step."""

    progress: float
    """Epochs that are done in the middle of the step."""
    clips: int
    """Clips of the step over all ranks."""
    micro_batches: Iterator[Batch]
    """This rank's share, in the parts that gradients are accumulated over."""
    bodies: int | None
    """Bodies of the step over all ranks that are present in a frame of the batch; None: not counted."""


def training_steps(
    config: Config,
    clips: Clips,
    train_N: Tensor,
    epoch: int,
    broken: Tensor,
    rank: int = 0,
    ranks: int = 1,
    counted: bool = False,
) -> Iterator[Step]:
    """Yield the optimizer steps of an epoch.

    The caller runs `backward` for each micro-batch, and checks the gradients, before it asks for the next one. The
    non-finite guard raises NonFiniteLoss one micro-batch later, so that the loop does not wait for the device.

    Args:
        config: Settings of the run.
        clips: Clips of the data file.
        train_N: Positions of the training clips.
        epoch: Number of the epoch, from 1.
        broken: `GradientCheck.broken` of the step.
        rank: This rank.
        ranks: Number of ranks.
        counted: Count the bodies of each step, with one wait for the device per epoch.
    """
    training, order, device = config.train, config.input.order, clips.device
    mirror_V = mirrored_joints(clips.joint_names).to(device) if config.augment.mirror else None
    # On the device all at once: a copy of its own for each batch would wait until the batch before is done.
    repeated = config.input.sample == "balanced"
    if repeated:
        train_N = balanced(train_N, clips.label_N, training.seed, 0 if order == "once" else epoch)
    batches = epoch_batches(
        train_N.to(device), clips.sorted_by(order), training.batch_size, training.seed, epoch, order
    )
    whole = [Draw(training.seed, epoch, index_N) for index_N in batches]
    if repeated:
        turns = repeats(torch.cat(batches)).split([len(index_N) for index_N in batches])
        whole = [draw._replace(repeat_N=turn_N) for draw, turn_N in zip(whole, turns, strict=True)]
    draws = (part.split(ranks)[rank] for draw in whole for part in draw.split(training.accumulate))
    bodies = bodies_of(config, clips, whole) if counted else [None] * len(whole)
    guard = NonFiniteGuard(epoch, broken, clips.names)
    made = prefetch(partial(training_batch, config, clips, mirror_V), draws, clips.workers)

    def micro_batches(index_N: Tensor) -> Iterator[Batch]:
        for part_N in index_N.tensor_split(training.accumulate):
            yield next(made)
            guard.see(part_N)

    for number, (index_N, present) in enumerate(zip(batches, bodies, strict=True)):
        yield Step(epoch - 1 + (number + 0.5) / len(batches), len(index_N), micro_batches(index_N), present)
    guard.read()


def bodies_of(config: Config, clips: Clips, draws: list[Draw]) -> list[int]:
    """Return how many bodies each batch has that are present in one of its frames, by one wait for the device.

    Of the changes of `augment` only the crop window decides which bodies these are.
    """
    ends = torch.tensor([len(draw.index_N) for draw in draws]).cumsum(0)
    repeat = None if draws[0].repeat_N is None else torch.cat([draw.repeat_N for draw in draws])  # type: ignore[misc]
    whole = draws[0]._replace(index_N=torch.cat([draw.index_N for draw in draws]), repeat_N=repeat)
    counts = []
    for draw in whole.split(-(-len(whole.index_N) // COUNTED)):
        window_N2 = crop_windows(config.augment, draw) if config.augment.on else None
        counts.append(clips.present(draw.index_N, config.input.frames, window_N2).any(dim=-1).sum(dim=1))
    total = torch.cat(counts).cumsum(0).cpu()[ends - 1]
    return [int(count) for count in total.diff(prepend=total.new_zeros(1))]


def training_batch(config: Config, clips: Clips, mirror_V: Tensor | None, draw: Draw) -> Batch:
    """Return the clips of `draw`, augmented; the same for a clip whatever the batch and rank it is in."""
    if not config.augment.on:
        return clips.batch(draw.index_N, config.input.frames)
    batch = clips.batch(draw.index_N, config.input.frames, crop_windows(config.augment, draw))
    x_NCTVM, present_NMT = augment(config.augment, draw, batch.x_NCTVM, batch.present_NMT, mirror_V)
    return batch._replace(x_NCTVM=x_NCTVM, present_NMT=present_NMT)
