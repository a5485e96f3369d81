"""Captured optimizer steps (CUDA graphs): launch a step's thousands of kernels by one call.

A small batch is launch-bound: the GPU waits for the host. A captured step is recorded once per shape of batch and then
replayed on the same memory, into which each batch is copied. The shape is the number of clips and the number of bodies
that are present in them (`norm.persons masked` computes no others), which the host knows before the step. No body is
padded: statistics, losses and weights are to the bit those of the steps without capture.

Everything but `CudaRecorder` runs on any device; `DirectRecorder` replays a step by calling it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pipeline import optim
from pipeline.config import Config
from pipeline.data.clips import Batch
from pipeline.data.training import Step
from pipeline.step import TrainStep

MOST = 64  # captured shapes; a batch of a further shape is trained on without capture
Work = Callable[[], object]


@dataclass
class Usage:
    """Number of steps that were taken and replayed, and the reason why others were not: for summary.json."""

    steps: int = 0
    replayed: int = 0
    reason: str | None = None

    def report(self) -> dict[str, Any]:
        """Return the entry of the summary."""
        return {"graphs": {"steps": self.steps, "replayed": self.replayed, "reason": self.reason}}


class Recorder(Protocol):
    """Records the work of a step."""

    def run(self, work: Work) -> None:
        """Do work that is not recorded, where recorded work may follow it."""

    def record(self, work: Work) -> Work:
        """Record work without doing it; return its replay."""


class DirectRecorder:
    """Replays by calling the work again: the same steps on the same memory, for any device."""

    def run(self, work: Work) -> None:
        """Do work."""
        work()

    def record(self, work: Work) -> Work:
        """Return the work itself."""
        return work


class CudaRecorder:
    """Captures work as a CUDA graph.

    All graphs share one pool of memory, because none runs beside another. Work that is not recorded runs on the stream
    of the captures too: autograd adds gradients up on the stream on which a parameter was used first.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, work: Work) -> None:
        """Do work on the stream of the captures."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def record(self, work: Work) -> Work:
        """Capture work. RuntimeError if an operation of it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        # The outer context brings the stream back where a capture fails, which torch.cuda.graph does not.
        # thread_local: threads that prefetch batches may allocate memory meanwhile.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self.device)),
            torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"),
        ):
            work()
        return graph.replay


def hindrance(config: Config, device: torch.device, ranks: int) -> str | None:
    """Return the reason why the steps of a run cannot be captured; None if they can."""
    norm, training = config.norm, config.train
    reasons = {
        "train.graphs is off": training.graphs == "off",
        "the training runs on a CPU": device.type != "cuda",
        f"{ranks} ranks exchange gradients in each step": ranks > 1,
        f"train.accumulate {training.accumulate} divides a step into micro-batches": training.accumulate > 1,
        "train.compile changes the kernels of a step": training.compile,
        f"norm.freeze-after {norm.freeze_after} changes the step during the training": (
            norm.kind == "frozen_bn" and norm.freeze_after > 0
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class OrdinarySteps:
    """Takes each step as it is."""

    def __init__(self, take: TrainStep, usage: Usage) -> None:
        self.take, self.usage = take, usage

    def __call__(self, step: Step) -> Batch:
        """Take a step, and return its last micro-batch."""
        self.usage.steps += 1
        return self.take(step.micro_batches, step.clips)


class CapturedSteps:
    """Takes the first step of each shape as it is, records the second one, and replays the record from then on.

    The first one warms up: libraries choose algorithms, the optimizer makes its state.

    Args:
        take: The step.
        recorder: Records it.
        usage: Counts.
    """

    def __init__(self, take: TrainStep, recorder: Recorder, usage: Usage) -> None:
        self.take, self.recorder, self.usage = take, recorder, usage
        self.buffers: dict[int, Batch] = {}
        self.replays: dict[tuple[int, int | None], Work] = {}
        self.warm: set[tuple[int, int | None]] = set()

    def __call__(self, step: Step) -> Batch:
        """Take a step of one micro-batch, and return this."""
        for batch in step.micro_batches:
            if replay := self._replay(batch, step):
                for buffer, part in zip(self.buffers[len(batch.label_N)], batch, strict=True):
                    buffer.copy_(part)
                replay()
                self.usage.replayed += 1
            else:
                self._run(batch, step)
            self.take.count()
        self.usage.steps += 1
        return batch

    def _run(self, batch: Batch, step: Step) -> None:
        """Take a step as it is."""
        self.recorder.run(lambda: self.take.work([batch], step.clips, step.bodies))
        self.warm.add((len(batch.label_N), step.bodies))

    def _replay(self, batch: Batch, step: Step) -> Work | None:
        """Return the replay for the shape of a batch, recorded if it is time; None: take the step as it is."""
        clips = len(batch.label_N)
        shape = clips, step.bodies
        if shape in self.replays or self.usage.reason or shape not in self.warm or step.bodies == 0:
            return self.replays.get(shape)
        if len(self.replays) >= MOST:
            return None
        buffer = self.buffers.setdefault(clips, Batch(*(part.clone() for part in batch)))
        try:
            with optim.capturable(self.take.optimizer):
                self.replays[shape] = self.recorder.record(lambda: self.take.work([buffer], step.clips, step.bodies))
        except RuntimeError as error:
            self.usage.reason = f"the step cannot be captured: {str(error).splitlines()[0]}"
            print(f"train.graphs: {self.usage.reason}; it is launched kernel by kernel", file=sys.stderr)
        return self.replays.get(shape)


def steps(
    config: Config, take: TrainStep, usage: Usage, recorder: Recorder | None = None
) -> OrdinarySteps | CapturedSteps:
    """Return what takes the steps of a training: captured where that is possible.

    Args:
        config: Settings of the run.
        take: The step.
        usage: Counts, and gets the reason where steps are not captured; on a GPU the reason is printed as well.
        recorder: Records the steps, on any device. None: as CUDA graphs.
    """
    device = take.device if recorder is None else torch.device("cuda")
    usage.reason = hindrance(config, device, take.ranks)
    if usage.reason is None:
        return CapturedSteps(take, recorder or CudaRecorder(take.device), usage)
    if take.device.type == "cuda" and config.train.graphs == "auto":
        print(f"train.graphs: steps are not captured, {usage.reason}", file=sys.stderr)
    return OrdinarySteps(take, usage)
