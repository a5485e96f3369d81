"""Depth maps are poor at inference unless batch norms are left in training mode.

Facts: inference forgot the normalization of the pictures. Statistics of the batch hide that; running statistics do not.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import fit, image_to_image, negative_distance, scorer, squared_error


def make(seed: int, fixed: bool) -> Patient:
    x, mask, x_eval, mask_eval = shapes(seed)
    raw, raw_eval = 128 + 40 * x, 128 + 40 * x_eval  # as the camera gives them
    mean, std = raw.mean(), raw.std()
    x = (raw - mean) / std
    x_eval = (raw_eval - mean) / std if fixed else raw_eval
    model = image_to_image()
    train = loader(x, mask[:, None].float(), size=16, seed=seed)
    held_out = loader(x_eval, mask_eval[:, None].float(), size=20, shuffle=False)
    fit(model, train, epochs=8, decay=True, loss=squared_error)
    options = {"metric": negative_distance}
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_distance), options)


CASE = Case(
    name="tf_models_7604",
    thread="https://github.com/tensorflow/models/issues/7604",
    kind="inputs",
    causes=("inputs",),
    certainty="reporter",
    blind=True,
    make=make,
)
