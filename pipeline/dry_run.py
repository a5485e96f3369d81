"""`--dry-run` of pipeline.train: resolved settings, size of the network, batches, time and memory; writes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import statistics
import sys
import time

import torch

from pipeline import distributed, network
from pipeline.config import Config, as_dict, as_toml
from pipeline.data.training import training_steps
from pipeline.models.cost import cost, describe
from pipeline.run_folder import Run
from pipeline.step import TrainStep
from preprocessing import exits

STEPS = 4  # optimizer steps that are timed; the first one is left out


def report(config: Config) -> str:
    """Return what a training with these settings is and takes.

    The time is that of a few real steps of a new network on one rank, without evaluations.
    """
    device = distributed.join()
    try:
        fresh = dataclasses.replace(config, init=None, train=dataclasses.replace(config.train, freeze="none"))
        run = Run(fresh.out, device, fresh)
        clips, splits = run.clips, run.splits
        train_N = splits.fit(fresh.input.fit)
        torch.manual_seed(fresh.train.seed)
        model = network.build(fresh, clips, device)
        size = describe(cost(model, fresh.input.frames, clips.joints, clips.channels))
        seconds = statistics.median(_seconds(fresh, run, model)[1:])
        memory = _memory(device)
    finally:
        distributed.leave()
    steps = -(-len(train_N) // config.train.batch_size)
    total = seconds * steps * config.train.epochs
    protocol = splits.protocol
    return "\n".join(
        [
            as_toml(as_dict(config)),
            f"data: {len(train_N)} training, {len(splits.val)} val and {len(splits.test)} test clips of "
            f"{clips.classes} classes, protocol {protocol}",
            f"network: {config.model.name}, {size}",
            f"batches: {steps} per epoch, at most {config.train.batch_size} clips each; "
            f"{steps * config.train.epochs} in {config.train.epochs} epochs",
            f"time: {1000 * seconds:.1f} ms per batch on one rank ({device.type}), about {_duration(total)} for the "
            "training, without evaluations",
            f"memory: about {exits.size(memory)}",
            "dry run: nothing was written",
        ]
    )


def _seconds(config: Config, run: Run, model: torch.nn.Module) -> list[float]:
    """Return the times of a few optimizer steps."""
    from pipeline.training import fresh_state

    state, clips = fresh_state(config, model), run.clips
    train_N = run.splits.fit(config.input.fit)
    take = TrainStep(config, model, *state, None, clips.device)
    taken: list[float] = []
    model.train()
    while len(taken) < STEPS:  # an epoch may have one step
        steps = training_steps(config, clips, train_N, 1, take.gradients.broken)
        begin = time.perf_counter()
        for step in itertools.islice(steps, STEPS - len(taken)):
            take(step.micro_batches, step.clips)
            if clips.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            taken.append(now - begin)
            begin = now
    return taken


def _memory(device: torch.device) -> float:
    """Return the peak of the device's memory, in bytes: of this process on a CPU, of torch's allocator on a GPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
