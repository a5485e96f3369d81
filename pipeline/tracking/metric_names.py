"""The figures of a run under stable names, as dashboards and W&B want them: one flat number a name."""

from __future__ import annotations

from typing import Any

# The names of figures on W&B, which tuning.dashboard draws. A figure of another name keeps it.
TRAIN_LOSS, TRAIN_TOP1, VAL_TOP1 = "train/loss", "train/top1", "val/top1"
FOUR = {name: f"accuracies/{name}" for name in "ABCD"}
GAPS = {name: f"gap/{name}" for name in ("normalization", "generalization")}
# Of every layer with running statistics: evaluate.Evaluation.norms, and of the doctor.
MEAN_SHIFTS = "norm/.*/mean_shift"
# What the driver of a search or a study calls the same figures (tuning.attempt).
OF_TRIALS = {"train": TRAIN_TOP1, "val": VAL_TOP1, **FOUR, **{f"{name}_gap": full for name, full in GAPS.items()}}


def named(record: dict[str, Any]) -> dict[str, float]:
    """A ledger's line, or what a trial's driver was told of an epoch, under W&B's names. What is no number is left out.

    C after an epoch is the accuracy on held-out clips, so it is `val/top1` too.
    """
    result = {OF_TRIALS.get(name, name): value for name, value in flat(record).items() if _is_number(value)}
    if FOUR["C"] in result:
        result.setdefault(VAL_TOP1, result[FOUR["C"]])
    return result


def final(summary: dict[str, Any]) -> dict[str, float]:
    """Metrics of a run's summary.json.

    A to D and their gaps stand under `final/`: unlike those of an epoch they are of the test split, where there is one.
    """
    rest = {key: value for key, value in summary.items() if key not in ("config", "confusion", "accuracies", "gap")}
    evaluated = {key: summary[key] for key in ("accuracies", "gap") if key in summary}
    return {name: value for name, value in flat(rest | {"final": evaluated}).items() if _is_number(value)}


def of_diagnosis(answer: dict[str, Any]) -> dict[str, float]:
    """Metrics of doctor.json.

    `norm/<layer>/mean_shift` is the distance of the running mean from the training clips' mean, in standard deviations
    (median over channels), of the layer's worst call.
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
    """doctor.json as rows of VERDICT: causes, suspicions, the rest, in the order of blame."""
    kinds = {"causes": "cause", "suspicions": "suspicion", "rest": "rest"}
    return [
        [kind, *(entry.get(column) for column in VERDICT[1:])]
        for key, kind in kinds.items()
        for entry in answer.get(key, [])
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures under names joined by a slash."""
    result: dict[str, Any] = {}
    for key, value in record.items():
        result |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return result
