"""Metric names: every figure of a run as one number under one stable name, for W&B and its dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Names on W&B, which tuning.dashboard draws. Other figures keep the name that they have in the record.
TRAIN_LOSS, VAL_LOSS, TRAIN_TOP1, VAL_TOP1 = "train/loss", "val/loss", "train/top1", "val/top1"
RATE, GRADIENT_NORM = "optim/lr", "optim/gradient_norm"
FINAL = "final/"
TEST_TOP1, FINAL_VAL = "test/top1", f"{FINAL}{VAL_TOP1}"
FOUR = {name: f"accuracies/{name}" for name in "ABCD"}
GAPS = {name: f"gap/{name}" for name in ("normalization", "generalization")}
# One per layer with running statistics, from the evaluation after an epoch and from the doctor.
MEAN_SHIFTS = "norm/.*/mean_shift"
# What epoch metrics of trials are called (tuning.attempt) -> their W&B name.
OF_SPEED = {
    "clips_per_second": "throughput/clips_per_second",
    "seconds": "throughput/seconds_per_epoch",
    "evaluation_seconds": "throughput/evaluation_seconds",
}
# Metric -> what W&B keeps of its epochs in the summary, as `NAME.max` or `NAME.min`.
SUMMARIES = {VAL_TOP1: "max", TRAIN_TOP1: "max", TRAIN_LOSS: "min", VAL_LOSS: "min"}
OF_TRIALS = {"train": TRAIN_TOP1, "val": VAL_TOP1, **FOUR, **{f"{name}_gap": full for name, full in GAPS.items()}}


def named(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a ledger's line, or of a trial's epoch metrics, under their W&B names.

    C after an epoch is the accuracy on held-out clips, so it is `val/top1` too.
    """
    names = OF_TRIALS | OF_SPEED
    result = {names.get(name, name): value for name, value in flat(record).items() if _is_number(value)}
    if FOUR["C"] in result:
        result.setdefault(VAL_TOP1, result[FOUR["C"]])
    return result


def final(summary: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a run's summary.json.

    Those that epochs have too are named `final/...`: A to D and their gaps are those of the test split, if there is
    one; training and validation figures are those of the kept epoch, while W&B keeps the best of all epochs.
    """
    of_epochs = ("accuracies", "gap", "train", "val")
    rest = {key: value for key, value in summary.items() if key not in ("config", "confusion", *of_epochs)}
    final_figures = {FINAL[:-1]: {key: summary[key] for key in of_epochs if key in summary}}
    figures = {OF_SPEED.get(name, name): value for name, value in flat(rest | final_figures).items()}
    return {name: value for name, value in figures.items() if _is_number(value)}


def last(row: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a trial's last epoch as `final` names those of a run."""
    return {f"{FINAL}{name}" if name != "epoch" else name: value for name, value in named(row).items()}


def of_diagnosis(answer: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of doctor.json.

    `norm/<layer>/mean_shift` is the distance of the running mean from the training clips' mean, in standard deviations
    (median over channels), at the layer's worst call; `mean_shift_eval` that from the evaluation clips' mean.
    """
    result = named({key: answer[key] for key in ("accuracies", "gap", "unexplained") if key in answer})
    for entry in answer.get("layers", []):
        for part, suffix in (("train", ""), ("eval", "_eval")):
            shift = entry.get(part, {}).get("shift")
            name = f"norm/{entry['layer']}/mean_shift{suffix}"
            if shift is not None:
                result[name] = max(shift, result.get(name, 0.0))
    return result


VERDICT = ("kind", "check", "recovered", "before", "after", "evidence", "remedy")


def verdict_rows(answer: dict[str, Any]) -> list[list[Any]]:
    """Return doctor.json as rows with the columns VERDICT: causes, then suspicions, then the rest."""
    kinds = {"causes": "cause", "suspicions": "suspicion", "rest": "rest"}
    return [
        [kind, *(entry.get(column) for column in VERDICT[1:])]
        for key, kind in kinds.items()
        for entry in answer.get(key, [])
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flat(values: Mapping[str, Any], separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """Return nested values under joined names: `{"norm": {"kind": "bn"}}` -> `{"norm/kind": "bn"}`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result |= flat(value, separator, name + separator) if isinstance(value, dict) else {name: value}
    return result
