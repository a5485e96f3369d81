"""STUDY/report.html: the page of a search or of a study, in the style of `pipeline.page`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.pages import TERMS, render
from pipeline.pages.figures import Plot, percent, signed
from preprocessing import files, pages
from preprocessing.pages import Box, Provenance, Row, Table, number, text
from tuning import figures
from tuning.ledger import Outcome
from tuning.results import plus_minus

SIGNIFICANT = 0.05
LISTED = 500  # trials in the table of a search
EFFECT = "Mean difference to the baseline, paired by seed."
NOTE = (
    "Mean ± standard deviation over seeds, in %. Effect: mean difference to the baseline, paired by seed, with the "
    "95 % interval and the p value of Student's paired t-test; p is also corrected for the number of arms after Holm."
)

OVER_SETS = (
    "Means over data sets, in %; each data set counts once, and those with the same train and val clips count as "
    "one. Rank: mean rank on the evaluation split, 1 is the best. "
    "Effect: mean over data sets of the difference to the baseline, with the 95 % interval and the p value of "
    "Student's paired t-test over data sets; p is also corrected for the number of arms after Holm."
)


def write_study(study: Path, command: dict[str, Any], document: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Publish the page of a study of arms.

    Args:
        study: The study folder.
        command: Settings of the command, by name.
        document: Content of results.json.
        outcomes: All trials, for their curves and failures.
    """
    arms, split, baseline = document["arms"], document["judged"], document["baseline"]
    helping = {row["arm"] for row in arms if _helps(row)}
    sets = document.get("sets", {})
    unit = "data set" if sets else "seed"
    where = f"{len(sets)} data sets" if sets else f"up to {max(row['n'] for row in arms)} seeds each"
    page = render(
        "study.html",
        Provenance.of("tuning.study", sys.argv[1:]),
        kind="study",
        title=headline(arms, split, baseline),
        subtitle=(
            f"{Path(command['data']).name}: {len(arms)} arms, {where}, {command['epochs']} epochs. Effects on the "
            f"{split} split, paired by {unit}, against “{baseline}”."
        ),
        boxes=boxes(arms, split, baseline),
        forest=figures.forest_figure(arms, split, baseline, helping, unit),
        table=arms_table(arms, split, baseline),
        note=note(document),
        sets_figure=figures.sets_figure(sets, arms, split, baseline) if sets else None,
        sets=[(name, arms_table(one["arms"], split, baseline)) for name, one in sets.items()],
        choice=choice_table(document["choice"]) if "choice" in document else None,
        gaps=figures.gap_figure(by_effect(arms, baseline)),
        accuracies=accuracies_table(arms, split, baseline),
        curves=figures.arm_curves_figure(outcomes),
        terms=TERMS,
        failed=failures(outcomes),
        settings=settings_table(command),
    )
    files.publish_text(study / "report.html", page)


