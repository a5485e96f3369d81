"""metric_names.py: one name per metric, in every report."""

from pipeline.tracking import metric_names
from tuning.attempt import epoch_metrics

EPOCH = {
    "epoch": 1,
    "train": {"top1": 0.5, "loss": 1.5},
    "accuracies": {"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4},
    "gap": {"normalization": 0.1, "generalization": -0.2},
    "norm": {"norms.0": {"mean_shift": 0.5}},
    "reused": ["norms.0"],
}
SUMMARY = {
    "train": {"top1": 0.5},
    "val": {"top1": 0.3},
    "test": {"top1": 0.75, "loss": 0.625},
    "accuracies": {"A": 0.1, "C": 0.75},
    "gap": {"normalization": 0.25},
    "eval": "test",
    "confusion": [[3, 1], [0, 4]],
    "config": {"nproc": 1},
}
ANSWER = {
    "verdict": "norms.0 is called twice.",
    "judged": "test",
    "accuracies": {"A": 0.1, "B": 0.9},
    "gap": {"normalization": 0.8},
    "unexplained": 0.0,
    "causes": [
        {"check": "reuse", "recovered": 1.0, "evidence": "twice", "remedy": "masked", "before": 0.1, "after": 0.9}
    ],
    "suspicions": [{"check": "decay", "evidence": "decayed", "remedy": "do not"}],
    "rest": [],
    "layers": [
        {"layer": "norms.0", "call": 0, "train": {"shift": 1.25, "ratio": 2.0}, "eval": {"shift": 0.5}},
        {"layer": "norms.0", "call": 1, "train": {"shift": 0.25, "ratio": None}},
        {"layer": "norms.1", "call": 0, "train": {"shift": None}},
    ],
}


def test_the_doctors_figures() -> None:
    """A layer's shift is that of its worst call; one that is not finite is left out."""
    assert metric_names.of_diagnosis(ANSWER) == {
        "accuracies/A": 0.1,
        "accuracies/B": 0.9,
        "gap/normalization": 0.8,
        "unexplained": 0.0,
        "norm/norms.0/mean_shift": 1.25,
        "norm/norms.0/mean_shift_eval": 0.5,
    }


def test_stable_names_for_a_training_and_for_a_trial() -> None:
    """A metric has the same name in every report; text and lists are skipped."""
    of_training = metric_names.named(EPOCH)
    assert of_training == {
        "epoch": 1, "train/top1": 0.5, "train/loss": 1.5, "val/top1": 0.3, "accuracies/A": 0.1, "accuracies/B": 0.2,
        "accuracies/C": 0.3, "accuracies/D": 0.4, "gap/normalization": 0.1, "gap/generalization": -0.2,
        "norm/norms.0/mean_shift": 0.5,
    }  # fmt: skip
    of_trial = metric_names.named(epoch_metrics(EPOCH))
    of_training_alone = ("train/loss", "norm/norms.0/mean_shift")
    assert of_trial == {name: value for name, value in of_training.items() if name not in of_training_alone}


def test_final_figures_do_not_overwrite_those_of_the_last_epoch() -> None:
    """A to D after an epoch are of held-out training subjects, the summary's of the test split."""
    assert metric_names.final(SUMMARY) == {
        "final/train/top1": 0.5, "final/val/top1": 0.3, "test/top1": 0.75, "test/loss": 0.625,
        "final/accuracies/A": 0.1, "final/accuracies/C": 0.75, "final/gap/normalization": 0.25,
    }  # fmt: skip
    assert not set(metric_names.final(SUMMARY)) & set(metric_names.SUMMARIES), "W&B keeps the best epoch of these"
    assert metric_names.last({"epoch": 3, "val": 0.5, "C": 0.5}) == {
        "epoch": 3, "final/val/top1": 0.5, "final/accuracies/C": 0.5,
    }  # fmt: skip


def test_losses_rate_gradient_and_speed_have_names() -> None:
    """Speed in a group of its own."""
    line = {
        "epoch": 1, "val": {"loss": 2.0}, "optim": {"lr": 0.1, "gradient_norm": 3.0}, "seconds": 4.0,
        "clips_per_second": 5.0, "evaluation_seconds": 6.0,
    }  # fmt: skip
    assert metric_names.named(line) == {
        "epoch": 1, metric_names.VAL_LOSS: 2.0, metric_names.RATE: 0.1, metric_names.GRADIENT_NORM: 3.0,
        "throughput/seconds_per_epoch": 4.0, "throughput/clips_per_second": 5.0,
        "throughput/evaluation_seconds": 6.0,
    }  # fmt: skip


def test_nested_values_get_joined_names() -> None:
    """With a slash on W&B, with a dot in settings; names that are joined already stay."""
    nested = {"epoch": 1, "gap": {"normalization": 0.5, "by": {"layer": 2}}, "norm.kind": "bn"}
    assert metric_names.flat(nested) == {"epoch": 1, "gap/normalization": 0.5, "gap/by/layer": 2, "norm.kind": "bn"}
    assert metric_names.flat(nested, ".") == {
        "epoch": 1, "gap.normalization": 0.5, "gap.by.layer": 2, "norm.kind": "bn",
    }  # fmt: skip
