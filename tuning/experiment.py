"""Experiment: what a search and a study have in common - settings, checks, the specification of a trial, the run."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pipeline import settings
from pipeline.data.config import InputConfig
from pipeline.settings import Range
from preprocessing import arguments
from tuning.engine import Pause, Resources, Stops, TaskSource, run_all
from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter
from tuning.sets import DataSet
from tuning.sources import TaskList
from tuning.trial_spec import TrialSpec

INTERRUPTED = "interrupted; the same command resumes it"
AtLeast1 = Annotated[int, Range(ge=1)]
# Names of options in older versions, when a rank was called a worker; they keep working.
OLD_OPTIONS = {
    "--cpus-per-worker": "--cpus-per-rank",
    "--gpus-per-worker": "--gpus-per-rank",
    "--workers-per-trial": "--ranks-per-trial",
}


E = TypeVar("E", bound="Experiment")


@dataclass(frozen=True)
class Experiment(ABC):
    """Settings that a search and a study share."""

    data: Path
    """HDF5 file made by preprocessing.build; on a cluster every node sees it under this path."""
    out: Path
    """Study folder; on a cluster shared by all nodes. The same command resumes it."""
    _: KW_ONLY
    epochs: AtLeast1 = 20
    """Epochs per trial."""
    frames: Annotated[int, Range(ge=2)] = InputConfig.frames
    """Frames T that clips are resampled to."""
    cpus_per_rank: AtLeast1 = 1
    """CPU cores per rank; as many trials run at once as fit the machine."""
    trial_limit: str = ""
    """Time after which an attempt at a trial counts as failed (90s, 30m, 2h)."""
    keep: bool = False
    """Keep the checkpoints of finished trials, for pipeline.doctor and pipeline.page."""
    wandb: Literal["off", "offline", "online"] = "offline"
    """W&B through the driver: one run per trial."""
    nodes_per_trial: AtLeast1 = 1
    """Nodes of the cluster that the ranks of a trial are divided among."""
    address: str | None = None
    """An existing Ray cluster (auto: the one this machine belongs to); empty: this machine alone, on loopback."""

    def __post_init__(self) -> None:
        settings.check(self, "--")
        duration_seconds(self.trial_limit, "--trial-limit")
        if not self.data.is_file():
            raise ValueError(f"{self.data} does not exist; build it with python -m preprocessing.build")
        if self.nodes_per_trial > 1 and not self.address:
            raise ValueError(f"--nodes-per-trial {self.nodes_per_trial} needs a cluster: add --address auto.")

    @property
    def command(self) -> dict[str, str]:
        """All settings as text, as report.html shows them."""
        return {key: str(value) for key, value in asdict(self).items()}

    @property
    def recorded_command(self) -> dict[str, str]:
        """All settings as text for results.json, also under the keys that older versions wrote."""
        command = self.command
        old = {_key(old): command[_key(new)] for old, new in OLD_OPTIONS.items() if _key(new) in command}
        return command | old

    @abstractmethod
    def spec(self, task: Task) -> TrialSpec:
        """Return the full specification of a task's training."""

    @abstractmethod
    def resources(self) -> Resources:
        """Return what the engine gives each trial."""

    def check_nodes(self, ranks: int, where: str) -> None:
        """Raise ValueError if so many ranks cannot be divided among the nodes of a trial.

        Args:
            ranks: Number of ranks of a trial.
            where: What sets it, for the message.
        """
        if ranks % self.nodes_per_trial:
            raise ValueError(
                f"{where} {ranks} cannot be divided among {self.nodes_per_trial} nodes: use a multiple of "
                "--nodes-per-trial."
            )

    @property
    def limit_seconds(self) -> float | None:
        """The time limit of an attempt at a trial; None means no limit."""
        return duration_seconds(self.trial_limit, "--trial-limit")

    def make_spec(self, task: Task, eval_every: int, read_test: bool, memory: float = 0.0) -> TrialSpec:
        """Return the full specification of a task's training.

        Args:
            task: The task; its own settings win over those that all trials share.
            eval_every: Epochs between two evaluations.
            read_test: Evaluate the test split once, at the end.
            memory: Gigabytes that each rank may allocate; 0 means no limit.
        """
        data_set = self.data_set_of(task)
        shared = self.base | {
            "data": str(data_set.path.resolve()),
            "fast_start": True,  # the first trial on each machine checks the file (tuning.trial)
            "input.frames": self.frames,
            "train.epochs": self.epochs,
            "train.self_test": False,
            "train.seed": task.seed,
            "nproc": task.ranks,
            "train.eval_every": eval_every,
        }
        shared |= data_set.settings | ({"input.protocol": data_set.protocol} if data_set.protocol else {})
        return TrialSpec(
            settings=shared | task.settings,
            read_test=read_test,
            re_evaluations=task.re_evaluations,
            threads=self.cpus_per_rank,
            memory=memory,
            keep=self.keep,
        )

    def data_set_of(self, task: Task) -> DataSet:
        """Return the data set of a task."""
        return DataSet(self.data)

    def data_identity(self) -> dict[str, Any]:
        """Verify the data before any trial starts, and return what a resumed command must find again."""
        return {"data_sha256": DataSet(self.data).check()}

    @property
    def base(self) -> dict[str, Any]:
        """Flat settings of all trials beside those that the command itself has options for."""
        return {}

    def reporter(self, total: int, done: int, folder: Path | None = None) -> ProgressReporter:
        """Return the progress bar of `total` trials, `done` of which have ended, with one W&B run per trial."""
        title = type(self).__name__.lower() if folder is None else folder.name
        return ProgressReporter(folder or self.out, title, total, done, self.wandb)

    def run(self, source: TaskSource, stops: Stops = None, folder: Path | None = None) -> None:
        """Run the tasks of a source, each in a folder of STUDY/trials, or of `folder`.

        Args:
            source: Yields the tasks.
            stops: What stops them before their end.
            folder: Where they run, if not in STUDY.
        """
        run_all(source, (folder or self.out) / "trials", self.resources(), self.address, stops)

    def run_missing(
        self, tasks: Sequence[Task], ledger: StudyLedger, folder: Path | None = None, until: int | None = None
    ) -> list[Outcome]:
        """Run the tasks that have not ended; return the outcomes of those that have, in their order.

        Args:
            tasks: All tasks.
            ledger: Its record.
            folder: Where they run, if not in STUDY: its name stands at the progress bar.
            until: Epoch after which they are stopped, if they have not got there yet; None: they train to their end.

        Raises:
            ValueError: A task is on the record with other settings than it has now.
        """
        for task in tasks:
            recorded = ledger.recorded(task.name)
            if recorded is not None and recorded.settings != task.settings:
                raise ValueError(
                    f"{self.out} has a trial {task.name} with other settings, from another choice on validation; "
                    "choose another --out or delete it"
                )
        left = missing(tasks, ledger, until)
        if left:
            with self.reporter(len(tasks), len(tasks) - len(left), folder) as reporter:
                self.run(TaskList(left, self.spec, ledger, reporter), None if until is None else Pause(until), folder)
        return [ledger.ended[task.name] for task in tasks if task.name in ledger.ended]


