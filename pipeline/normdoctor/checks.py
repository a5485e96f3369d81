"""CHECKS and REST: name -> record of a check.

A finding becomes a cause only when its remedy, tried on the same samples, recovers score. Otherwise it is a suspicion
where the check states a fact, and is dropped where it does not. To add a check: write its function in `layer_checks` or
`score_checks`, and add its record here.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import layer_checks, score_checks
from .evidence import Evidence
from .finding import Check, Fired

# In order of precedence: of two checks that one remedy proves, the earlier is the more specific, and is the cause.
CHECKS: dict[str, Check] = {
    "mode": Check(score_checks.mode, "Evaluation in training mode, or an evaluation that changes buffers.", "eval"),
    "precision": Check(
        layer_checks.precision,
        "Statistics in half precision, non-finite activations, variances that eps drowns.",
        "joint",
        # Fresh statistics follow what eps did in the layers above.
        supersedes=("stale", "foreign"),
    ),
    "buffers": Check(layer_checks.buffers, "Running statistics that are impossible, or were never trained.", "joint"),
    "averaging": Check(
        layer_checks.averaging, "Averaged or copied weights with the buffers of another network.", "joint"
    ),
    "ranks": Check(
        layer_checks.ranks,
        "Ranks that keep statistics of their own.",
        "ranks",
        # Fresh statistics only mix the ranks in another proportion.
        supersedes=("stale", "foreign"),
    ),
    "correlated": Check(
        score_checks.correlated,
        "Training batches that are not random samples (sorted by class, windows of one recording).",
        "joint",
    ),
    "leakage": Check(
        score_checks.leakage,
        "A network that reads its batch: the loader's own batches score better than the same samples shuffled.",
    ),
    "updates": Check(
        layer_checks.updates,
        "More updates of the statistics than optimizer steps (activation checkpointing, gradient accumulation).",
        "joint",
    ),
    "lone": Check(score_checks.lone, "A batch of one sample left over.", "joint"),
    "dropout": Check(
        layer_checks.dropout,
        "Dropout in front of a batch norm: training sees another variance than evaluation (Li et al. 2019).",
        "joint",
    ),
    "instance": Check(
        layer_checks.instance,
        "Instance norms with running statistics, which training does not use.",
        "own",
        is_fact=False,
        supersedes=("stale", "foreign"),
    ),
    "stale": Check(
        layer_checks.stale,
        "Running statistics that lag behind the weights, or remember too few batches.",
        "joint",
        is_fact=False,
    ),
    "foreign": Check(
        layer_checks.foreign,
        "Running statistics that do not lag, and yet belong to other data or other weights.",
        "joint",
        is_fact=False,
    ),
    "reuse": Check(
        layer_checks.reuse,
        "One layer called several times per forward pass, on different distributions.",
        "per_call",
        is_fact=False,
        # Fresh statistics only mix the calls in another proportion.
        supersedes=("stale", "foreign"),
    ),
    "padding": Check(
        layer_checks.padding,
        "Absent bodies or padding counted in the statistics, which the network does not need there.",
        "masked",
        is_fact=False,
    ),
    "small": Check(
        score_checks.small,
        "Too few samples per training batch: its statistics are noise, and the score depends on its size.",
    ),
    "decay": Check(layer_checks.decay, "Weight decay on the scales of batch norms, which shrinks them to zero."),
}

# What else lies between training and evaluation samples, where normalization is not to blame.
REST: dict[str, Check] = {
    "inputs": Check(score_checks.inputs, "Raw evaluation inputs on another scale, or of another shape."),
    "random": Check(score_checks.random, "Outputs that are random in eval mode."),
    "shift": Check(
        score_checks.shift,
        "Evaluation samples whose layer inputs are distributed differently from those of the training samples.",
        "target",
    ),
    "overfit": Check(
        score_checks.overfit, "A difference between B and D, in which normalization has no part: generalization."
    ),
}


def fired(checks: Mapping[str, Check], evidence: Evidence) -> list[Fired]:
    """Run checks and return those that found something, in their order."""
    found = ((name, check, check.run(evidence)) for name, check in checks.items())
    return [Fired(name, check, finding) for name, check, finding in found if finding]
