"""Print the tables of tests/bench/results/norms.md from a study over data sets (tests/bench/norm_sets.py).

    python tests/bench/norm_tables.py bench-norms/study --against bn
    python tests/bench/norm_tables.py bench-norms/batches --levels --against bn
    python tests/bench/norm_tables.py bench-norms/inputs --crossed

With `--levels` the data sets are named `SET, LEVEL`, and the table has a row per level: means over its sets, with
intervals over the seeds. Sets without a level are one row. With `--crossed` the tables have a row per arm and a
column per table of [cross] in the file of arms: accuracies C and D on val at the first rung of a screening.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

from scipy import stats

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from tuning.results import plus_minus  # noqa: E402 - the path is set above
from tuning.statistics import LEVEL, compare, holm  # noqa: E402


def points(row: dict[str, Any]) -> str:
    """Return an effect with its interval, in points."""
    if row["effect"] is None:
        return ""
    interval = "" if row["interval"] is None else " ({:+.1f} .. {:+.1f})".format(*(100 * x for x in row["interval"]))
    return f"{100 * row['effect']:+.1f}{interval}"


def table(head: list[str], rows: Iterator[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text.replace(" --- ", "---") + "\n"


def overall(document: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row per arm, best mean rank first."""
    for row in sorted(document["arms"], key=lambda row: row["rank"] or 1e9):
        p = "" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        letters = ["" if row[name] is None else f"{100 * row[name]:.1f}" for name in ("train", "val", "test")]
        rank = "" if row["rank"] is None else f"{row['rank']:.1f}"
        yield [row["arm"], rank, *letters, points(row), p]


def per_set(document: dict[str, Any], arms: list[str], cell: Any) -> Iterator[list[str]]:
    """Yield a row per data set with a cell per arm."""
    for name, one in document["sets"].items():
        rows = {row["arm"]: row for row in one["arms"]}
        yield [name, *(cell(rows[arm]) for arm in arms)]


def letter_of(letter: str, row: dict[str, Any]) -> str:
    """Return the accuracy A, B, C or D of an arm in percent."""
    return "" if row[letter] is None else f"{100 * row[letter]:.1f}"


Cells = dict[str, tuple[int, float]]  # arm -> epochs and accuracy on val of its best candidate


def choices(document: dict[str, Any]) -> list[Cells]:
    """Return the choice of each data set; sets that share their trainings have the same, which is listed once."""
    of_set: dict[str, Cells] = {}
    for one in document["choice"]:
        of_set.setdefault(one["set"], {})[one["arm"]] = one["epochs"], one["val"]
    return list({tuple(cells.items()): cells for cells in of_set.values()}.values())


def between(document: dict[str, Any], arm: str) -> Iterator[list[str]]:
    """Yield a row per other arm: its difference from `arm` over data sets; those that count as one, by their mean."""

    def accuracies(name: str) -> list[float]:
        tests: dict[str, list[float]] = {}
        for one in document["sets"].values():
            tests.setdefault(one["counts_as"], []).extend(row["test"] for row in one["arms"] if row["arm"] == name)
        return [mean(values) for values in tests.values()]

    others = [row["arm"] for row in document["arms"] if row["arm"] != arm]
    found = {name: compare(accuracies(name), accuracies(arm)) for name in others}
    corrected = holm({name: one.p for name, one in found.items()})
    for name in sorted(found, key=lambda name: -(found[name].effect or 0.0)):
        p = corrected[name]
        yield [name, points(found[name]._asdict()), "" if p is None else f"{p:.2g}"]


