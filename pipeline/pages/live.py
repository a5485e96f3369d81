"""Values of the page over a training under way: curves, A to D, gaps and warnings, from the files of its run folder."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from pipeline.pages import TERMS, figures, render
from pipeline.pages.figures import BLUE, COLOURS, GREY, RED, Curves, Series, hundred, percent, signed
from pipeline.pages.finished import COUNTS
from pipeline.run_folder import CONFIG, DOCTOR, NON_FINITE, SUMMARY
from pipeline.tracking import ledger
from preprocessing import files, pages
from preprocessing.pages import Box, Provenance, Row, Table, number

FOUR = {
    "A": ("A, training clips, running statistics", RED, False),
    "B": ("B, training clips, batch statistics", RED, True),
    "C": ("C, held-out clips, running statistics", BLUE, False),
    "D": ("D, held-out clips, batch statistics", BLUE, True),
}
GAPS = {
    "normalization": ("normalization gap (B − A)", RED, "norm. gap"),
    "generalization": ("generalization gap (B − D)", GREY, "gen. gap"),
}


def run_files(run: Path) -> list[Path]:
    """Return the files that the page is made of."""
    return [run / name for name in (CONFIG, ledger.NAME, SUMMARY, DOCTOR, NON_FINITE)]


def page(run: Path, provenance: Provenance) -> str:
    """Return the page over the training in the folder `run`, as far as it has come."""
    lines, config = ledger.read(run), _json(run / CONFIG)
    measured = [line for line in lines if "accuracies" in line]
    summary = _json(run / SUMMARY)
    return render(
        "live.html",
        provenance,
        kind="watch",
        title=f"“{run.resolve().name}”",
        subtitle=subtitle(config),
        state=state(lines, config, bool(summary), (run / NON_FINITE).is_file()),
        changed=_changed(run),
        warnings=warnings(run, lines, _json(run / DOCTOR)),
        boxes=boxes(lines, measured, summary),
        plots=plots(lines, measured),
        tables=[table(measured)] if measured else [],
        terms=TERMS,
        failed=[],
    )


def subtitle(config: dict[str, Any]) -> str:
    """Return network, normalization and schedule in one line."""
    if not config:
        return "The training has not written its settings yet."
    norm, train = config["norm"], config["train"]
    kind = "no norm" if norm["kind"] == "none" else f"{norm['kind']} ({norm['persons']})"
    return (
        f"{Path(config['data']).name}: network {config['model']['name']}, {kind}, {train['epochs']} epochs, "
        f"batch {train['batch_size']}, seed {train['seed']}"
    )


def state(lines: list[dict[str, Any]], config: dict[str, Any], finished: bool, non_finite: bool) -> str:
    """Return how far the training has come, and how long the rest takes at this speed."""
    if finished:
        return f"finished after {len(lines)} epochs"
    if non_finite:
        return "ended: the loss became non-finite"
    if not lines:
        return "waiting for the first epoch"
    epochs = config.get("train", {}).get("epochs", lines[-1]["epoch"])
    seconds = [line["seconds"] + line.get("evaluation_seconds", 0.0) for line in lines]
    left = (epochs - lines[-1]["epoch"]) * sum(seconds) / len(seconds)
    return f"epoch {lines[-1]['epoch']} of {epochs}; about {duration(left)} left"


def duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def warnings(run: Path, lines: list[dict[str, Any]], doctor: dict[str, Any]) -> list[str]:
    """Return what needs attention: gaps, non-finite losses, and what the monitor wrote into the ledger."""
    found = [
        f"Epoch {line['epoch']}: {words}"
        for line in lines
        for words in ([line["warning"]] if line.get("warning") else line.get("warnings", []))
    ]
    if lines and not math.isfinite(lines[-1]["train"].get("loss", 0.0)):
        found.append("The loss is not finite: lower optim.lr.")
    measured = [line for line in lines if "accuracies" in line]
    gap = measured[-1]["gap"]["normalization"] if measured else 0.0
    if gap >= COUNTS and not doctor:
        found.append(
            f"Epoch {measured[-1]['epoch']}: running statistics cost {100 * gap:.0f} points on training clips "
            f"(normalization gap). When it does not close: skelnorm doctor {run.name}"
        )
    return found + ([f"The doctor: {doctor['verdict']}"] if doctor else [])


def boxes(lines: list[dict[str, Any]], measured: list[dict[str, Any]], summary: dict[str, Any]) -> list[Box]:
    """Return the newest figures."""
    if not lines:
        return []
    last = lines[-1]
    words = f"epoch {last['epoch']}, loss {last['train'].get('loss', math.nan):.3g}"
    made = [Box("Training accuracy", percent(last["train"]["top1"], 1), words)]
    if measured:
        newest = measured[-1]
        four, gap = newest["accuracies"], newest["gap"]
        key = "C" if "C" in four else "A"
        where = "held-out clips" if key == "C" else "training clips"
        made.append(Box(f"{key}: running statistics", percent(four[key], 1), f"epoch {newest['epoch']}, {where}"))
        made += [
            Box(
                f"{name.capitalize()} gap",
                f"{signed(100 * gap[name])} points",
                f"epoch {newest['epoch']}",
                "bad" if name == "normalization" and gap[name] >= COUNTS else "plain",
            )
            for name in GAPS
            if name in gap
        ]
    if summary:
        split = summary["eval"]
        if summary.get(split):
            made.append(Box(f"Final accuracy on {split}", percent(summary[split]["top1"], 1), "", "good"))
    made.append(Box("Speed", f"{last['clips_per_second']:,.0f} clips/s", f"{last['seconds']:.3g} s per epoch"))
    return made


def plots(lines: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[Curves]:
    """Return accuracy, gaps, loss, distance of running means, by epoch; without what has no values yet."""
    if not lines:
        return []
    at = [line["epoch"] for line in measured]

    def series(name: str, values: list[Any], colour: str, dashed: bool = False) -> Series:
        return Series(name, tuple(zip(at, values, strict=True)), colour, dashed)

    train = hundred(line["train"]["top1"] for line in lines)
    epochs = [line["epoch"] for line in lines]
    accuracies = [Series("training, as it goes", tuple(zip(epochs, train, strict=True)), GREY, dashed=True, symbol="")]
    accuracies += [
        series(name, hundred(line["accuracies"].get(key) for line in measured), colour, dashed)
        for key, (name, colour, dashed) in FOUR.items()
        if any(key in line["accuracies"] for line in measured)
    ]
    x = figures.epoch_axis(epochs)
    made = [_curves("Accuracy by epoch", x, figures.percent_axis("accuracy (%)", []), accuracies)]
    gaps = [
        series(name, hundred(line["gap"].get(key) for line in measured), colour)
        for key, (name, colour, _) in GAPS.items()
        if any(key in line["gap"] for line in measured)
    ]
    if gaps:
        values = [value for one in gaps for _, value in one.points]
        made.append(
            _curves("Gaps by epoch", x, figures.axis("points", [0, *(v for v in values if v is not None)]), gaps)
        )
    losses = {"training": [line["train"].get("loss") for line in lines]}
    losses |= {
        split: [line.get(split, {}).get("loss") for line in lines]
        for split in ("val",)
        if any("loss" in line.get(split, {}) for line in lines)
    }
    shown = [
        Series(
            f"{name} loss",
            tuple(zip(epochs, values, strict=True)),
            colour,
            symbol="" if name == "training" else "circle",
        )
        for (name, values), colour in zip(losses.items(), (GREY, BLUE), strict=False)
    ]
    every = [value for values in losses.values() for value in values if value is not None and math.isfinite(value)]
    made.append(_curves("Loss by epoch", x, figures.axis("cross-entropy (nats)", [0, *every], low=0), shown))
    layers = list(dict.fromkeys(name for line in measured for name in line.get("norm", {})))
    shifts = [
        series(
            name, [line.get("norm", {}).get(name, {}).get("mean_shift") for line in measured], COLOURS[n % len(COLOURS)]
        )
        for n, name in enumerate(layers)
    ]
    if shifts:
        drawn = [value for one in shifts for _, value in one.points if value is not None and math.isfinite(value)]
        y = figures.axis("standard deviations", [0, *drawn], low=0)
        made.append(_curves("Distance of running means from the training clips, by layer", x, y, shifts))
    return made


def _curves(title: str, x: figures.Axis, y: figures.Axis, series: list[Series]) -> Curves:
    newest = [f"{one.name} {one.points[-1][1]:.4g}" for one in series if one.points and one.points[-1][1] is not None]
    return Curves(title, f"{title}. Newest values: {', '.join(newest) or 'none yet'}.", x, y, tuple(series), height=260)


def table(measured: list[dict[str, Any]]) -> Table:
    """Return the evaluated epochs, the newest first."""
    notes = dict(TERMS)
    columns = (
        number("epoch"),
        pages.percent("train"),
        *(pages.percent(name, notes[name]) for name in "ABCD"),
        *(pages.percent(short, notes[f"{name.capitalize()} gap"], unit="points") for name, (*_, short) in GAPS.items()),
    )
    rows = [
        Row(
            (
                line["epoch"],
                line["train"]["top1"],
                *(line["accuracies"].get(name) for name in "ABCD"),
                *(line["gap"].get(name) for name in GAPS),
            )
        )
        for line in reversed(measured)
    ]
    return Table("Evaluated epochs, the newest first", columns, tuple(rows))


def _changed(run: Path) -> float:
    """Return when the ledger last grew (seconds since 1970), 0 without one."""
    path = run / ledger.NAME
    return min(path.stat().st_mtime, time.time()) if path.is_file() else 0.0


def _json(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.is_file() else {}
