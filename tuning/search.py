"""Search normalization settings with Ray Tune (ASHA): norm, bodies, momentum, batch size, dropout, order, rate.

    python -m tuning.search --data ntu60.h5 --out studies/norms --trials 40
    ray submit cluster.yaml search.py -- --data /data/ntu60.h5 --out /data/studies/norms --trials 400 --address auto

Judged by accuracy on held-out training subjects; the test split is not read. Leaves STUDY/results.json and results.csv.
Exit codes: 0 ok, 2 wrong settings, 3 every trial failed.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.data import InputConfig
from pipeline.report import Tracker, start_wandb
from preprocessing.hdf5 import IntegrityError, open_file
from tuning import results
from tuning.space import SPACE, LogUniform
from tuning.trial import run


@dataclass(frozen=True)
class Search:
    """Settings of a search."""

    data: Path
    """HDF5 file made by preprocessing.build."""
    out: Path
    """Study folder."""
    trials: int = 20
    """Number of settings tried."""
    epochs: int = 20
    """Epochs of a trial that is not stopped early."""
    grace: int = 3
    """Epochs that every trial gets before ASHA may stop it."""
    seed: int = 0
    """Of the settings drawn, and of every training."""
    frames: int = InputConfig.frames
    """Frames T that clips are resampled to."""
    cpus: int = 1
    """CPU cores a trial; as many trials run at once as fit the machine."""
    gpus: float = 0.0
    """GPUs a trial (a fraction lets trials share one)."""
    wandb: Literal["off", "offline", "online"] = "offline"
    """W&B through the driver: one run a trial."""
    address: str | None = None
    """An existing Ray cluster (auto: the one this machine belongs to); empty: this machine alone, on loopback."""

    def __post_init__(self) -> None:
        for name in ("trials", "epochs", "grace"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)} must be 1 or more")
        if not self.data.is_file():
            raise ValueError(f"{self.data} does not exist; build it with python -m preprocessing.build")


def trainable(settings: dict[str, Any]) -> None:
    """What Ray runs in each trial's process."""
    from ray import tune

    threads = settings.pop("threads")
    for record in run(settings, threads):
        tune.report(record)


def connect(address: str | None) -> None:
    """Start Ray on loopback with a token of our own, or join a cluster. No dashboard, no usage reports."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our results.json is the record
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # so that verbose=0 is silent: the recorder reports
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    if address is None:
        ray.init(
            include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False, logging_level=logging.ERROR
        )
    else:
        ray.init(address=address, log_to_driver=False)


def search(settings: Search) -> list[dict[str, Any]]:
    """Run all trials; return one row each."""
    open_file(settings.data)  # a damaged file is named here, once, and not by every trial
    connect(settings.address)
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    drawn = {
        name: tune.loguniform(how.low, how.high) if isinstance(how, LogUniform) else tune.choice(list(how.values))
        for name, how in SPACE.items()
    }
    fixed = {
        "data": str(settings.data.resolve()),
        "out": str(settings.out.resolve()),
        "fast_start": True,  # the driver has just checked the file
        "threads": settings.cpus,
        "input.frames": settings.frames,
        "train.epochs": settings.epochs,
        "train.eval_every": 1,
        "train.seed": settings.seed,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    try:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": settings.cpus, "gpu": settings.gpus}),
            param_space=drawn | fixed,
            tune_config=tune.TuneConfig(
                metric="val",
                mode="max",
                num_samples=settings.trials,
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=settings.epochs, grace_period=min(settings.grace, settings.epochs)
                ),
                search_alg=tune.search.BasicVariantGenerator(random_state=settings.seed),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="ray", storage_path=str(settings.out.resolve()), callbacks=[_recorder(settings)], verbose=0
            ),
        )
        grid: Any = tuner.fit()
        return [_row(number, result) for number, result in enumerate(grid)]
    finally:
        ray.shutdown()


def describe(config: dict[str, Any]) -> str:
    """The searched settings of a trial in one line."""
    parts = []
    for name in SPACE:
        value = config.get(name)
        shown = f"{value:.2g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.split('.')[1]} {shown}")
    return "  ".join(parts)


def _recorder(settings: Search) -> Any:
    """What the driver does as results arrive: a progress bar, a line a finished trial, one W&B run a trial.

    W&B is fed here and not in the trials: a trial that the scheduler stops would lose what it has not flushed.
    """
    from ray import tune

    class Recorder(tune.Callback):
        def setup(self, *_: Any, **__: Any) -> None:
            # Not in __init__: Ray pickles its callbacks before it starts.
            columns = (TextColumn("search"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self.progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
            self.task = self.progress.add_task("", total=settings.trials)
            self.progress.start()
            self.runs: dict[str, Tracker] = {}
            self.best = 0.0

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            if trial.trial_id not in self.runs:
                config = {name: trial.config[name] for name in SPACE}
                self.runs[trial.trial_id] = start_wandb(
                    settings.out, trial.trial_id, config, settings.wandb, group=settings.out.name
                )
            self.runs[trial.trial_id].log(_measured(result))

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            last = _measured(trial.last_result)
            self.best = max(self.best, last["val"] or 0.0)
            self._end(trial, f"val {100 * (last['val'] or 0):5.1f} %  epoch {last['epoch']}", last)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._end(trial, "failed", {})

        def _end(self, trial: Any, outcome: str, last: dict[str, Any]) -> None:
            self.runs.pop(trial.trial_id, Tracker()).finish(last)
            self.progress.console.print(f"{outcome}  {describe(trial.config)}", highlight=False, soft_wrap=True)
            self.progress.update(self.task, advance=1, description=f"best val {100 * self.best:.1f} %")

        def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
            for tracker in self.runs.values():
                tracker.finish({})
            self.progress.stop()

    return Recorder()


MEASURED = ("val", "train", "A", "B", "C", "D", "normalization_gap", "generalization_gap", "epoch")


def _measured(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values.get(name) for name in MEASURED}


def _row(number: int, result: Any) -> dict[str, Any]:
    row = {"trial": number} | {name: result.config[name] for name in SPACE if name in (result.config or {})}
    row |= _measured(result.metrics or {})
    return row | {"error": str(result.error).strip().splitlines()[-1] if result.error else ""}


def main() -> int:
    """Entry of `python -m tuning.search`; returns the exit code."""
    try:
        settings = tyro.cli(Search, prog="python -m tuning.search", description=__doc__)
        rows = search(settings)
    except (IntegrityError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 6 if isinstance(error, IntegrityError) else 2
    command = {key: str(value) for key, value in asdict(settings).items()}
    results.write(settings.out, command, rows)
    finished = [row for row in results.order(rows) if row["val"] is not None]
    print(f"{len(finished)} of {len(rows)} trials finished; {settings.out / 'results.json'}")
    for row in finished[:5]:
        print(f"  val {100 * row['val']:.1f} %  {describe(row)}")
    return 0 if finished else 3


if __name__ == "__main__":
    # Ray sends the trainable by name: workers must find it in tuning.search, not in __main__.
    from tuning.search import main as imported_main

    sys.exit(imported_main())
