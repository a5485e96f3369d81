"""One optimizer step: forward, backward, gradient check, clipping, optimizer and average."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from pipeline import distributed, network, optim
from pipeline.config import Config
from pipeline.data.clips import Batch
from pipeline.nonfinite import GradientCheck


class TrainStep:
    """Trains on one batch after another.

    `work` reads its inputs from tensors, changes tensors in place and never waits for the device, given the number of
    bodies. So its kernels can be captured and replayed (`graphs`). `count` has the rest, which the host does.

    Args:
        config: Settings of the run.
        parallel: The network as it is called, `network.for_training`.
        model: The network itself.
        optimizer: Its optimizer.
        average: Its averaged weights, if there are any.
        weight_K: Weights of the classes in the loss, or None.
        device: The device of all of them.
    """

    def __init__(
        self,
        config: Config,
        parallel: nn.Module,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
        weight_K: Tensor | None,
        device: torch.device,
    ) -> None:
        self.config, self.parallel, self.model, self.device = config, parallel, model, device
        self.optimizer, self.average, self.weight_K = optimizer, average, weight_K
        self.ranks = distributed.world_size()
        self.gradients = GradientCheck(model, optimizer, device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        """Right answers and the sum of the losses, over the clips of this rank."""
        self.norms = torch.zeros((), dtype=torch.float64, device=device)
        """Sum over the steps of the norm of the gradient before clipping."""
        self.steps = 0
        self.is_averaged = average is not None and bool(average.n_averaged)

    def begin_epoch(self) -> None:
        """Set the sums to zero."""
        self.sums.zero_()
        self.norms.zero_()
        self.steps = 0

    def __call__(self, micro_batches: Iterable[Batch], clips: int) -> Batch:
        """Take a step, and return its last micro-batch.

        Args:
            micro_batches: This rank's share, in the parts that gradients are accumulated over; not empty.
            clips: Clips of the step over all ranks.
        """
        batch = self.work(micro_batches, clips)
        self.count()
        return batch

    def work(self, micro_batches: Iterable[Batch], clips: int, bodies: int | None = None) -> Batch:
        """Do what the device does in a step.

        Args:
            micro_batches: As above.
            clips: As above.
            bodies: Number of bodies that are present in the one micro-batch; None: the device is asked.
        """
        self.optimizer.zero_grad(set_to_none=True)
        for batch in micro_batches:
            self._accumulate(batch, clips, bodies)
        self.norms += self.gradients.norm
        optim.clip_gradients(self.model, self.config.optim, self.config.norm.clip)
        self.optimizer.step()
        if self.average is not None:
            optim.move(self.average, self.model, first=not self.is_averaged)
        return batch

    def count(self) -> None:
        """Do what the host does in a step."""
        self.steps += 1
        if self.average is not None:
            self.average.n_averaged += 1
            self.is_averaged = True

    def _accumulate(self, batch: Batch, clips: int, bodies: int | None) -> None:
        """Add the gradients of a micro-batch, and check them."""
        given = (batch.x_NCTVM, batch.present_NMT) if bodies is None else (batch.x_NCTVM, batch.present_NMT, bodies)
        with network.autocast(self.config, self.device):
            logits = self.parallel(*given).float()
        # Ranks may hold different numbers of clips: the sum over the global batch size, times the ranks that DDP
        # averages over, is exactly the gradient of one big batch.
        smoothing = self.config.optim.label_smoothing
        loss = functional.cross_entropy(
            logits, batch.label_N, self.weight_K, reduction="sum", label_smoothing=smoothing
        )
        loss = loss * self.ranks / clips
        distributed.beat()
        loss.backward()
        right = (logits.argmax(1) == batch.label_N).sum()
        self.sums += torch.stack([right, loss.detach() / self.ranks * clips])
        self.gradients.check()
