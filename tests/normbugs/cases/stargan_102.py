"""Translated pictures of a pretrained generator are ugly in eval mode, and good without it.

Facts: the generator's instance norms track running statistics, so that eval mode normalizes all pictures alike; a user
removes eval().
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, negative_distance, scorer


class Generator(nn.Module):
    """Translates a picture (N, 1, H, W) to a domain (N,), which goes in as extra channels."""

    def __init__(self, track: bool, channels: int = 16) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> list[nn.Module]:
            norm = nn.InstanceNorm2d(outputs, affine=True, track_running_stats=track)
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm, nn.ReLU()]

        self.main = nn.Sequential(*block(5, channels), *block(channels, channels), nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Tensor, domain_N: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(domain_N, 4).float()[..., None, None]
        return self.main(torch.cat([x, one_hot.expand(-1, -1, *x.shape[2:])], 1)).tanh()


def forward(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """Apply the generator to pictures and their target domains."""
    return model(batch[0], batch[1])


def pairs(x_N1HW: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures in any light, a domain, and the plain picture in that domain's style (brightness, inversion)."""
    draw = torch.Generator().manual_seed(seed)
    domain_N = torch.randint(4, (len(x_N1HW),), generator=draw)
    gain = (0.7 * torch.randn(len(x_N1HW), 1, 1, 1, generator=draw)).exp()
    offset = 1.5 * torch.randn(len(x_N1HW), 1, 1, 1, generator=draw)
    style = torch.tensor([[0.8, 0.0], [0.5, 0.3], [-0.8, 0.0], [-0.5, -0.3]])[domain_N][..., None, None]
    return gain * x_N1HW + offset, domain_N, style[:, :1] * x_N1HW + style[:, 1:]


def make(seed: int, fixed: bool) -> Patient:
    x, _, x_eval, _ = digits(seed, train=600)
    train = loader(*pairs(x, seed), size=16, seed=seed)
    held_out = loader(*pairs(x_eval[:300], seed + 100), size=16, shuffle=False)
    model = Generator(track=not fixed)
    fit(
        model, train, epochs=5, lr=5e-3, forward=forward,
        loss=lambda output, batch: -negative_distance(output, batch).mean(),
    )  # fmt: skip
    options = {"forward": forward, "metric": negative_distance}
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_distance, forward), options)


CASE = Case(
    name="stargan_102",
    thread="https://github.com/yunjey/stargan/issues/102",
    kind="instance norm",
    causes=("instance",),
    certainty="reporter",
    blind=True,
    make=make,
)
