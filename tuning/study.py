"""Compare arms over seeds: each arm is trained with each seed and compared with the baseline, paired by seed.

    python -m tuning.study --data ntu60.h5 --out studies/question --arms question --seeds 5
    python -m tuning.study --data ntu60.h5 --out studies/mine --arms mine.toml --seeds 10 --epochs 60
    python -m tuning.study --data sets.toml --out studies/all --arms norms --lr 3e-4 1e-3 3e-3 --screen 8 --grace 5

Arms: question (the question's network, the answers it received and others), norms (every kind), persons (which bodies
share statistics), or a TOML file (format: tuning/arms.py). With a TOML file of data sets (format: tuning/sets.py) each
arm is trained on each set, and the arms are compared over the sets. --lr and --screen choose on validation, before any
trial reads a test split. The same command resumes a study, also after a kill; with more --seeds, arms or data sets
it adds the missing trials. Each trial reads the test split once, at its end; nothing is selected by it.
Writes STUDY/results.json, results.csv and report.html; STUDY/ledger.jsonl is the record.
Exit codes: 0 ok, 2 wrong settings, 3 the baseline has no finished trial, 6 damaged file, 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: None)  # from here on Ctrl-C is one line

from rich.console import Console
from rich.table import Table

from pipeline.config import TrainConfig, as_words
from pipeline.settings import Range
from preprocessing import exits, files, lifetime
from preprocessing.arguments import suggest
from tuning.engine import REDUCTION, Resources, connected
from tuning.experiment import INTERRUPTED, AtLeast1, Experiment, missing, parse, report_resumed, study_ledger
from tuning.ledger import Outcome, StudyLedger, Task
from tuning.sets import DataSet, first_equal, read_sets
from tuning.trial import drop_checkpoints
from tuning.trial_spec import TrialSpec

if TYPE_CHECKING:
    from tuning import selection
    from tuning.arms import Arms

WIDTH = 160  # characters of the table where stdout is not a terminal


@dataclass(frozen=True, kw_only=True)
class Study(Experiment):
    """Settings of a study."""

    data: Path = field(kw_only=False)
    """HDF5 file made by preprocessing.build, or a TOML file that lists several data sets; on a cluster every node sees
    it under this path."""
    arms: str
    """question, norms, persons, or a TOML file."""
    epochs: AtLeast1 = TrainConfig.epochs
    """Epochs per trial."""
    seeds: AtLeast1 = 5
    """Number of seeds, 0 to N - 1; each arm is trained with each."""
    lr: tuple[float, ...] = ()
    """Learning rates; each arm gets the one that is best on val, on each data set. None: the settings' own."""
    screen: Annotated[int, Range(ge=0)] = 0
    """Arms that get all seeds: those with the best mean rank on val with seed 0, and the baseline; 0: all."""
    grace: Annotated[int, Range(ge=0)] = 0
    """Epochs of --epochs after which only the best third goes on of a data set's trainings that serve --lr or --screen,
    and again after three times as many; 0: all of them train to their end."""
    eval_every: AtLeast1 = TrainConfig.eval_every
    """Epochs between two points of a learning curve."""
    gpus_per_rank: Annotated[float, Range(ge=0)] = 0.0
    """GPUs per rank (a fraction lets trials share one)."""
    at_once: Annotated[int, Range(ge=0)] = 0
    """Largest number of trials that run at once; 0 means as many as fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [rate for rate in self.lr if not 0 < rate < 1]:
            raise ValueError(f"--lr {wrong[0]:g} is out of range: learning rates are above 0 and below 1.")
        names = [f"{rate:g}" for rate in self.lr]  # of the trials' folders
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--lr {twice[0]} is listed twice (compared to six digits): remove one.")
        if self.grace > self.epochs:
            raise ValueError(f"--grace {self.grace} is too large: must be at most --epochs ({self.epochs}).")
        if self.grace and not (self.lr or self.screen):
            raise ValueError("--grace needs --lr or --screen: it applies to the trainings that serve a choice.")
        _ = self.sets  # a mistake in the file is reported before anything starts

    @cached_property
    def sets(self) -> dict[str, DataSet]:
        """The data sets by name, read once: a job's folder may be replaced under it."""
        return {one.name: one for one in read_sets(self.data)}

    @cached_property
    def shared_choices(self) -> dict[str, str]:
        """The data set that each one takes its choice from: the first with the same trainings."""
        return first_equal(self.sets, DataSet.training_key)

    @cached_property
    def shared_clips(self) -> dict[str, str]:
        """The data set that each one counts as where sets are counted: the first with the same train and val clips."""
        return first_equal(self.sets, lambda one: one.clips)

    def check_arms(self, arms: Arms) -> None:
        """Raise ValueError if an arm or a data set decides what the study decides, or needs other nodes."""
        for name, arm in arms.trained().items():
            if arm.ranks > 1:  # a trial of one rank has one node
                self.check_nodes(arm.ranks, f"arm {name!r}: ranks")
        protocols = {arm.settings.get("input.protocol") for arm in arms.trained().values()}
        if len(protocols) > 1 or (protocols != {None} and list(self.sets) != [""]):
            raise ValueError(
                "arms cannot set input.protocol: they are compared on the same clips. Write protocols into a TOML file "
                "of data sets, and give that as --data (format: tuning/sets.py)."
            )
        if protocol := protocols.pop():
            DataSet(self.data, protocol=protocol).check_protocol()
        owners = {f"arm {name!r}": arm.settings for name, arm in arms.trained().items()}
        owners |= {f"data set {name!r}": one.settings for name, one in self.sets.items()}
        if self.lr and (own := [owner for owner, its in owners.items() if "optim.lr" in its]):
            raise ValueError(f"{own[0]} sets optim.lr, which --lr chooses: remove one of them.")

    def data_set_of(self, task: Task) -> DataSet:
        """Return the data set of a task."""
        return self.sets[task.data_set]

    def data_identity(self) -> dict[str, Any]:
        """Verify the data of all sets, and return what a resumed study must find again."""
        if list(self.sets) == [""]:
            return super().data_identity()
        return {
            "sets": {
                name: {"data_sha256": one.check(), "protocol": one.protocol, "settings": one.settings}
                for name, one in self.sets.items()
            }
        }

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that a resumed study must share; a default adds nothing to what older versions recorded."""
        identity: dict[str, Any] = {"epochs": self.epochs, "eval_every": self.eval_every, "frames": self.frames}
        if self.lr:
            identity["lr"] = list(self.lr)
        if self.grace:
            identity["grace"] = self.grace
        return identity

    def rungs(self, data_set: str) -> list[int]:
        """Return the epochs at which a data set's candidates are compared; a set with more epochs has later ones."""
        epochs = self.sets[data_set].settings.get("train.epochs", self.epochs)
        found, rung = [], self.grace and max(1, round(self.grace * epochs / self.epochs))
        while 0 < rung < epochs:
            found.append(rung)
            rung *= REDUCTION
        return found

    def spec(self, task: Task) -> TrialSpec:
        """Return the specification of a training; it reads the test split at its end, unless it serves a choice."""
        spec = self.make_spec(task, self.eval_every, read_test=not task.choosing)
        if task.choosing and (rungs := self.rungs(task.data_set)):
            spec = replace(spec, settings={**spec.settings, "train.eval_every": rungs[0]})
        return spec

    def resources(self) -> Resources:
        """Return what each trial gets."""
        return Resources(self.cpus_per_rank, self.gpus_per_rank, self.limit_seconds, self.at_once, self.nodes_per_trial)


