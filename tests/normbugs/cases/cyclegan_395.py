"""Instance norms with running statistics behave differently in eval mode.

Facts: training normalizes each picture by itself, eval mode by an average of all pictures. The maintainers turned
`track_running_stats` off.
"""

from functools import partial

from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import fit, image_to_image, negative_distance, scorer, squared_error


def make(seed: int, fixed: bool) -> Patient:
    x, mask, x_eval, mask_eval = shapes(seed)
    norm = partial(nn.InstanceNorm2d, affine=True, track_running_stats=not fixed)
    model = image_to_image(norm=norm)
    train = loader(x, mask[:, None].float(), size=4, seed=seed)
    held_out = loader(x_eval, mask_eval[:, None].float(), size=1, shuffle=False)
    fit(model, train, epochs=5, loss=squared_error)
    options = {"metric": negative_distance}
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_distance), options)


CASE = Case(
    name="cyclegan_395",
    thread="https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/395",
    kind="instance norm",
    causes=("instance",),
    certainty="maintainer",
    blind=True,
    make=make,
)
