"""Pages about runs: templates, figures and the values that they draw.

`runs` builds the page over several run folders, `diagnosis` the doctor's page; `tuning.page` adds searches and studies.
The layout, the tables and the skeleton player are those of `preprocessing.pages`.
"""

from functools import partial
from pathlib import Path

from preprocessing.pages import render as _render

# The doctor's templates by their folder: its package would import torch.
render = partial(_render, package="pipeline.pages", folder=Path(__file__).parents[1] / "normdoctor" / "templates")
"""Fill a template of this package, see `preprocessing.pages.render`."""

TERMS = (
    ("A", "Accuracy on training clips with running statistics, the mode in which a model is deployed."),
    ("B", "Accuracy on the same training clips with the statistics of their own batch, as in training."),
    ("C", "Accuracy on evaluation clips with running statistics: what a user of the model sees."),
    ("D", "Accuracy on evaluation clips with the statistics of their own batch."),
    ("Normalization gap", "B − A: what running statistics cost on clips that the model was trained on."),
    ("Generalization gap", "B − D: what new clips cost when every batch is normalized by its own statistics."),
)
LEGEND = (
    "A: training clips, running statistics. B: the same clips, statistics of their own batch. C: evaluation clips, "
    "running statistics. D: evaluation clips, batch statistics. Normalization gap B − A, generalization gap B − D."
)

__all__ = ["LEGEND", "TERMS", "render"]
