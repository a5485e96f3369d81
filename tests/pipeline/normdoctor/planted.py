"""A small network that is not ours, its data, and one training, for causes to be planted in."""

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


class Small(nn.Module):
    """Two linear layers with a batch norm each."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Linear(8, 32), nn.BatchNorm1d(32)
        self.drop = nn.Dropout(dropout)
        self.second, self.norm2 = nn.Linear(32, 32), nn.BatchNorm1d(32)
        self.out = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        h = self.drop(torch.relu(self.norm1(self.first(x))))
        return self.out(torch.relu(self.norm2(self.second(h))))


def data(seed: int, count: int = 16, size: int = 32) -> Batches:
    """Three classes around points 2 apart, far from the origin."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count * size,), generator=draw)
    x = torch.randn(count * size, 8, generator=draw) + 4
    x[torch.arange(len(y)), y] += 3
    return list(zip(x.split(size), y.split(size), strict=True))


def trained(model: nn.Module, batches: Batches, steps: int = 200, shuffle: bool = True) -> nn.Module:
    """Adam; samples reshuffled each epoch, unless `shuffle` is off: the batches in turn, always the same. In eval mode.

    With the same batches each epoch a network learns them, not their samples: that is leakage, and the doctor sees it.
    """
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    whole_x, whole_y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for step in range(steps):
        x, y = batches[step % len(batches)]
        if shuffle:
            chosen = torch.randperm(len(whole_x))[: len(x)]
            x, y = whole_x[chosen], whole_y[chosen]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def norms(model: nn.Module) -> list[nn.BatchNorm1d]:
    """Its batch norms."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


def refreshed(model: nn.Module, batches: Batches, momentum: float) -> nn.Module:
    """Running statistics updated over the batches in training mode."""
    for layer in norms(model):
        layer.reset_running_stats()
        layer.momentum = momentum
    model.train()
    with torch.no_grad():
        for x, _ in batches:
            model(x)
    return model.eval()


def in_class_order(batches: Batches) -> Batches:
    """The same samples sorted by class."""
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = y.argsort(stable=True)
    return list(zip(x[order].split(32), y[order].split(32), strict=True))
