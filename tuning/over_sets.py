"""Results of a study over several data sets: a table per set, and one over the sets.

Over the sets, each set counts once, however many clips or seeds it has: the effect of an arm is the mean of its effects
on the sets, with the interval and p of Student's paired t-test over the sets. Ranks on the sets are averaged and
compared by Friedman's test, after Demšar 2006, JMLR 7. Sets with the same train and val clips, which differ in their
test clips or settings, are not independent: they count as one, by their mean. A set on which no trial has finished
counts nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import friedmanchisquare, rankdata

from tuning import statistics
from tuning.arms import Arms
from tuning.ledger import Outcome
from tuning.results import ARM_METRICS, arm_rows, judged_split, study_document

LEAST_ARMS = 3  # of Friedman's test


def combined_document(
    arms: Arms, outcomes: Iterable[Outcome], sets: Sequence[str], shared: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the results of a study over several data sets.

    Args:
        arms: The arms and the baseline.
        outcomes: The trials that have ended, without those that served a choice.
        sets: Names of the data sets.
        shared: Data set -> the first one with its train and val clips; None: each has its own.

    Returns:
        The keys of `tuning.results.study_document`; a row of `arms` has means over the sets, `rank` (the mean rank on
        the evaluation split, 1 is the best) and effects paired by set; a row of `trials` has its `set`. Further `sets`
        (set -> its own `arms`, and the set that it `counts_as`), and `friedman_p` (all arms have equal ranks; None for
        fewer than three arms or two sets).
    """
    of_set = {name: [outcome for outcome in outcomes if outcome.task.data_set == name] for name in sets}
    done = {name: [one for one in trials if one.outcome == "finished"] for name, trials in of_set.items()}
    splits = {judged_split(arm_rows(arms, trials)) for trials in done.values() if trials}
    split = "test" if splits == {"test"} else "val"
    documents = {name: study_document(arms, trials, split) for name, trials in of_set.items()}
    table = {name: _rows(document) for name, document in documents.items()}
    counts_as = {name: (shared or {}).get(name, name) for name in sets}
    groups = _groups({name: first for name, first in counts_as.items() if done[name]})
    ranks, friedman_p = _ranks(arms, table, split, groups)
    overall = [_overall(name, arms.baseline, table, groups) | {"rank": ranks.get(name)} for name in arms.arms]
    corrected = statistics.holm({row["arm"]: row["p"] for row in overall})
    for row in overall:
        row["p_holm"] = corrected[row["arm"]]
    overall.sort(key=lambda row: (row["val"] is None, -(row["val"] or 0.0)))
    trials = [{"set": name, **row} for name, document in documents.items() for row in document["trials"]]
    own = {name: {"arms": document["arms"], "counts_as": counts_as[name]} for name, document in documents.items()}
    return {
        "judged": split, "baseline": arms.baseline, "arms": overall, "friedman_p": friedman_p, "sets": own,
        "trials": trials,
    }  # fmt: skip


Rows = dict[str, dict[str, Any]]  # arm -> its row


def _rows(document: Mapping[str, Any]) -> Rows:
    return {row["arm"]: row for row in document["arms"]}


def _groups(counts_as: Mapping[str, str]) -> list[list[str]]:
    """Return the data sets in groups that count as one."""
    groups: dict[str, list[str]] = {}
    for name, first in counts_as.items():
        groups.setdefault(first, []).append(name)
    return list(groups.values())


def _ranks(
    arms: Arms, table: Mapping[str, Rows], split: str, groups: Sequence[Sequence[str]]
) -> tuple[dict[str, float], float | None]:
    """Return the mean rank of each arm that has a result on every set of the groups, and the p of Friedman's test."""
    names = [
        name for name in arms.arms if all(table[one][name][split] is not None for group in groups for one in group)
    ]
    if not names or not groups:
        return {}, None
    accuracy = np.array(
        [np.mean([[table[one][name][split] for name in names] for one in group], axis=0) for group in groups]
    )
    mean = rankdata(-accuracy, axis=1).mean(axis=0)
    p = None
    if len(names) >= LEAST_ARMS and len(accuracy) > 1:
        found = float(friedmanchisquare(*accuracy.T).pvalue)
        p = found if np.isfinite(found) else None  # without any difference it is undefined
    return dict(zip(names, map(float, mean), strict=True)), p


def _overall(
    arm: str, baseline: str, table: Mapping[str, Rows], groups: Sequence[Sequence[str]]
) -> dict[str, Any]:  # fmt: skip
    """Return the row of an arm over the sets on which it has a result."""
    rows = [rows[arm] for rows in table.values() if rows[arm]["n"]]
    row: dict[str, Any] = {"arm": arm, "n": len(rows), "failed": sum(rows[arm]["failed"] for rows in table.values())}
    for metric in ARM_METRICS:
        known = _means(arm, metric, table, groups)
        row |= {metric: statistics.mean_std(known)[0] if known else None, f"{metric}_std": None}
    effects = _means(arm, "effect", table, groups) if arm != baseline else []
    found = statistics.compare(effects, [0.0] * len(effects))
    return row | {"pairs": len(effects), "effect": found.effect, "interval": found.interval, "p": found.p}


def _means(arm: str, metric: str, table: Mapping[str, Rows], groups: Sequence[Sequence[str]]) -> list[float]:
    """Return the mean of a metric in each group that has it."""
    found = []
    for group in groups:
        known = [table[one][arm][metric] for one in group if table[one][arm]["n"]]
        known = [value for value in known if value is not None]
        if known:
            found.append(float(np.mean(known)))
    return found