def write_search(study: Path, command: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Publish the page of a search; arguments as of `write_study`."""
    good = [outcome for outcome in outcomes if outcome.outcome != "failed" and outcome.curve]
    good.sort(key=lambda outcome: -outcome.last["val"])
    stopped = sum(outcome.outcome == "stopped" for outcome in good)
    plots, importance, note = search_plots(good)
    page = render(
        "search.html",
        Provenance.of("tuning.search", sys.argv[1:]),
        kind="search",
        title=search_headline(good, len(outcomes)),
        subtitle=(
            f"{Path(command['data']).name}: {len(outcomes)} trials, {stopped} stopped early by ASHA, "
            f"{len(outcomes) - len(good)} failed; up to {command['epochs']} epochs. Ranked on held-out subjects of the "
            "training part; the test split was not read."
        ),
        boxes=search_boxes(good),
        plots=plots,
        importance=importance,
        importance_note=note,
        table=trials_table(good[:LISTED], len(good)) if good else None,
        terms=TERMS,
        failed=failures(outcomes),
        settings=settings_table(command),
    )
    files.publish_text(study / "report.html", page)


def note(document: dict[str, Any]) -> str:
    """Return what the columns of the leaderboard mean."""
    if "sets" not in document:
        return NOTE
    p = document["friedman_p"]
    equal = "" if p is None else f" Friedman's test of equal ranks: p = {p:.2g}."
    empty = [name for name, one in document["sets"].items() if not any(row["n"] for row in one["arms"])]
    left_out = f" No trial has finished on {', '.join(empty)}: it does not count." if empty else ""
    return OVER_SETS + equal + left_out


def choice_table(cells: list[dict[str, Any]]) -> Table:
    """Return what was chosen on validation: the learning rate of each arm and data set, and the arms that remained."""
    rated, named = any("optim.lr" in cell for cell in cells), any(cell["set"] for cell in cells)
    timed = all("epochs" in cell for cell in cells)  # older versions did not record them
    columns = [*([text("data set")] if named else []), text("arm"), pages.percent("val")]
    columns += [*([number("epochs")] if timed else []), *([number("learning rate", form=".2g")] if rated else [])]
    columns.append(text("all seeds"))
    rows = tuple(
        Row(
            (
                *([cell["set"]] if named else []),
                cell["arm"],
                cell["val"],
                *([cell["epochs"]] if timed else []),
                *([cell["optim.lr"]] if rated else []),
                "yes" if cell["kept"] else "no",
            )
        )
        for cell in cells
    )
    return Table("Choice on validation, by one training of each candidate with seed 0", tuple(columns), rows)


def _helps(row: dict[str, Any]) -> bool:
    return row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT and row["effect"] > 0


def headline(arms: list[dict[str, Any]], split: str, baseline: str) -> str:
    """Return the main result of a study in one sentence."""
    others = [row for row in arms if row["effect"] is not None]
    helping = [row for row in others if _helps(row)]
    if not others:
        return "No arm has a seed in common with the baseline yet"
    if not helping:
        return f"No arm is shown to be better than “{baseline}” on {split}"
    best = max(helping, key=lambda row: row["effect"])
    return f"{len(helping)} of {len(others)} arms help; “{best['arm']}” by {100 * best['effect']:+.0f} points"


def boxes(arms: list[dict[str, Any]], split: str, baseline: str) -> list[Box]:
    """Return the three boxes of a study: the baseline, what helps, what is not shown to help."""
    plain = next(row for row in arms if row["arm"] == baseline)
    start = f"{percent(plain['train'])} → {percent(plain[split])}"
    words = f"training → {split} accuracy of “{baseline}”, mean of {plain['n']}"
    others = sorted((row for row in arms if row["effect"] is not None), key=lambda row: -row["effect"])
    helping = tuple(_effect(row) for row in others if _helps(row))
    rest = tuple(_effect(row) for row in others if not _helps(row))
    return [
        Box("Where it starts", start, words, "bad"),
        Box("What helps", "", "Points:" if helping else "Nothing that these seeds can show.", "good", helping),
        Box("Not shown to help", "", "Points:" if rest else "No arm.", "plain", rest),
    ]


def _effect(row: dict[str, Any]) -> tuple[str, str]:
    return row["arm"] + (" (same bits)" if row.get("identical") else ""), signed(100 * row["effect"])


def by_effect(arms: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Return the baseline, then the arms by their effect, the largest first, then those without one."""

    def key(row: dict[str, Any]) -> tuple[bool, bool, float]:
        return row["arm"] != baseline, row["effect"] is None, -(row["effect"] or 0.0)

    return sorted(arms, key=key)


def arms_table(arms: list[dict[str, Any]], split: str, baseline: str) -> Table:
    """Return accuracy and effect of every arm; the baseline stands first and is highlighted."""
    splits = ["train", "val"] + (["test"] if split == "test" else [])
    ranked = any(row.get("rank") is not None for row in arms)
    columns = [text("arm"), number("n", "data sets" if ranked else "seeds")]
    columns += [*([number("rank", form=".1f")] if ranked else []), *(number(name, "%") for name in splits)]
    columns += [
        pages.percent("effect", EFFECT, form="+.1f", unit="points"),
        number("95 % interval", "points"),
        number("p", form=".2g", note="Of Student's paired t-test."),
        number("p, Holm", form=".2g", note="Corrected for the number of arms (Holm 1979)."),
        number("failed", "trials"),
    ]
    rows = []
    for row in by_effect(arms, baseline):
        cells = [
            row["n"],
            *([row["rank"]] if ranked else []),
            *(plus_minus(row[name], row[f"{name}_std"]) for name in splits),
            row["effect"],
        ]
        interval = row["interval"]
        cells.append(None if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}")
        cells += [row["p"], row["p_holm"], row["failed"] or None]
        rows.append(Row((row["arm"], *cells), "baseline" if row["arm"] == baseline else ""))
    return Table(f"Effects on {split} against “{baseline}”, the largest first", tuple(columns), tuple(rows))


def accuracies_table(arms: list[dict[str, Any]], split: str, baseline: str) -> Table:
    """Return A to D and the normalization gap of every arm."""
    notes = dict(TERMS)
    columns = (
        text("arm"),
        *(pages.percent(name, notes[name]) for name in "ABCD"),
        pages.percent("norm. gap", notes["Normalization gap"], unit="points"),
    )
    rows = [
        Row(
            (row["arm"], *(row[name] for name in (*"ABCD", "normalization_gap"))),
            "baseline" if row["arm"] == baseline else "",
        )
        for row in by_effect(arms, baseline)
    ]
    return Table(f"Means over seeds; C and D on {split}", columns, tuple(rows))


def search_headline(good: list[Outcome], trials: int) -> str:
    """Return the main result of a search in one sentence; `good` is sorted, the best first."""
    if not good:
        return "No trial has finished yet"
    settings = good[0].task.settings
    return (
        f"Best of {trials} settings: {100 * good[0].last['val']:.1f} % on held-out subjects, "
        f"norm {settings.get('norm.kind', 'as the preset')}, persons {settings.get('norm.persons', 'as the preset')}"
    )


def search_boxes(good: list[Outcome]) -> list[Box]:
    """Return the three most accurate trials with their settings."""
    return [
        Box(
            f"{place}. trial {outcome.task.name}",
            percent(outcome.last["val"], 1),
            "on held-out subjects" + (", stopped early" if outcome.outcome == "stopped" else ""),
            "good" if place == 1 else "plain",
            tuple((figures.short(name), _shown(value)) for name, value in outcome.task.settings.items()),
        )
        for place, outcome in enumerate(good[:3], 1)
    ]


def search_plots(good: list[Outcome]) -> tuple[dict[str, Any], Plot | None, str]:
    """Return the figures of a search by name, the importance of settings, and why there is none."""
    if not good:
        return {}, None, ""
    drawn = figures.sampled(good)
    plots = {
        "parallel": figures.parallel_figure(drawn),
        "slices": figures.slices_figures(drawn),
        "curves": figures.trial_curves_figure(drawn),
    }
    importance, note = figures.importance_figure(good)
    few = f"The figures show {len(drawn)} of {len(good):,} trials: the best ones, and an even sample of the others."
    return plots, importance, " ".join(filter(None, [note, few if len(drawn) < len(good) else ""]))


def trials_table(good: list[Outcome], trials: int) -> Table:
    """Return the best of so many trials, best first, each with all settings that were drawn."""
    notes = dict(TERMS)
    columns = [text("trial"), number("epochs"), *(pages.percent(n, notes[n]) for n in "CABD")]
    columns += [pages.percent("norm. gap", notes["Normalization gap"], unit="points"), text("settings")]
    names = figures.settings_of(good)
    rows = []
    for outcome in good:
        epochs = f"{int(outcome.last['epoch'])}{' (stopped)' if outcome.outcome == 'stopped' else ''}"
        measured = [outcome.last[name] for name in (*"CABD", "normalization_gap")]
        drawn = outcome.task.settings
        shown = ", ".join(f"{figures.short(name)} {_shown(drawn[name])}" for name in names if name in drawn)
        rows.append(Row((outcome.task.name, epochs, *measured, shown)))
    which = "All trials" if len(good) == trials else f"The best {len(good)} of {trials:,} trials (results.csv has all)"
    caption = f"{which}, best first: C is the accuracy on held-out subjects of the training part"
    return Table(caption, tuple(columns), tuple(rows))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def failures(outcomes: list[Outcome]) -> list[tuple[str, str, int]]:
    """Return name, cause and attempts of each failed trial."""
    failed = [outcome for outcome in outcomes if outcome.outcome == "failed"]
    return [(outcome.task.name, outcome.cause, outcome.attempts) for outcome in failed]


def settings_table(command: dict[str, Any]) -> Table:
    """Return the settings of the command."""
    rows = tuple(Row((name, str(value))) for name, value in command.items())
    return Table("Settings of the command", (text("setting"), text("value")), rows)
