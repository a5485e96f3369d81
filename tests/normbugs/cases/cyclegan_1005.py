"""A generator with batch norms gives strange results in eval mode, and good ones without it.

Facts: the layers are not shared, as the reporter suspected. The default batch size is 1, so that training normalizes
each picture by itself, which no running statistics can replace.
"""

from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import fit, image_to_image, negative_distance, scorer, squared_error


def make(seed: int, fixed: bool) -> Patient:
    x, mask, x_eval, mask_eval = shapes(seed)
    model = image_to_image(norm=nn.InstanceNorm2d if fixed else nn.BatchNorm2d)
    train = loader(x, mask[:, None].float(), size=1, seed=seed)
    held_out = loader(x_eval, mask_eval[:, None].float(), size=1, shuffle=False)
    fit(model, train, epochs=3, loss=squared_error)
    options = {"metric": negative_distance}
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_distance), options)


CASE = Case(
    name="cyclegan_1005",
    thread="https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/1005",
    kind="small batches",
    causes=("small",),
    certainty="rebuilt",
    blind=True,
    make=make,
)
