"""Say what a training left behind: a normalization gap with its likely cause, and before it, statistics that lag.

The settings are the evidence; the doctor proves a cause.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.norms import NORMS

if TYPE_CHECKING:
    from pipeline.config import Config

INITIAL = 0.05  # share of the initial values in the running statistics, from which they count as lagging
FEW_CLIPS = 16  # clips per batch statistic, below which it is noisy
CONFIDENCE = 1.96  # standard errors on each side of a 95 % interval


def updates(config: Config, clips: int) -> int:
    """Return how often a training over `clips` clips updates the running statistics of the trunk."""
    calls = 2 if config.norm.persons == "loop" else 1  # one per body
    return config.train.epochs * -(-clips // config.train.batch_size) * config.train.accumulate * calls


def initial_share(config: Config, clips: int) -> float:
    """Return the share of their initial values that the running statistics keep; 0 where they are replaced or absent.

    Args:
        config: The settings.
        clips: Number of training clips.
    """
    kind = NORMS[config.norm.kind]
    if not kind.running_statistics or config.norm.kind == "frozen_bn" or config.norm.recalibrate != "never":
        return 0.0
    return float((1 - config.norm.momentum) ** updates(config, clips))


def lag_note(config: Config, clips: int) -> str:
    """Return a warning that the running statistics will lag at the end of the training; empty if they will not."""
    share = initial_share(config, clips)
    if share < INITIAL:
        return ""
    return (
        f"batch statistics: after {updates(config, clips)} updates at norm.momentum {config.norm.momentum:g} the "
        f"running statistics keep {100 * share:.0f} % of their initial values, so evaluation will be worse than "
        "training: raise norm.momentum, train longer, or set norm.recalibrate final"
    )


def gap_note(config: Config, summary: dict[str, Any]) -> str:
    """Return one line about a normalization gap that is larger than its interval; empty if there is none.

    The interval takes the probe's clips as independent and both accuracies as unrelated, so it is rather too wide.

    Args:
        config: The settings.
        summary: `accuracies` and `clips` of the run, as in summary.json.
    """
    a, b = (summary["accuracies"][name] for name in "AB")
    clips = min(summary["clips"]["train"], 2000)  # evaluation.accuracies.TRAIN_PROBE
    margin = CONFIDENCE * math.sqrt((a * (1 - a) + b * (1 - b)) / max(clips, 1))
    if b - a <= max(margin, 1 / max(clips, 1)):
        return ""
    return (
        f"running statistics cost {100 * (b - a):.1f} ± {100 * margin:.1f} points (B - A on {clips} training clips): "
        f"{likely_cause(config, summary['clips']['train'])}."
    )


def likely_cause(config: Config, clips: int) -> str:
    """Return the causes that the settings point to."""
    kind, share = NORMS[config.norm.kind], initial_share(config, clips)
    causes = []
    if config.norm.persons == "loop" and kind.batch_statistics:
        causes.append("the body loop, which normalizes present and absent bodies separately (norm.persons loop)")
    if share >= INITIAL:
        causes.append(
            f"their lag, with {100 * share:.0f} % of their initial values left after {updates(config, clips)} updates "
            f"at norm.momentum {config.norm.momentum:g}"
        )
    if causes:
        return f"likely {', and '.join(causes)}"
    per_batch = config.train.batch_size // config.train.accumulate // (1 if config.norm.sync else config.nproc)
    if per_batch < FEW_CLIPS and kind.batch_statistics:
        return f"likely batches of {per_batch} clips are too small for their statistics"
    if config.norm.input != "none" and not config.norm.input.endswith("masked"):
        return f"likely absent bodies in the statistics of the coordinates (norm.input {config.norm.input})"
    return "the settings do not tell why"
