"""Checks that compare scores, and those of how the training batches are made up."""

from __future__ import annotations

import math

from .collector import Seen
from .evidence import Evidence, Pass
from .finding import OF_THE_CHECK, RECOMPUTE, Advice, Finding, listed
from .intervals import MIN_DIFFERENCE, STANDARD_ERRORS, score_scale
from .measure import LARGER
from .moments import SHIFT_LIMIT, mean_shift
from .sites import Site

# Variance of batch means over that of shuffled batches, median over channels: the least that counts, and how many
# standard errors of its logarithm (2.33: one in 100, if all channels varied as one).
CORRELATED, CORRELATED_ERRORS = 2.0, 2.33
# Batch means that differ by less than a thousandth of a standard deviation are rounding errors.
ROUNDING_VARIANCE = 1e-6
# Gap that a user notices: five points of accuracy, or of the metric's scale.
NOTICED = 0.05
# Values per statistic from which a mean and a variance say something.
FEW_VALUES = 4
LARGER_BATCHES = "larger batches, statistics over all ranks (SyncBatchNorm), or a norm of single samples (GroupNorm)"


def mode(evidence: Evidence) -> Finding | None:
    """Evaluation in training mode, or an evaluation that changes buffers."""
    if evidence.stuck_modules:
        text = f"eval() leaves {listed(evidence.stuck_modules)} in training mode"
    elif evidence.changed_buffers:
        text = f"an evaluation pass changes {listed(evidence.changed_buffers)}"
    elif evidence.training_modules:
        text = f"the model was passed in training mode: {listed(evidence.training_modules)}"
    else:
        return None
    if "found_A" in evidence.score:
        found = evidence.shown(evidence.mean("found_A"))
        text += f" (as it is, it scores {found} on the training samples, and its output depends on the batch)"
    if evidence.failure:
        text += f"; as it is, evaluation fails: {evidence.failure}"
    return Finding(text, fails=bool(evidence.failure))


def correlated(evidence: Evidence) -> Finding | None:
    """Training batches that are not random samples (sorted by class, windows of one recording)."""
    given, train = evidence.given, evidence.train
    found = {f"means at {site[0]}": between_batches(given, train, site) for site in given.batches}
    found["shares of the labels"] = _between_labels(evidence)
    beyond = {what: between[0] for what, between in found.items() if between and between[0] > between[1]}
    if not beyond:
        return None
    what = max(beyond, key=lambda name: beyond[name])
    return Finding(
        f"the loader's batches are not random samples: the variance of their {what} is {beyond[what]:.1f} times that "
        "of shuffled batches",
        Advice(_now_if_correlated(evidence), "reshuffle the training samples each epoch"),
    )


def _between_labels(evidence: Evidence) -> tuple[float, float] | None:
    """Return how much the shares of labels vary between the loader's own batches, and the limit of it."""
    shares = evidence.shares
    return shares and (shares.ratio, max(CORRELATED, math.exp(CORRELATED_ERRORS * math.sqrt(2 / shares.degrees))))


def _now_if_correlated(evidence: Evidence) -> str:
    """A network that reads its batch needs such batches: fresh statistics over shuffled ones do not help it."""
    if evidence.own_batches is None:
        return RECOMPUTE
    return "evaluate in batches made up like those of training, batch norms in training mode: nothing else fits it"


def between_batches(given: Seen, train: Seen, site: Site) -> tuple[float, float] | None:
    """Compare how much the means of the loader's own batches and of shuffled batches vary.

    The logarithm of a variance of n means has variance 2 / (n - 1): with few batches, chance alone goes far.

    Returns:
        The ratio of the variances (median over channels), and its limit; None where there are too few batches.
    """
    own, shuffled = given.batches[site], train.batches.get(site)
    whole = train.population.get(site)
    passes = given.passes[site], train.passes[site]
    if shuffled is None or whole is None or min(passes) < 2:
        return None
    error = math.sqrt(sum(2 / (n - 1) for n in passes))
    between = own.variance_C + (own.mean_C - whole.mean_C).square()
    expected = shuffled.variance_C.clamp(min=ROUNDING_VARIANCE * whole.variance_C + 1e-12)
    return (between / expected).median().item(), max(CORRELATED, math.exp(CORRELATED_ERRORS * error))


def leakage(evidence: Evidence) -> Finding | None:
    """A network that reads its batch: the loader's own batches score better than the same samples shuffled."""
    given, mixed = evidence.score.get("given_B"), evidence.score.get("mixed")
    if given is None or mixed is None or len(given) != len(mixed):
        return None
    gain = evidence.difference("mixed", "given_B")
    if not gain.significant:
        return None
    return Finding(
        f"by batch statistics the loader's own batches score {evidence.points(gain.mean)} more than the same samples "
        "shuffled: the network reads from the batch what it should read from the sample",
        Advice(
            next_training="reshuffle the training samples each epoch, normalize over all ranks (SyncBatchNorm), or use "
            "a norm of single samples (GroupNorm)"
        ),
        gain=gain,
    )


