"""Whether gradients are finite, told without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing import exits


class NonFiniteLoss(RuntimeError):
    """The loss of a step was not finite on some rank; no rank has taken the step. `clips` names the batch."""

    exit_code = exits.NON_FINITE

    def __init__(self, epoch: int, clips: list[str]) -> None:
        shown = ", ".join(clips[:3]) + (f" and {len(clips) - 3} more" if len(clips) > 3 else "")
        super().__init__(f"epoch {epoch}: the loss is not finite on clips {shown}; no step taken. Lower optim.lr")
        self.epoch, self.clips = epoch, clips


class Watch:
    """Watches one epoch's gradients: from the first that are not finite on no step is taken, and their clips are named.

    A GPU works behind the program that launches its kernels, and runs out of work after each question that the program
    waits for. So the optimizer learns on the device whether it may step, and the program reads what became of a batch
    when it has launched the next.
    """

    def __init__(self, epoch: int, optimizer: torch.optim.Optimizer, names: np.ndarray, device: torch.device) -> None:
        self.epoch, self.optimizer, self.names = epoch, optimizer, names
        self.broken = torch.zeros((), device=device)
        self.last: _Answer | None = None

    def see(self, model: nn.Module, index_N: Tensor) -> None:
        """Look at the gradients after the clips `index_N`. NonFiniteLoss for those of the batch before.

        A loss that is not finite makes gradients that are not, and those of several ranks are sums over all of them:
        every rank sees the same without a further exchange.
        """
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        self.broken = torch.maximum(self.broken, (~torch.isfinite(norm)).float())
        # What a fused optimizer of torch steps by, if it steps at all (torch.amp.GradScaler tells it the same way).
        self.optimizer.found_inf = self.broken  # type: ignore[attr-defined]
        self.read()
        coming = self.broken.to("cpu", non_blocking=True)
        there = None
        if self.broken.is_cuda:
            there = torch.cuda.Event()
            there.record()
        self.last = _Answer(coming, there, index_N)

    def read(self) -> None:
        """NonFiniteLoss if the batch seen last had gradients that are not finite; waits for no more than the answer."""
        if self.last is None:
            return
        if self.last.there is not None:
            self.last.there.synchronize()
        if self.last.broken:
            raise NonFiniteLoss(self.epoch, [str(name) for name in self.names[self.last.index_N.cpu().numpy()]])
        self.last = None


class _Answer(NamedTuple):
    """On its way from the device since `there` was recorded."""

    broken: Tensor
    there: torch.cuda.Event | None
    index_N: Tensor
