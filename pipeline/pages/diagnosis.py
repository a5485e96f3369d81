"""Values of the doctor's page: verdict, where accuracy goes, which layers drift, what helps. All from doctor.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.normdoctor.moments import RATIO_LIMIT, SHIFT_LIMIT
from pipeline.normdoctor.page import Words, checked, headline, setting
from pipeline.normdoctor.remedies import REMEDIES
from pipeline.pages import TERMS, figures, render
from pipeline.pages.figures import BLUE, GREY, Bar, Dot, Key, Line, Rows, move
from pipeline.pages.run_figures import waterfall_figure
from preprocessing import pages
from preprocessing.pages import Box, Provenance, Row, Table, number, text

LAYER_TERMS = (
    ("Values per statistic", "How many numbers one mean of a training batch averages over."),
    ("Updates", "How often the running statistics were updated in training."),
    ("Window", "How many past updates the running statistics remember: about 1 / momentum."),
    ("Absent rows", "Share of a call's rows that are bodies or frames that are not there."),
    ("Shift", "Distance of the running mean from the mean over many samples, in standard deviations."),
    ("Ratio", "Running variance against the variance over many samples, the larger over the smaller."),
)


def page(name: str, doctor: dict[str, Any], provenance: Provenance) -> str:
    """Return the doctor's page as text.

    Args:
        name: Name of the run.
        doctor: Content of doctor.json.
        provenance: For the footer.
    """
    sites = doctor["layers"]
    fired, silent = checked(doctor)
    return render(
        "diagnosis.html",
        provenance,
        kind="doctor",
        title=f"{name}: {headline(doctor)}",
        subtitle=setting(doctor, words(doctor)),
        verdict=doctor["verdict"],
        boxes=boxes(doctor),
        trainings=trainings(doctor),
        waterfall=waterfall_figure(name, doctor["accuracies"], doctor["gap"]),
        remedies=remedies_figure(doctor) if doctor["recalibration"] else None,
        drifts=[drift_figure(sites, "shift"), drift_figure(sites, "ratio")] if sites else [],
        layers=layers_table(sites) if sites else None,
        groups=groups_table(doctor) if any(doctor["groups"].values()) else None,
        fired=fired,
        silent=silent,
        terms=TERMS + LAYER_TERMS,
    )


def words(doctor: dict[str, Any]) -> Words:
    """Return how scores and samples are written: as accuracies of clips."""
    return Words(samples="clips", evaluation=doctor["judged"])


def boxes(doctor: dict[str, Any]) -> list[Box]:
    """Return one box per cause, suspicion, other finding, repair, and remedy proven by training."""
    made = [
        _finding(kind, entry, doctor["judged"])
        for kind, entries in (
            ("cause", doctor["causes"]),
            ("suspicion", doctor["suspicions"]),
            ("rest", doctor["rest"]),
        )
        for entry in entries
    ]
    if doctor.get("fix"):
        fix = doctor["fix"]
        before, after = (fix[key]["accuracies"] for key in ("before", "after"))
        key = "C" if "C" in before else "A"
        split = fix.get("eval", "evaluation") if key == "C" else "training"
        words = (
            f"{split} clips, nothing retrained. Statistics: {_statistics(fix['remedy'])}. In {Path(fix['out']).name}."
        )
        made.append(Box("repaired", move(before[key], after[key], 1), words, "good"))
    helpful = {name: entry for name, entry in doctor.get("fine_tune", {}).items() if entry["helps"]}
    if helpful:
        name = max(helpful, key=lambda one: helpful[one]["after"]["C"])
        entry = helpful[name]
        words = f"{doctor['judged']} clips, {entry['epochs']} epochs. {entry['advice']}"
        figure = move(entry["before"]["C"], entry["after"]["C"], 1)
        made.append(Box(f"proven by training a copy: {name}", figure, words, "good"))
    return made


def _finding(kind: str, entry: dict[str, Any], split: str) -> Box:
    figure, words = "", f"Remedy: {entry['remedy']}."
    if "before" in entry and entry["after"] != entry["before"]:
        low, high = (100 * bound for bound in entry["interval"])
        figure = move(entry["before"], entry["after"], 1)
        words = f"{split} clips, nothing retrained (95 % interval of the gain {low:+.1f} to {high:+.1f}). {words}"
    title = f"no normalization gap: {entry['check']}" if kind == "rest" else f"{kind}: {entry['check']}"
    return Box(title, figure, words, "bad" if kind == "cause" else "plain")


def _statistics(remedy: str) -> str:
    return REMEDIES[remedy].label if remedy in REMEDIES else remedy


def trainings(doctor: dict[str, Any]) -> list[str]:
    """Return what short trainings of a copy brought, where they were asked for."""
    entries = [doctor["probe_lr"]] if "probe_lr" in doctor else []
    return [entry["text"] for entry in (*entries, *doctor.get("fine_tune", {}).values())]


def remedies_figure(doctor: dict[str, Any]) -> Rows:
    """Draw the accuracy under each set of statistics, with the 95 % interval of its gain."""
    table = doctor["recalibration"]
    kinds = {"A": ("training clips", GREY), "C": (f"{doctor['judged']} clips", BLUE)}
    start = table["eval"]

    def dot(values: dict[str, Any], key: str) -> Dot:
        low, high = (100 * (start[key] + bound) for bound in values["gain"][key])
        here = 100 * values[key]
        # The number stands above its point, where no whisker runs through it.
        return Dot(here, kinds[key][1], "circle", min(low, here), max(high, here), f"{here:.1f}")

    rows = [
        Line(REMEDIES[name].label, tuple((dot(values, key),) for key in kinds if key in values))
        for name, values in table.items()
    ]
    words = ", ".join(
        f"{REMEDIES[name].label} {100 * values.get('C', values.get('A', 0)):.1f} %" for name, values in table.items()
    )
    drawn = [end for row in rows for lane in row.lanes for mark in lane if isinstance(mark, Dot)
             for end in (mark.low, mark.high)]  # fmt: skip
    return Rows(
        "Before and after, nothing retrained (whiskers: 95 % interval of the gain)",
        f"Accuracy by set of statistics: {words}.",
        figures.percent_axis("accuracy (%)", drawn),
        tuple(rows),
        tuple(Key(name, colour) for key, (name, colour) in kinds.items() if any(key in one for one in table.values())),
    )


def drift_figure(sites: list[dict[str, Any]], key: str) -> Rows:
    """Draw running against population statistics of every call site.

    Args:
        sites: `layers` of doctor.json.
        key: `shift` of the mean, or `ratio` of the variance.
    """
    kinds = {"train": ("training clips", GREY), "eval": ("evaluation clips", BLUE)}
    bound, title, unit = {
        "shift": (SHIFT_LIMIT, "Shift of the running mean", "standard deviations"),
        "ratio": (RATIO_LIMIT, "Ratio of the variances", "larger / smaller, log scale"),
    }[key]
    low = 1.0 if key == "ratio" else 0.0  # a ratio of 1 is no difference
    values = [entry[where][key] for entry in sites for where in kinds if entry.get(where, {}).get(key) is not None]
    rows = [
        Line(
            f"{entry['layer']} · {entry['call'] + 1}",
            tuple(
                (Bar(low, entry[where][key], colour),)
                for where, (_, colour) in kinds.items()
                if entry.get(where, {}).get(key) is not None
            )
            or ((),),
        )
        for entry in sites
    ]
    largest = max(sites, key=lambda entry: entry.get("train", {}).get(key) or 0.0)
    return Rows(
        f"{title} (dotted: from where it counts)",
        f"Bars per call site; the largest on training clips is {largest['layer']}, call {largest['call'] + 1}.",
        figures.axis(unit, values, low=low, high=1.05 * max([*values, 2 * bound]), log=key == "ratio"),
        tuple(rows),
        tuple(Key(name, colour, "bar") for name, colour in kinds.values()),
        rule=bound,
    )


def layers_table(sites: list[dict[str, Any]]) -> Table:
    """Return what each call site remembers and from how much."""
    notes = dict(LAYER_TERMS)
    columns = (
        text("layer"),
        number("call"),
        number("values per statistic", form=",.0f", note=notes["Values per statistic"]),
        number("updates", note=notes["Updates"]),
        number("window", "updates", ".0f", notes["Window"]),
        pages.percent("absent rows", notes["Absent rows"], ".0f"),
        text("numbers"),
    )
    rows = [
        Row(
            (
                e["layer"],
                e["call"] + 1,
                e["values_per_statistic"],
                e["updates"],
                e["window"],
                e["absent"],
                e["dtype"].removeprefix("torch."),
            )
        )
        for e in sites
    ]
    return Table("Running statistics of each call site", columns, tuple(rows))


def groups_table(doctor: dict[str, Any]) -> Table:
    """Return accuracy and input shift by camera and subject."""
    columns = (
        text("evaluation clips of"),
        number("clips"),
        pages.percent("C"),
        number("input shift", "standard deviations from training", ".2f"),
    )
    rows = tuple(
        Row((f"{division} {group}", clips, accuracy, moved))
        for division, table in doctor["groups"].items()
        for group, (clips, accuracy, moved) in table.items()
    )
    return Table("Evaluation clips by group", columns, rows)