def lone(evidence: Evidence) -> Finding | None:
    """A batch of one sample left over."""
    if evidence.sizes[1] == 0 or evidence.size == 1 or not evidence.layers:
        return None
    text = f"{evidence.sizes[1]} training batch(es) of one sample, the others of {evidence.size}"
    later = "set drop_last=True in the training loader, or use batches whose sizes differ by one at most"
    if evidence.rejects_one:
        text += f": torch rejects them in training mode ({evidence.rejects_one} sees one value per channel)"
        # A gap that a user would notice is what the user asks about; this model was trained without such batches.
        noticed = evidence.gap >= NOTICED * score_scale(evidence.score["A"])
        return Finding(text, Advice(next_training=later), remedy=None, fails=not noticed)
    # Statistics that one such batch cannot have left have another cause.
    remedy = OF_THE_CHECK if evidence.costs_as_much("lone") else None
    return Finding(
        f"{text}: each updates the running statistics with the same weight",
        Advice(RECOMPUTE, later),
        remedy,
        is_fact=evidence.costs and remedy is not None,
    )


def small(evidence: Evidence) -> Finding | None:
    """Too few samples per training batch: its statistics are noise, and the score depends on its size."""
    large = evidence.score.get("large")
    if evidence.size == 1 and evidence.has_gap or large is None or len(large) != len(evidence.score["B"]):
        return _alone(evidence)
    gain = evidence.difference("B", "large")
    if abs(gain.mean) <= gain.threshold:
        return None
    least = min(evidence.values_per_statistic(site) for site in evidence.train.batches)
    return Finding(
        f"batches of {evidence.size}, at least {least:.0f} values per statistic: the same samples score "
        f"{evidence.points(abs(gain.mean))} {'more' if gain.mean > 0 else 'less'} by batch statistics in batches of "
        f"{LARGER * evidence.size}",
        Advice(next_training=LARGER_BATCHES),
        # Noise that batch statistics alone suffer from costs nothing in evaluation. Two or three values per statistic
        # leave little of a sample in any network.
        is_fact=least < FEW_VALUES or evidence.costs or evidence.difference("A", "large").significant,
        gain=gain,
    )


def _alone(evidence: Evidence) -> Finding | None:
    """Batches of one: training normalizes each sample by its own statistics."""
    if evidence.size > 1 or not evidence.layers or not evidence.has_gap:
        return None
    text = "batches of one: training normalizes each sample by its own statistics, evaluation by those of all samples"
    return Finding(text, remedy="each_sample")


def shift(evidence: Evidence) -> Finding | None:
    """Evaluation samples whose layer inputs are distributed differently from those of the training samples."""
    if evidence.held_out is None or "D" not in evidence.score:
        return None
    train, held = evidence.train.layers(), evidence.held_out.layers()
    shifts = {name: mean_shift(train[name], held[name]) for name in train if name in held}
    if not shifts:
        return None
    name = max(shifts, key=lambda n: shifts[n])
    gain = evidence.difference("C", "D")
    if shifts[name] <= SHIFT_LIMIT and not gain.significant:
        return None
    text = f"the inputs of {name} are shifted by {shifts[name]:.2f} standard deviations on the evaluation samples"
    for division, groups in evidence.groups.items():
        if len(groups) > 1:
            far = max(groups, key=lambda g: groups[g].shift)
            text += f"; farthest {division} {far}: {groups[far].shift:.2f}, score {evidence.shown(groups[far].score)}"
    return Finding(text, gain=gain)


def inputs(evidence: Evidence) -> Finding | None:
    """Raw evaluation inputs on another scale, or of another shape, than training inputs."""
    if not evidence.inputs or _as_good_on_eval(evidence):
        return None
    return Finding(evidence.inputs, Advice("give the evaluation inputs the deterministic transforms of training"))


def _as_good_on_eval(evidence: Evidence) -> bool:
    """Return whether evaluation samples score as well as training samples: noise in training alone costs nothing."""
    tolerance = MIN_DIFFERENCE * score_scale(evidence.score["A"])
    return "C" in evidence.score and evidence.mean("C") > evidence.mean("A") - tolerance


def random(evidence: Evidence) -> Finding | None:
    """Outputs that change from pass to pass in eval mode."""
    if not evidence.random_in_eval:
        return None
    return Finding(
        evidence.random_in_eval,
        Advice(
            "make dropout follow the mode: nn.Dropout as a submodule, or F.dropout(x, p, self.training)",
            "",
        ),
    )


def overfit(evidence: Evidence) -> Finding | None:
    """A difference between B and D, in which normalization has no part: generalization."""
    if "D" not in evidence.score or not len(evidence.score["D"]) or evidence.incomparable:
        return None
    equal: Pass = "fair" if "fair" in evidence.score else "B"
    b, d = evidence.score[equal].double(), evidence.score["D"].double()
    loss = (b.mean() - d.mean()).item()
    # Other samples: they cannot be paired.
    error = math.hypot(evidence.standard_error(equal), evidence.standard_error("D"))
    if not loss > max(MIN_DIFFERENCE * score_scale(b), STANDARD_ERRORS * error):
        return None
    return Finding(
        f"{evidence.points(loss)} between training and evaluation samples remain with the same kind of statistics",
        Advice(next_training="more or more varied data, augmentation, a smaller network, or weight decay"),
    )