def screening(document: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row per arm, best mean rank on validation first; data sets that share a choice count once.

    A candidate that was trained longer was better on every earlier comparison.
    """
    ranks: dict[str, list[float]] = {}
    for cells in choices(document):
        standing = [-sorted(set(cells.values())).index(value) for value in cells.values()]
        for arm, rank in zip(cells, stats.rankdata(standing), strict=True):
            ranks.setdefault(arm, []).append(float(rank))
    kept = {one["arm"] for one in document["choice"] if one["kept"]}
    for arm in sorted(ranks, key=lambda arm: mean(ranks[arm])):
        own = ranks[arm]
        yield [arm, f"{mean(own):.1f}", f"{min(own):.0f} to {max(own):.0f}", "yes" if arm in kept else ""]


def crossed(study: Path, letter: str) -> Iterator[list[str]]:
    """Yield the tables of [cross], then a row per arm: its accuracy at the first rung, and the change with each table.

    Means over data sets, of the best learning rate. All candidates get to the first rung, so that they are compared at
    one length; D does not depend on running statistics, which lag there.
    """
    best: dict[str, dict[str, float]] = {}  # arm -> data set -> accuracy
    for outcome in (line["ended"] for line in lines_of(study / "ledger.jsonl") if "ended" in line):
        task, curve = outcome["task"], outcome["curve"]
        if task.get("choosing") and curve:
            cells = best.setdefault(task["arm"], {})
            cells[task["data_set"]] = max(cells.get(task["data_set"], 0.0), curve[0][letter])
    found = {arm: 100 * mean(cells.values()) for arm, cells in best.items()}
    names = [arm for arm in found if not any(arm.startswith(f"{other}, ") for other in found)]
    tables = [arm.removeprefix(f"{names[0]}, ") for arm in found if arm.startswith(f"{names[0]}, ")]
    yield tables
    changes = {name: [found[f"{name}, {one}"] - found[name] for one in tables] for name in names}
    for name in sorted(names, key=found.__getitem__, reverse=True):
        yield [name, f"{found[name]:.1f}", *(f"{change:+.1f}" for change in changes[name])]
    changed = zip(*changes.values(), strict=True)
    yield ["mean", f"{mean(found[name] for name in names):.1f}", *(f"{mean(column):+.1f}" for column in changed)]


def by_level(document: dict[str, Any], arms: list[str], against: str) -> Iterator[list[str]]:
    """Yield a row per level: mean test accuracy of `against`, then the difference of each arm from it, in points."""
    test: dict[str, dict[str, dict[str, dict[int, float]]]] = {}  # level -> set -> arm -> seed -> accuracy
    for one in (trial for trial in document["trials"] if trial["test"] is not None):
        name, _, level = one["set"].partition(", ")
        test.setdefault(level, {}).setdefault(name, {}).setdefault(one["arm"], {})[one["seed"]] = one["test"]
    for level, sets in test.items():
        base = [mean(cells[against].values()) for cells in sets.values()]
        cells = [over_seeds([paired(cells[arm], cells[against]) for cells in sets.values()]) for arm in arms]
        yield [level, f"{100 * mean(base):.1f}", *map(points, cells)]


def paired(arm: dict[int, float], base: dict[int, float]) -> list[float]:
    """Return the differences of the seeds that both have."""
    return [arm[seed] - base[seed] for seed in arm if seed in base]


def over_seeds(differences: list[list[float]]) -> dict[str, Any]:
    """Return the mean over sets of the mean over seeds, with its interval over seeds: the sets are taken as given.

    Student's t has Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2), as sets differ in variance.
    """
    errors = [variance(one) / len(one) for one in differences]
    total = sum(errors)
    effect = mean(mean(one) for one in differences)
    if not total:
        return {"effect": effect, "interval": None}
    freedom = total**2 / sum(error**2 / (len(one) - 1) for error, one in zip(errors, differences, strict=True))
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * sqrt(total) / len(differences)
    return {"effect": effect, "interval": (effect - reach, effect + reach)}


def rates(document: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row per arm: how often each learning rate was chosen."""
    chosen: dict[str, Counter[float]] = {}
    for one in document["choice"]:
        chosen.setdefault(one["arm"], Counter())[one["optim.lr"]] += 1
    every = sorted({rate for counts in chosen.values() for rate in counts})
    yield ["", *(f"{rate:g}" for rate in every)]
    for arm, counts in chosen.items():
        yield [arm, *(str(counts[rate]) for rate in every)]


def lines_of(ledger: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a ledger."""
    return map(json.loads, ledger.read_text().splitlines())


def hours(study: Path) -> float:
    """Return the hours of the epochs of all trials, evaluations included: those of a core, as each trial has one."""
    lines = (line for path in study.glob("trials/*/ledger.jsonl") for line in lines_of(path))
    return sum(line.get("seconds", 0.0) + line.get("evaluation_seconds", 0.0) for line in lines) / 3600


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--against", metavar="ARM", help="also: differences from this arm")
    parser.add_argument("--levels", action="store_true", help="only: a row per level of the sets `SET, LEVEL`")
    parser.add_argument("--crossed", action="store_true", help="only: arms with each table of [cross]")
    options = parser.parse_args()
    study = options.study
    document = json.loads((study / "results.json").read_text())
    if options.crossed:
        for letter in "CD":
            rows = crossed(study, letter)
            print(table([f"{letter} at the first rung", "alone", *next(rows)], rows))
    elif options.levels:
        print_levels(document, options.against or document["baseline"])
    else:
        print_all(document, options.against)
    print(f"core hours of the trials' epochs: {hours(study):.1f}")


def print_levels(document: dict[str, Any], against: str) -> None:
    """Print the table of levels."""
    arms = [arm for arm in dict.fromkeys(one["arm"] for one in document["trials"]) if arm != against]
    print(table(["level", against, *arms], by_level(document, arms, against)))


def print_all(document: dict[str, Any], against: str | None) -> None:
    """Print all other tables."""
    arms = [row["arm"] for row in sorted(document["arms"], key=lambda row: row["rank"] or 1e9)]
    print(f"Friedman's test of equal ranks: p = {document['friedman_p']}\n")
    print(table(["arm", "mean rank", "train", "val", "test", "effect", "p (Holm)"], overall(document)))
    print(table(["data set", *arms], per_set(document, arms, lambda row: plus_minus(row["test"], row["test_std"]))))
    others = [arm for arm in arms if arm != document["baseline"]]
    print(table(["data set", *others], per_set(document, others, points)))
    for letter in "ABD":
        print(table([f"{letter}, data set", *arms], per_set(document, arms, partial(letter_of, letter))))
    if "choice" in document:
        if against:
            print(table(["arm", f"difference from {against}", "p (Holm)"], between(document, against)))
        print(table(["arm", "mean rank", "ranks", "kept"], screening(document)))
        counted = rates(document)
        print(table(["arm", *next(counted)[1:]], counted))


if __name__ == "__main__":
    main()
