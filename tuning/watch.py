"""Watch a training, a search or a study in the browser while it goes on.

    python -m tuning.watch runs/first
    python -m tuning.watch studies/norms

The page follows the ledger: curves, accuracies A to D, gaps, warnings, and the trials of a search or a study. It
continues when the training is started again. It is served on this machine alone (127.0.0.1), under an address with a
random token; from another machine, forward the port (ssh -L). Ctrl-C stops it; the training is not touched.
Exit codes: 0 stopped by Ctrl-C, 2 wrong folder or port.
"""

from __future__ import annotations

import sys

from preprocessing import startup
from tuning.options import read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("tuning.watch"))  # before h5py and Jinja load

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.live import LiveServer, Source
from pipeline.pages import TERMS, figures, live, render
from pipeline.pages.figures import COLOURS, FAINT, Curves, Series, percent
from pipeline.run_folder import CONFIG
from pipeline.tracking import ledger as run_ledger
from preprocessing import exits, journal, pages, startup
from preprocessing.pages import Box, Provenance, Row, Table, number, text
from tuning.attempt import epoch_metrics
from tuning.ledger import NAME

DRAWN = 8  # trials with a colour of their own: those under way, then the best
Trial = dict[str, Any]


def trials_of(study: Path, events: Iterable[dict[str, Any]]) -> list[Trial]:
    """Return every trial that has begun: name, settings, arm, seed, state, cause, curve.

    Args:
        study: Its folder; the curve of a trial under way is read from the trial's own run folder.
        events: Lines of the study's ledger, without the first.
    """
    trials: dict[str, Trial] = {}
    for line in events:
        if "begun" in line:
            trials[line["begun"]["name"]] = line["begun"] | {
                "state": "running",
                "cause": "",
                "curve": [],
                "attempts": 0,
            }
        elif "failed" in line:
            trials[line["failed"]] |= {"cause": line["cause"], "attempts": trials[line["failed"]]["attempts"] + 1}
        elif "ended" in line:
            ended = line["ended"]
            trials[ended["task"]["name"]] |= {"state": ended["outcome"]} | {
                key: ended[key] for key in ("cause", "curve", "attempts")
            }
    for trial in trials.values():
        if trial["state"] == "running":
            lines = run_ledger.read(study / "trials" / trial["name"])
            trial["curve"] = [epoch_metrics(line) for line in lines if "accuracies" in line]
    return list(trials.values())


def study_files(study: Path) -> list[Path]:
    """Return the files that the page over a study is made of."""
    return [study / NAME, *sorted((study / "trials").glob(f"*/{run_ledger.NAME}"))]


def study_page(study: Path, provenance: Provenance) -> str:
    """Return the page over the search or study in the folder `study`, as far as it has come."""
    first, *events = journal.read(study / NAME) or [{}]
    head, trials = first.get("study", {}), trials_of(study, events)
    count = {
        state: sum(trial["state"] == state for trial in trials)
        for state in ("running", "finished", "stopped", "failed")
    }
    newest = max((path.stat().st_mtime for path in study_files(study) if path.is_file()), default=0.0)
    return render(
        "live.html",
        provenance,
        kind="watch",
        title=f"“{study.resolve().name}”",
        subtitle=f"{head.get('kind', 'study')}, up to {head.get('epochs', '?')} epochs per trial; accuracies are on "
        "held-out subjects of the training part",
        state=", ".join(f"{trials_in} {state}" for state, trials_in in count.items() if trials_in)
        or "waiting for the first trial",
        changed=min(newest, time.time()),
        warnings=warnings(trials),
        boxes=boxes(trials),
        plots=[curves(trials)] if any(trial["curve"] for trial in trials) else [],
        tables=[table(trials)] if trials else [],
        terms=TERMS,
        failed=[(trial["name"], trial["cause"], trial["attempts"]) for trial in trials if trial["state"] == "failed"],
    )


def ranked(trials: list[Trial]) -> list[Trial]:
    """Return the trials with an accuracy, the best first."""
    known = [trial for trial in trials if trial["curve"] and trial["curve"][-1]["val"] is not None]
    return sorted(known, key=lambda trial: -trial["curve"][-1]["val"])


