"""A recurrent network with batch norms in its cell is fine in training and terrible in testing.

Facts: the original method keeps population statistics of each time step; here all steps share one set.
"""

from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer


class RecurrentNet(nn.Module):
    """A recurrent network over the rows of a picture, with norms of the input's and of the state's contribution."""

    def __init__(self, steps: int, hidden: int = 48) -> None:
        super().__init__()
        self.from_input, self.from_state = nn.Linear(8, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.input_norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(steps))
        self.state_norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(steps))
        self.head, self.hidden = nn.Linear(hidden, 10), hidden

    def forward(self, x_N1TF: Tensor) -> Tensor:
        state_NH = x_N1TF.new_zeros(len(x_N1TF), self.hidden)
        for step in range(x_N1TF.shape[2]):
            norm = step % len(self.input_norms)
            new_NH = self.input_norms[norm](self.from_input(x_N1TF[:, 0, step]))
            old_NH = self.state_norms[norm](self.from_state(state_NH))
            state_NH = state_NH + (new_NH + old_NH).tanh()
        return self.head(state_NH)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    model = RecurrentNet(steps=8 if fixed else 1)
    fit(model, train, epochs=6)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="olavhn_bnlstm_7",
    thread="https://github.com/OlavHN/bnlstm/issues/7",
    kind="reuse",
    causes=("reuse",),
    certainty="reporter",
    blind=True,
    make=make,
)
