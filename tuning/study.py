"""Compare arms over seeds: each arm is trained with each seed, and paired by seed with the baseline.

    python -m tuning.study --data ntu60.h5 --out studies/question --arms question --seeds 5
    python -m tuning.study --data ntu60.h5 --out studies/mine --arms mine.toml --seeds 10 --epochs 60

Arms: question (the question's network, the answers it got and those it did not), norms (every kind), persons (which
bodies share statistics), or a TOML file (tuning/arms.py says how). The same command again goes on where the last one
stopped, also after a kill; with more --seeds it adds those that are missing. Each trial reads the test split once, at
its end; nothing is chosen by it. Leaves STUDY/results.json, results.csv, report.html; STUDY/ledger.jsonl is the record.
Exit codes: 0 ok, 2 wrong settings, 3 the baseline has no finished trial, 6 damaged file, 130 interrupted.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from pipeline.config import TrainConfig
from pipeline.data.clips import InputConfig
from preprocessing import exits, files
from tuning import page, results
from tuning.arms import Arms, read
from tuning.engine import EngineError, Resources, run_all
from tuning.ledger import Ledger, Outcome, Task
from tuning.progress import Board, OnRecord
from tuning.search import checked, order, seconds


@dataclass(frozen=True)
class Study:
    """Settings of a study."""

    data: Path
    """HDF5 file made by preprocessing.build; on a cluster every node sees it under this path."""
    out: Path
    """Study folder; on a cluster shared by all nodes. The same command again goes on."""
    arms: str
    """question, norms, persons, or a TOML file."""
    seeds: int = 5
    """Seeds 0 .. N-1; each arm is trained with each."""
    epochs: int = TrainConfig.epochs
    """Epochs of a trial."""
    eval_every: int = TrainConfig.eval_every
    """Epochs between two points of a learning curve."""
    frames: int = InputConfig.frames
    """Frames T that clips are resampled to."""
    cpus_per_worker: int = 1
    """CPU cores a rank; as many trials run at once as fit the machine."""
    gpus_per_worker: float = 0.0
    """GPUs a rank (a fraction lets trials share one)."""
    at_once: int = 0
    """Trials at a time; 0: as many as fit."""
    trial_limit: str = ""
    """Time that a trial may take before it counts as failed (90s, 30m, 2h)."""
    keep: bool = False
    """Keep the checkpoints of finished trials, for pipeline.doctor and pipeline.page."""
    wandb: Literal["off", "offline", "online"] = "offline"
    """W&B through the driver: one run a trial."""
    address: str | None = None
    """An existing Ray cluster (auto: the one this machine belongs to); empty: this machine alone, on loopback."""

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "eval_every", "cpus_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more")
        for name in ("gpus_per_worker", "at_once"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 0 or more")
        seconds(self.trial_limit, "--trial-limit")
        if not self.data.is_file():
            raise ValueError(f"{self.data} does not exist; build it with python -m preprocessing.build")


def tasks(arms: Arms, seeds: int) -> list[Task]:
    """All trainings, seed by seed, so that whenever a study stops most arms have been paired."""
    return [
        Task(f"{_slug(name)}-s{seed}", arm.settings, seed, arm=name, ranks=arm.ranks, variants=arms.variants_of(name))
        for seed in range(seeds)
        for name, arm in arms.trained().items()
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-").lower()


class Queue(OnRecord):
    """The source of a study's tasks: those that have not ended."""

    def __init__(self, settings: Study, wanted: list[Task], ledger: Ledger, board: Board) -> None:
        super().__init__(ledger, board)
        self.settings = settings
        self.left = deque(wanted)

    def next(self) -> Task | None:
        """The next one."""
        if not self.left:
            return None
        task = self.left.popleft()
        self.ledger.begin(task)
        return task

    def order(self, task: Task) -> dict[str, Any]:
        """A training that reads the test split at its end."""
        return order(task, self.settings, {"train.eval_every": self.settings.eval_every}, test=True)


def study(settings: Study) -> tuple[Arms, list[Outcome]]:
    """Run all trials that are not done yet; return the arms and all outcomes."""
    arms = read(settings.arms)
    wanted = tasks(arms, settings.seeds)
    names = [task.name for task in wanted]
    if len(set(names)) < len(names):
        raise ValueError("two arms have names that differ by punctuation only; rename one")
    same: dict[str, Any] = {"epochs": settings.epochs, "eval_every": settings.eval_every, "frames": settings.frames}
    same |= {"arms": {name: asdict(arm) for name, arm in arms.arms.items()}, "baseline": arms.baseline}
    ledger = Ledger(settings.out, {"kind": "study", "data_sha256": checked(settings.data), **same})
    left = [task for task in wanted if task.name not in ledger.ended]
    done = len(wanted) - len(left)
    if done or ledger.under_way:
        print(f"resumed: {done} trials are done, {len(ledger.under_way)} were under way", file=sys.stderr)
    limit = seconds(settings.trial_limit, "--trial-limit")
    resources = Resources(settings.cpus_per_worker, settings.gpus_per_worker, limit, 0.0, settings.at_once)
    if left:
        with Board(settings.out, "study", len(wanted), done, settings.wandb) as board:
            source = Queue(settings, left, ledger, board)
            run_all(source, settings.out / "trials", resources, settings.address)
    return arms, [ledger.ended[name] for name in names if name in ledger.ended]


def show(arms: list[dict[str, Any]], judged: str, console: Console) -> None:
    """The leaderboard."""
    table = Table("arm", "n", "train", "val", judged, "effect", "95 %", "p (Holm)", "A", "B", "C", "D")
    for row in arms:
        if not row["n"]:
            table.add_row(row["arm"], "0")
            continue
        effect, interval = row["effect"], row["interval"]
        table.add_row(
            row["arm"],
            str(row["n"]),
            *(results.plus_minus(row[name], row[f"{name}_std"]) for name in ("train", "val", judged)),
            "" if effect is None else f"{100 * effect:+.1f}",
            "" if interval is None else f"{100 * interval[0]:+.1f} .. {100 * interval[1]:+.1f}",
            "" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            *("" if row[name] is None else f"{100 * row[name]:.1f}" for name in "ABCD"),
        )
    console.print(table)


def main() -> int:
    """Entry of `python -m tuning.study`; returns the exit code."""
    try:
        settings = tyro.cli(Study, prog="python -m tuning.study", description=__doc__)
        with files.lock(settings.out / "lock"):
            arms, outcomes = study(settings)
            command = {key: str(value) for key, value in asdict(settings).items()}
            document = results.of_arms(arms, outcomes)
            results.write(settings.out, {"command": command, **document}, table="trials")
            page.write_study(settings.out, command, document, outcomes)
    except (ValueError, OSError, EngineError, files.LockedError, KeyboardInterrupt) as error:
        return exits.report(error, "interrupted; the same command goes on")
    show(document["arms"], document["judged"], Console(width=None if sys.stdout.isatty() else 160))
    print(f"{settings.out / 'results.json'}  {settings.out / 'report.html'}")
    baseline = next(row for row in document["arms"] if row["arm"] == arms.baseline)
    return 0 if baseline["n"] else exits.WORKER


if __name__ == "__main__":
    from tuning.study import main as imported_main

    sys.exit(imported_main())