def warnings(trials: list[Trial]) -> list[str]:
    """Return attempts that failed and are tried again."""
    return [
        f"{trial['name']}: attempt {trial['attempts']} failed ({trial['cause']}); it is tried again."
        for trial in trials
        if trial["state"] == "running" and trial["attempts"]
    ]


def boxes(trials: list[Trial]) -> list[Box]:
    """Return the three best trials so far."""
    return [
        Box(
            f"{place}. {trial['name']}",
            percent(trial["curve"][-1]["val"], 1),
            f"C, epoch {trial['curve'][-1]['epoch']}, {trial['state']}",
            "good" if place == 1 else "plain",
        )
        for place, trial in enumerate(ranked(trials)[:3], 1)
    ]


def curves(trials: list[Trial]) -> Curves:
    """Draw C by epoch of every trial; those under way and the best in colours."""
    shown = [trial for trial in trials if trial["curve"]]
    order = [*(t for t in shown if t["state"] == "running"), *(t for t in ranked(shown) if t["state"] != "running")]
    series = [
        Series(
            f"{trial['name']}, {trial['state']}",
            tuple((point["epoch"], None if point["val"] is None else 100 * point["val"]) for point in trial["curve"]),
            COLOURS[place % len(COLOURS)] if place < DRAWN else FAINT,
            dashed=trial["state"] == "running",
            quiet=place >= DRAWN,
        )
        for place, trial in enumerate(order)
    ]
    return Curves(
        "Accuracy C on held-out subjects by epoch",
        f"Curves of {len(series)} trials; dashed: under way.",
        figures.epoch_axis([int(point["epoch"]) for trial in shown for point in trial["curve"]]),
        figures.percent_axis("accuracy (%)", []),
        tuple(sorted(series, key=lambda one: not one.quiet)),
        height=320,
    )


def table(trials: list[Trial]) -> Table:
    """Return every trial, the best first, then those without an accuracy."""
    notes = dict(TERMS)
    named = any(trial["arm"] for trial in trials)
    columns = (
        text("trial"),
        *([text("arm")] if named else []),
        text("state"),
        number("epoch"),
        *(pages.percent(name, notes[name]) for name in "CABD"),
        pages.percent("norm. gap", notes["Normalization gap"], unit="points"),
        text("settings"),
    )
    first = ranked(trials)
    rows = []
    for trial in (*first, *(trial for trial in trials if trial not in first)):
        last = trial["curve"][-1] if trial["curve"] else {}
        values = [last.get(name) for name in ("epoch", *"CABD", "normalization_gap")]
        drawn = ", ".join(f"{name.split('.')[-1]} {_short(value)}" for name, value in trial["settings"].items())
        arm = [trial["arm"]] if named else []
        rows.append(Row((trial["name"], *arm, trial["state"], *values, drawn)))
    return Table("Trials, the best first", columns, tuple(rows))


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def is_study(folder: Path) -> bool:
    """Return whether a folder is that of a search or a study."""
    first = journal.read(folder / NAME)[:1]
    return bool(first and "study" in first[0])


def source(folder: Path, provenance: Provenance) -> Source:
    """Return the page over a run folder, or over a study folder.

    Raises:
        ValueError: The folder is neither.
    """
    if is_study(folder):
        return Source(lambda: study_page(folder, provenance), lambda: study_files(folder))
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} is neither a run folder (no {CONFIG}) nor a study folder (no {NAME}): name the --out of a "
            "train, search or study command that has begun."
        )
    return Source(lambda: live.page(folder, provenance), lambda: live.run_files(folder))


def main() -> int:
    """Run `python -m tuning.watch`; return the exit code."""
    try:
        options = read_options("tuning.watch")
        page = source(options.folder, Provenance.of("tuning.watch", sys.argv[1:]))
        with LiveServer(page, options.port) as server:
            print(f"{server.address}\nOpen this address in a browser on this machine. Ctrl-C stops it.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
        print("stopped")
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return exits.report(error)
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))