def missing(tasks: Iterable[Task], ledger: StudyLedger, until: int | None = None) -> list[Task]:
    """Return the tasks that have neither ended nor, where they were stopped, got to the epoch `until`."""

    def there(outcome: Outcome | None) -> bool:
        if outcome is None:
            return False
        return outcome.outcome != "stopped" or (until is not None and outcome.last.get("epoch", 0) >= until)

    return [task for task in tasks if not there(ledger.ended.get(task.name))]


def parse(cls: type[E], description: str | None) -> E:
    """Return the settings of the command line; wrong options end the process with a message and exit code 2."""
    registry = settings.command_line()
    return arguments.parse(cls, cls.__module__, description, aliases=OLD_OPTIONS, registry=registry)


def _key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def report_resumed(done: int, under_way: int) -> None:
    """Print what an earlier run of the command left, if it left anything."""
    if done or under_way:
        print(f"resumed: {done} trials are done, {under_way} were under way", file=sys.stderr)


def duration_seconds(text: str, option: str) -> float | None:
    """Return a duration in seconds.

    Args:
        text: `90s`, `30m`, `2h` or `1.5h`; empty means none.
        option: Name of the option, for the message.

    Returns:
        Seconds; None for the empty text.

    Raises:
        ValueError: The text is not a duration, or is zero.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text)
    if not found or float(found[1]) == 0:
        raise ValueError(f"{option} {text!r} is an invalid duration: write it as 90s, 30m or 2h.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def study_ledger(
    experiment: Experiment, kind: str, identity: dict[str, Any], folder: Path | None = None
) -> StudyLedger:
    """Open the ledger of STUDY, or of a folder in it; `identity` are the settings that a resumed command must share.

    Raises:
        ValueError: The data file is damaged, or has no val clips.
        OtherStudy: STUDY holds the ledger of other settings or other data.
    """
    return StudyLedger(folder or experiment.out, {"kind": kind} | experiment.data_identity() | identity)