class StudyResult(NamedTuple):
    """Result of a study."""

    arms: Arms
    outcomes: list[Outcome]
    """Trials that have ended, seed by seed."""
    document: dict[str, Any]
    """Content of results.json without the command (tuning.results.study_document)."""


class Choice(NamedTuple):
    """Arms and settings that were chosen on validation; without --lr and --screen, all of them."""

    arms: Arms
    """The arms that remain, and those that have trials."""
    tasks: list[Task]
    """Their trainings, with what was chosen for them."""
    cells: Sequence[dict[str, Any]] = ()
    """The choice for results.json: one entry per data set and arm."""
    failed: Sequence[Outcome] = ()
    """Failed candidates of data sets and arms that have no other, so that nothing could be chosen."""


def list_tasks(arms: Arms, seeds: int, sets: Sequence[str] = ("",)) -> list[Task]:
    """Return all trainings, seed by seed: whenever a study stops, most arms have pairs.

    Args:
        arms: The arms.
        seeds: Number of seeds.
        sets: Names of the data sets; the name of an only one may be empty.

    Raises:
        ValueError: Two arms or two data sets would share a folder.
    """
    tasks = [
        Task(
            f"{_slug(data_set)}--{_slug(name)}-s{seed}" if data_set else f"{_slug(name)}-s{seed}",
            arm.settings, seed, name, arm.ranks, arms.re_evaluations_of(name), data_set,
        )
        for seed in range(seeds)
        for data_set in sets
        for name, arm in arms.trained().items()
    ]  # fmt: skip
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError("Two arms, or two data sets, have names that differ by case or punctuation only: rename one.")
    return tasks


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-").lower()


