"""A narrow subnetwork of a supernet is evaluated with the supernet's running statistics.

Facts: before each evaluation of a subnetwork, its statistics are to be recomputed on training pictures.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import adapt, scorer


class DynamicConv(nn.Module):
    """A convolution and a batch norm, of which the first channels can be used alone."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.active = outputs

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight[: self.active, : x.shape[1]]
        x = functional.conv2d(x, weight, None, self.conv.stride, self.conv.padding)
        norm, n = self.bn, self.active
        return functional.batch_norm(
            x, norm.running_mean[:n], norm.running_var[:n], norm.weight[:n], norm.bias[:n], self.training, 0.1, norm.eps
        ).relu()


class Supernet(nn.Module):
    """A network of changeable width."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DynamicConv(1, channels), DynamicConv(channels, channels, 2)])
        self.layers.append(DynamicConv(channels, channels, 2))
        self.head, self.channels = nn.Linear(4 * channels, 10), channels

    def set_width(self, share: float) -> None:
        """Use a share of all channels."""
        for layer in self.layers:
            layer.active = int(share * self.channels)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        x = x.flatten(2).movedim(1, 2).flatten(1)
        weight = self.head.weight.view(10, 4, -1)[..., : x.shape[1] // 4].flatten(1)
        return functional.linear(x, weight, self.head.bias)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    model = Supernet()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for x_batch, y_batch in train:
            optimizer.zero_grad()
            for share in (0.125, 0.5, 1.0):
                model.set_width(share)
                functional.cross_entropy(model(x_batch), y_batch).backward()
            optimizer.step()
    model.set_width(0.125)
    if fixed:
        adapt(model, train)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="once_for_all_15",
    thread="https://github.com/mit-han-lab/once-for-all/issues/15",
    kind="foreign",
    causes=("foreign",),
    certainty="maintainer",
    blind=True,
    make=make,
)
