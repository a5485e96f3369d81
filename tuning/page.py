"""STUDY/report.html: the page of a search or of a study, in the style of `pipeline.page`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.pages import TERMS, render
from pipeline.pages.figures import Plot, percent, plotly_script
from preprocessing import files, pages
from preprocessing.pages import Box, Provenance, Row, Table, number, text
from tuning import figures
from tuning.ledger import Outcome
from tuning.results import plus_minus
from tuning.space import SPACE

SIGNIFICANT = 0.05
NOTE = (
    "Mean ± standard deviation over seeds, in %. Effect: mean difference to the baseline, paired by seed, with the "
    "95 % interval and the p value of Student's paired t-test; p is also corrected for the number of arms after Holm."
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
    page = render(
        "study.html",
        Provenance.of("tuning.study", sys.argv[1:]),
        kind="study",
        title=headline(arms, split, baseline),
        subtitle=(
            f"{Path(command['data']).name}: {len(arms)} arms, up to {max(row['n'] for row in arms)} seeds each, "
            f"{command['epochs']} epochs. Effects on the {split} split, paired by seed, against “{baseline}”; arms in "
            "the order of their accuracy on held-out training subjects."
        ),
        boxes=boxes(arms, split, baseline),
        forest=figures.forest_figure(arms, split, baseline, helping),
        table=arms_table(arms, split, baseline),
        note=NOTE,
        gaps=figures.gap_figure(arms),
        curves=figures.arm_curves_figure(outcomes),
        terms=TERMS,
        failed=failures(outcomes),
        settings=settings_table(command),
        plotly=plotly_script(),
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
        table=trials_table(good) if good else None,
        terms=TERMS,
        failed=failures(outcomes),
        settings=settings_table(command),
        plotly=plotly_script(),
    )
    files.publish_text(study / "report.html", page)


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
    return row["arm"] + (" (same bits)" if row.get("identical") else ""), f"{100 * row['effect']:+.1f}"


def arms_table(arms: list[dict[str, Any]], split: str, baseline: str) -> Table:
    """Return every figure of every arm, the baseline highlighted."""
    splits = ["train", "val"] + (["test"] if split == "test" else [])
    notes = dict(TERMS)
    columns = [text("arm"), number("n", "seeds"), *(number(name, "%") for name in splits)]
    columns += [pages.percent("effect", form="+.1f", unit="points"), number("95 %", "points"), number("p", form=".2g")]
    columns += [number("p, Holm", form=".2g"), *(pages.percent(name, notes[name]) for name in "ABCD")]
    columns += [pages.percent("norm. gap", notes["Normalization gap"], unit="points"), number("failed", "trials")]
    rows = []
    for row in arms:
        cells = [row["n"], *(plus_minus(row[name], row[f"{name}_std"]) for name in splits), row["effect"]]
        interval = row["interval"]
        cells.append(None if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}")
        cells += [row[name] for name in ("p", "p_holm", *"ABCD", "normalization_gap")]
        rows.append(Row((row["arm"], *cells, row["failed"] or None), "baseline" if row["arm"] == baseline else ""))
    return Table(f"All arms; effects on {split}", tuple(columns), tuple(rows))


def search_headline(good: list[Outcome], trials: int) -> str:
    """Return the main result of a search in one sentence; `good` is sorted, the best first."""
    if not good:
        return "No trial has finished yet"
    settings = good[0].task.settings
    return (
        f"Best of {trials} settings: {100 * good[0].last['val']:.1f} % on held-out subjects, "
        f"norm {settings['norm.kind']}, persons {settings['norm.persons']}"
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


def search_plots(good: list[Outcome]) -> tuple[dict[str, Plot], Plot | None, str]:
    """Return the figures of a search by name, the importance of settings, and why there is none."""
    if not good:
        return {}, None, ""
    plots = {
        "parallel": figures.parallel_figure(good),
        "slices": figures.slices_figure(good),
        "curves": figures.trial_curves_figure(good),
    }
    importance, note = figures.importance_figure(good)
    return plots, importance, note


def trials_table(good: list[Outcome]) -> Table:
    """Return the trials, best first; a setting that did not matter in a trial stays empty."""
    names = [name for name in SPACE if any(name in outcome.task.settings for outcome in good)]
    notes = dict(TERMS)
    columns = [text("trial"), number("epochs"), pages.percent("val"), *(pages.percent(n, notes[n]) for n in "ABCD")]
    columns.append(pages.percent("norm. gap", notes["Normalization gap"], unit="points"))
    columns += [text(figures.short(name), name) for name in names]
    rows = []
    for outcome in good:
        epochs = f"{int(outcome.last['epoch'])}{' (stopped)' if outcome.outcome == 'stopped' else ''}"
        measured = [outcome.last[name] for name in ("val", *"ABCD", "normalization_gap")]
        rows.append(
            Row((outcome.task.name, epochs, *measured, *(_shown(outcome.task.settings.get(name)) for name in names)))
        )
    return Table("All trials, best first", tuple(columns), tuple(rows))


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