def run_study(settings: Study) -> StudyResult:
    """Run all trials that have not ended, then write results.json, results.csv and report.html.

    Args:
        settings: The study; `settings.out` is created, or resumed.

    Raises:
        ValueError: The arms or the data file are unfit, or `settings.out` holds another study.
        EngineError: Ray cannot be used.
        LockedError: Another process is running this study.
    """
    from tuning import page, results  # loads scipy
    from tuning.arms import read_arms
    from tuning.over_sets import combined_document

    with files.lock_folder(settings.out):
        arms = read_arms(settings.arms)
        settings.check_arms(arms)
        sets = list(settings.sets)
        tasks = list_tasks(arms, settings.seeds, sets)
        ledger = study_ledger(settings, "study", settings.identity | arms.identity())
        report_resumed(len(ledger.ended), len(ledger.under_way))
        choice = Choice(arms, tasks)
        with ExitStack() as ray:  # started by the first task that is missing, once
            if settings.lr or settings.screen:
                choice = _choose(settings, arms, tasks, ledger, ray)
            arms = choice.arms
            outcomes = [*_run_missing(settings, choice.tasks, ledger, ray), *choice.failed]
        if sets != [""]:
            document = combined_document(arms, outcomes, sets, settings.shared_clips)
        else:
            document = results.study_document(arms, outcomes)
        document |= {"choice": choice.cells} if choice.cells else {}
        results.write(settings.out, {"command": settings.recorded_command, **document})
        page.write_study(settings.out, settings.command, document, outcomes)
    return StudyResult(arms, outcomes, document)


def _run_missing(
    settings: Study, tasks: Sequence[Task], ledger: StudyLedger, ray: ExitStack, until: int | None = None
) -> list[Outcome]:
    """Run the tasks that have not got to the epoch `until`, on the Ray that `ray` holds; return the outcomes."""
    if missing(tasks, ledger, until):
        ray.enter_context(connected(settings.address))
    return settings.run_missing(tasks, ledger, until=until)


def _choose(settings: Study, arms: Arms, tasks: Sequence[Task], ledger: StudyLedger, ray: ExitStack) -> Choice:
    """Train the candidates, then return what is chosen.

    A trial on the record has the settings that were chosen for it. An arm that no longer remains keeps such trials.
    """
    from tuning import selection  # loads scipy

    first = [task for task in tasks if task.seed == 0]
    source = settings.shared_choices
    held = {
        (source[task.data_set], task.arm): task.settings
        for task in filter(None, (ledger.recorded(task.name) for task in tasks))
    }
    candidates = list[selection.Candidate]()
    for name in dict.fromkeys(source.values()):
        own = selection.candidates([task for task in first if task.data_set == name], settings.lr)
        candidates += _halved(settings, name, own, ledger, ray)
    found = selection.best_of_each(candidates, held)
    best = {(name, arm): found[one, arm] for name, one in source.items() for arm in arms.arms if (one, arm) in found}
    kept = selection.screened(arms, found, list(dict.fromkeys(source.values())), settings.screen)
    chosen = [
        replace(task, settings=best[task.data_set, task.arm].outcome.task.settings)
        for task in tasks
        if (task.arm in kept.arms or ledger.recorded(task.name)) and (task.data_set, task.arm) in best
    ]
    cells = [
        {
            "set": data_set,
            "arm": arm,
            "val": one.val,
            "epochs": one.epoch,
            "kept": arm in kept.arms,
        }
        | {key: one.outcome.task.settings[key] for key in (selection.RATE,) if settings.lr}
        for (data_set, arm), one in best.items()
    ]
    failed = [
        replace(one, task=replace(one.task, data_set=name))
        for one in ledger.ended.values()
        if one.task.choosing and one.outcome == "failed"
        for name, shared in source.items()
        if one.task.data_set == shared and (name, one.task.arm) not in best
    ]
    return Choice(arms.only({*kept.arms, *(task.arm for task in chosen)}), chosen, cells, failed)


