"""The non-finite guard: find gradients that are not finite without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing import exits


class NonFiniteLoss(exits.Fault):
    """A gradient of a step is not finite; no rank has taken the step. `clips` names the micro-batch of all ranks."""

    exit_code = exits.NON_FINITE

    def __init__(self, epoch: int, clips: list[str]) -> None:
        shown = ", ".join(clips[:3]) + (f" and {len(clips) - 3} more" if len(clips) > 3 else "")
        super().__init__(f"epoch {epoch}: the loss is not finite on clips {shown}; no step was taken. Lower optim.lr")
        self.epoch, self.clips = epoch, clips


class NonFiniteWeights(exits.Fault):
    """The weights after an epoch are not finite; no checkpoint was made of them."""

    exit_code = exits.NON_FINITE

    def __init__(self, epoch: int, fault: str) -> None:
        super().__init__(f"epoch {epoch}: {fault}; the checkpoint before is kept. Lower optim.lr")


class GradientCheck:
    """Keeps the optimizer from stepping once a gradient was non-finite: on the device, without the host.

    Args:
        model: The network whose gradients are checked.
        optimizer: Its optimizer.
        device: The device of both.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.model = model
        self.broken = torch.zeros((), device=device)
        """1 once a gradient was non-finite, on the device."""
        self.norm = torch.zeros((), device=device)
        """Norm of the gradients checked last, on the device."""
        # A fused optimizer of torch skips its step where this is 1 (torch.amp.GradScaler uses the same attribute).
        optimizer.found_inf = self.broken  # type: ignore[attr-defined]

    def check(self) -> None:
        """Check the gradients after a backward pass.

        A non-finite loss makes non-finite gradients, and those of several ranks are sums over all of them: every rank
        finds the same without a further exchange.
        """
        self.norm.copy_(nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        self.broken.copy_(torch.maximum(self.broken, (~torch.isfinite(self.norm)).float()))


class NonFiniteGuard:
    """Guards one epoch: once a gradient is non-finite, no further optimizer step is taken, and the clips are named.

    GPU kernels run asynchronously, and each synchronization with the host leaves the GPU idle. So the optimizer reads
    on the device whether it may step, and the host reads the answer for a batch after it has launched the next.

    Args:
        epoch: Number of the epoch.
        broken: `GradientCheck.broken`.
        names: Names of the clips of the data file.
    """

    def __init__(self, epoch: int, broken: Tensor, names: np.ndarray) -> None:
        self.epoch, self.broken, self.names = epoch, broken, names
        self.last: _Answer | None = None

    def see(self, index_N: Tensor) -> None:
        """Ask for the answer of the check after the clips `index_N`. NonFiniteLoss for those of the batch before."""
        self.read()
        coming = self.broken.to("cpu", non_blocking=True, copy=True)
        there = None
        if self.broken.is_cuda:
            there = torch.cuda.Event()
            there.record()
        self.last = _Answer(coming, there, index_N)

    def read(self) -> None:
        """NonFiniteLoss if the batch seen last had non-finite gradients; waits for the answer and nothing else."""
        if self.last is None:
            return
        if self.last.there is not None:
            self.last.there.synchronize()
        if self.last.broken:
            raise NonFiniteLoss(self.epoch, [str(name) for name in self.names[self.last.index_N.cpu().numpy()]])
        self.last = None


class _Answer(NamedTuple):
    """The answer for the clips `index_N`: `broken` has arrived from the device once the event `there` has completed."""

    broken: Tensor
    there: torch.cuda.Event | None
    index_N: Tensor
