"""The follower process of a search or a study: reads its ledger and those of its trials, one W&B run per trial.

    python -m tuning.wandb_follower STUDY --mode offline --id ID

See pipeline.tracking.follower_process for its other options and for when it ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking import follower_process, ledger, metric_names
from pipeline.tracking.subjects import tags_of
from preprocessing import files, journal, provenance
from tuning.attempt import epoch_metrics
from tuning.ledger import NAME

if TYPE_CHECKING:
    from pipeline.tracking.wandb_door import WandbRun


class Trial:
    """A trial as a subject of the follower.

    Args:
        study: The study folder.
        key: Distinguishes the trial within its study.
        task: The task that has begun according to the study's ledger.
    """

    job_type = "trial"

    def __init__(self, study: Path, key: str, task: dict[str, Any]) -> None:
        self.key, self.name, self.group = key, task["name"], study.resolve().name
        self.task, self.folder = task, study / "trials" / task["name"]
        self._tail, self._rows = journal.Tail(self.folder / ledger.NAME), dict[int, dict[str, Any]]()
        self.outcome: dict[str, Any] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Its settings, and its provenance once its process has started."""
        settings: dict[str, Any] = self.task["settings"] | {"train.seed": self.task["seed"], "arm": self.task["arm"]}
        path = self.folder / provenance.FILE
        return settings | ({"provenance": files.read_json(path)} if path.is_file() else {})

    @property
    def tags(self) -> list[str]:
        """Arm and normalization."""
        settings = self.task["settings"]
        return tags_of(self.task["arm"], settings.get("norm.kind"), settings.get("norm.persons"))

    @property
    def notes(self) -> str:
        """The command of the trial's process."""
        return str(self.config.get("provenance", {}).get("command", ""))

    def rows(self) -> list[dict[str, Any]]:
        """Return the evaluated epochs: from the trial's own ledger, at its end from the study's."""
        if self.outcome is not None:
            return list(self.outcome["curve"])
        self._rows |= {line["epoch"]: epoch_metrics(line) for line in self._tail.read() if "accuracies" in line}
        return list(self._rows.values())

    def ended(self, stopped: bool) -> bool:
        """Return whether the study has the trial's outcome, or has stopped."""
        return stopped or self.outcome is not None

    def conclude(self, run: WandbRun) -> dict[str, Any]:
        """Return the figures of the last epoch, and of the test split if the trial read it."""
        rows = self.rows()
        summary = metric_names.final(self.outcome["summary"]) if self.outcome else {}
        return (metric_names.last(rows[-1]) if rows else {}) | summary


class Trials:
    """The trials of a study that are under way or ended since `done` records.

    Args:
        study: The study folder.
        done: Records of the ledger that an earlier command wrote; trials that ended in them are left out.
    """

    def __init__(self, study: Path, done: int) -> None:
        self.study, self.done, self.read = study, done, 0
        self._tail = journal.Tail(study / NAME)
        self._trials: dict[str, Trial] = {}

    def __call__(self) -> list[Trial]:
        """Return those that have figures."""
        for record in self._tail.read():
            self.read += 1
            if "begun" in record:
                task = record["begun"]
                self._trials[task["name"]] = Trial(self.study, f"{self.read:05d}", task)
            elif "ended" in record:
                name = record["ended"]["task"]["name"]
                if self.read <= self.done:
                    self._trials.pop(name, None)
                elif name in self._trials:
                    self._trials[name].outcome = record["ended"]
        return [trial for trial in self._trials.values() if trial.rows()]


def main() -> int:
    """Entry of the process; returns the exit code."""
    options = follower_process.parser()
    options.add_argument("study", type=Path)
    options.add_argument("--done", type=int, default=0, help="records of the ledger that an earlier command wrote")
    parsed = options.parse_args()
    return follower_process.follow(Trials(parsed.study, parsed.done), parsed.study, parsed)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # wandb would wait at exit for a server that is given up