def _halved(
    settings: Study, data_set: str, tasks: Sequence[Task], ledger: StudyLedger, ray: ExitStack
) -> list[selection.Candidate]:
    """Train the candidates of a data set, the best third of each rung to the next one; return all of them."""
    from tuning import selection

    found: dict[str, selection.Candidate] = {}
    for rung, epoch in enumerate([*settings.rungs(data_set), None]):
        compared = selection.at_rung(_run_missing(settings, tasks, ledger, ray, epoch), rung, epoch)
        found |= {one.outcome.task.name: one for one in compared}
        tasks = [one.outcome.task for one in selection.survivors(compared)]
    if not settings.keep:
        for name in found:
            drop_checkpoints(settings.out / "trials" / name)
    return [one._replace(outcome=ledger.ended[name]) for name, one in found.items()]  # some may have failed later


def show(arms: list[dict[str, Any]], eval_split: str, console: Console) -> None:
    """Print the leaderboard; of a study over several data sets, with the mean rank."""
    from tuning.results import plus_minus

    ranked = any(row.get("rank") is not None for row in arms)
    table = Table(
        "arm",
        "n",
        *(["rank"] if ranked else []),
        "train",
        "val",
        eval_split,
        "effect",
        "95 %",
        "p (Holm)",
        "A",
        "B",
        "C",
        "D",
    )
    for row in arms:
        if not row["n"]:
            table.add_row(row["arm"], "0")
            continue
        effect, interval = row["effect"], row["interval"]
        table.add_row(
            row["arm"],
            str(row["n"]),
            *(["" if row["rank"] is None else f"{row['rank']:.1f}"] if ranked else []),
            *(plus_minus(row[name], row[f"{name}_std"]) for name in ("train", "val", eval_split)),
            "" if effect is None else f"{100 * effect:+.1f}",
            "" if interval is None else f"{100 * interval[0]:+.1f} .. {100 * interval[1]:+.1f}",
            "" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            *("" if row[name] is None else f"{100 * row[name]:.1f}" for name in "ABCD"),
        )
    console.print(table)


def suggest_best(settings: Study, arms: Arms, rows: Iterable[dict[str, Any]]) -> None:
    """Print the command that trains the arm which is best on val; none where the best differs by set or rate."""
    ranked = [row for row in rows if row["arm"] in arms.trained() and row["val"] is not None]
    if not ranked or settings.lr or list(settings.sets) != [""]:
        return
    best = max(ranked, key=lambda row: row["val"])["arm"]
    own = {"train.epochs": settings.epochs, "input.frames": settings.frames} | arms.arms[best].settings
    place = ("--data", settings.data, "--out", f"runs/{_slug(best)}")
    suggest("pipeline.train", "default", *place, *as_words(own))


def main() -> int:
    """Run `python -m tuning.study`; return the exit code."""
    with lifetime.interruptible():
        try:
            settings = parse(Study, __doc__)
            arms, _, document = run_study(settings)
        except BaseException as error:
            return exits.report(error, INTERRUPTED)
    show(document["arms"], document["judged"], Console(width=None if sys.stdout.isatty() else WIDTH))
    print(f"{settings.out / 'results.json'}  {settings.out / 'report.html'}")
    suggest_best(settings, arms, document["arms"])
    baseline = next(row for row in document["arms"] if row["arm"] == arms.baseline)
    return 0 if baseline["n"] else exits.WORKER


if __name__ == "__main__":
    # Ray pickles classes by their module's name, which must be tuning.study, not __main__.
    from tuning.study import main as imported_main

    sys.exit(startup.run(imported_main))
