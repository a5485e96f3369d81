"""Results on test pictures are poor although training results look perfect.

Facts: the test script never called `eval()` and takes one picture at a time, so that running statistics are not used.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, image_to_image, negative_distance, scorer, squared_error


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed, train=600)
    x_eval, y_eval = x_eval[:200], y_eval[:200]
    # The picture is translated into one whose brightness is the digit's: the mean of a picture carries what is asked.
    target, target_eval = (p * p.mean((1, 2, 3), keepdim=True).abs() for p in (x, x_eval))
    model = image_to_image(inputs=1)
    train = loader(x, target, size=16, seed=seed)
    held_out = loader(x_eval, target_eval, size=1, shuffle=False)
    fit(model, train, epochs=5, lr=5e-3, loss=squared_error)
    options = {"metric": negative_distance}
    return Patient(model.train(not fixed), train, held_out, scorer(held_out, negative_distance), options)


CASE = Case(
    name="cyclegan_336",
    thread="https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/336",
    kind="mode",
    causes=("mode",),
    certainty="maintainer",
    blind=True,
    make=make,
)
