"""The batches of a training epoch: ordered, augmented, prefetched and guarded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.data.augment import Draw, augment, crop_windows, mirrored_joints
from pipeline.data.clips import Batch, Clips
from pipeline.data.order import balanced, epoch_batches, repeats
from pipeline.data.prefetch import prefetch
from pipeline.nonfinite import NonFiniteGuard

if TYPE_CHECKING:
    from pipeline.config import Config


class Step(NamedTuple):
    """One optimizer step."""

    progress: float
    """Epochs that are done in the middle of the step."""
    clips: int
    """Clips of the step over all ranks."""
    micro_batches: Iterator[Batch]
    """This rank's share, in the parts that gradients are accumulated over."""
    guard: NonFiniteGuard
    """After the last micro-batch its `norm` is that of the step's gradient, before clipping."""


def training_steps(
    config: Config,
    clips: Clips,
    train_N: Tensor,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Step]:
    """Yield the optimizer steps of an epoch.

    The caller runs `backward` for each micro-batch before it asks for the next one. The non-finite guard then looks at
    the gradients, and raises NonFiniteLoss one micro-batch later, so that the loop does not wait for the device.

    Args:
        config: Settings of the run.
        clips: Clips of the data file.
        train_N: Positions of the training clips.
        epoch: Number of the epoch, from 1.
        model: The network whose gradients are guarded.
        optimizer: Its optimizer, which the guard keeps from stepping.
        rank: This rank.
        ranks: Number of ranks.
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
    guard = NonFiniteGuard(epoch, model, optimizer, clips.names, device)
    made = prefetch(partial(training_batch, config, clips, mirror_V), draws, clips.workers)

    def micro_batches(index_N: Tensor) -> Iterator[Batch]:
        for part_N in index_N.tensor_split(training.accumulate):
            yield next(made)
            guard.see(part_N)

    for number, index_N in enumerate(batches):
        yield Step(epoch - 1 + (number + 0.5) / len(batches), len(index_N), micro_batches(index_N), guard)
    guard.read()


def training_batch(config: Config, clips: Clips, mirror_V: Tensor | None, draw: Draw) -> Batch:
    """Return the clips of `draw`, augmented; the same for a clip whatever the batch and rank it is in."""
    if not config.augment.on:
        return clips.batch(draw.index_N, config.input.frames)
    batch = clips.batch(draw.index_N, config.input.frames, crop_windows(config.augment, draw))
    x_NCTVM, present_NMT = augment(config.augment, draw, batch.x_NCTVM, batch.present_NMT, mirror_V)
    return batch._replace(x_NCTVM=x_NCTVM, present_NMT=present_NMT)
