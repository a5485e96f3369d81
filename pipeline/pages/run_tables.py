"""Tables over runs, and of the trials of a search or study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.pages import TERMS
from pipeline.pages.finished import COUNTS, FinishedRun, patient
from preprocessing import files, pages
from preprocessing.pages import Row, Table, number, text

INTERVAL = "95 % interval of the evaluation accuracy: of the clips drawn (Wilson). Seeds add to it."


def runs_table(runs: list[FinishedRun]) -> Table:
    """Return every accuracy of every run."""
    names = ("train", "val", "test", "top-5", "mean class")
    notes = dict(TERMS)
    columns = [text("run"), *(pages.percent(name) for name in names[:3])]
    columns += [number("95 %", note=INTERVAL), *(pages.percent(name) for name in names[3:])]
    columns += [pages.percent(name, notes[name]) for name in "ABCD"]
    columns += [
        pages.percent("norm. gap", notes["Normalization gap"], unit="points"),
        pages.percent("gen. gap", notes["Generalization gap"], unit="points"),
    ]
    worst = patient(runs)
    rows = []
    for run in runs:
        summary, split = run.summary, run.summary["test"] or run.summary["val"]
        cells: list[str | float | None] = [
            summary["train"]["top1"],
            summary["val"].get("top1"),
            summary["test"].get("top1"),
        ]
        low, high = run.eval_interval
        cells.append(f"{100 * low:.0f} to {100 * high:.0f}")
        cells += [split.get("top5"), split.get("mean_class"), *(summary["accuracies"].get(name) for name in "ABCD")]
        cells += [run.normalization_gap, summary["gap"].get("generalization")]
        marked = "largest gap" if run is worst and len(runs) > 1 and run.normalization_gap >= COUNTS else ""
        rows.append(Row((run.name, *cells), marked))
    return Table(
        "Accuracies; C, D, the interval, top-5 and mean class are on test where there is a test split, else on val",
        tuple(columns),
        tuple(rows),
    )


def settings_table(runs: list[FinishedRun]) -> Table:
    """Return the settings that tell the runs apart."""
    columns = (
        text("run"),
        text("norm"),
        text("statistics of bodies", "norm.persons: how the network normalizes two bodies"),
        text("input norm"),
        number("momentum"),
        text("network"),
        number("epochs"),
        number("batch", "clips"),
        number("parameters", form=",d"),
        number("speed", "clips/s", ",.0f"),
        text("weights"),
    )
    rows = []
    for run in runs:
        config, norm = run.summary["config"], run.norm
        rows.append(
            Row(
                (
                    run.name,
                    norm["kind"],
                    norm["persons"],
                    norm.get("input"),
                    norm.get("momentum"),
                    config["model"]["name"],
                    config["train"]["epochs"],
                    config["train"]["batch_size"],
                    run.summary.get("model", {}).get("params"),
                    run.summary.get("clips_per_second"),
                    run.origin,
                )
            )
        )
    return Table("Settings of the runs", columns, tuple(rows))


def study_table(study: Path) -> Table:
    """Return the trials of a search, best first, or of a study, arm by arm.

    Raises:
        ValueError: The folder has no results.json.
    """
    path = study / "results.json"
    if not path.exists():
        raise ValueError(
            f"{study} has no results.json. Run python -m tuning.search or tuning.study --out {study} first."
        )
    document = files.read_json(path, "trials")
    trials, arms = document["trials"], document.get("arms")
    if not trials:
        return Table(f"The {'search' if arms is None else 'study'}: no trials yet", (), ())
    hidden = ("error", "generalization_gap", "attempts")
    keys = [key for key in trials[0] if key not in hidden and any(trial.get(key) is not None for trial in trials)]
    columns = tuple(_study_column(key, [trial.get(key) for trial in trials]) for key in keys)
    caption = (
        f"The search: {len(trials)} settings, ranked on held-out subjects of the training part"
        if arms is None
        else f"The study: {len(arms)} arms in {len(trials)} rows, one per arm and seed; effects are in its report.html"
    )
    rows = tuple(Row(tuple(_plain(trial.get(key)) for key in keys)) for trial in trials)
    return Table(caption, columns, rows)


def _study_column(key: str, values: list[Any]) -> pages.Column:
    short = {"normalization_gap": "norm. gap", "train.batch_size": "batch"}.get(key, key.split(".")[-1])
    known = [value for value in values if value is not None]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return text(short)
    if all(isinstance(value, int) for value in known):
        return number(short)
    return number(short, form=".2g") if "." in key else pages.percent(short)


def _plain(value: Any) -> str | int | float | None:
    return str(value) if isinstance(value, bool) else value
