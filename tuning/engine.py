"""Where trials run: Ray Tune on this machine or on an existing cluster. The door to Ray.

A `Source` says which tasks are wanted and is told how they went; it lives in the driver alone. Each trial is a process
of its own (tuning.attempt), so a trial may have several ranks, hang, crash or be killed without harm to Ray's worker.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from preprocessing.engines import knock
from tuning.attempt import Attempt
from tuning.ledger import Outcome, Task
from tuning.trial import RESULT

ATTEMPTS = 2  # of a trial
KEEP = 3  # one in so many goes on from a rung, which is so many times as far as the one before
STARTS = 3  # of Ray
SOCKET = 107  # characters of a socket's path, at most, of which Ray's own part is as long as this one:
SOCKET_OF_RAY = "/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"


@dataclass(frozen=True)
class Halving:
    """ASHA (Li et al. 2020, arXiv 1810.05934): of those that have come as far, one in KEEP goes on."""

    grace: int
    """Epochs that every trial gets."""
    epochs: int


@dataclass(frozen=True)
class Resources:
    """What a trial gets; as many trials run at once as fit."""

    cpus: int
    """Cores, and threads, a rank."""
    gpus: float
    """GPUs a rank; a fraction lets trials share one."""
    limit: float | None
    """Seconds an attempt may take."""
    memory: float
    """Gigabytes of its own that a rank may hold; 0: no limit."""
    at_once: int = 0
    """Trials at a time; 0: as many as fit."""


class Source(Protocol):
    """Which tasks are wanted, and who is told of them."""

    def next(self) -> Task | None:
        """The next task; None when there is none."""

    def order(self, task: Task) -> dict[str, Any]:
        """What tuning.trial needs to know of it."""

    def measured(self, task: Task, figures: dict[str, Any]) -> None:
        """An epoch was evaluated."""

    def failed(self, task: Task, cause: str) -> None:
        """An attempt at a task has failed."""

    def ended(self, outcome: Outcome) -> None:
        """A task has ended."""


class EngineError(RuntimeError):
    """Ray cannot be used; one line for the user."""


def connect(address: str | None) -> None:
    """Start Ray on loopback with a token of our own, or join a cluster. No dashboard, no usage reports."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our ledger is the record
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the last report has no accuracy
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "600")  # Ray's state is never read back
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command, which can go on later
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # so that verbose=0 is silent: the source reports
    if address is None:
        if os.environ.get("RAY_ADDRESS"):
            unused = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} is not used"
            print(f"note: {unused}: trials run on this machine; --address auto joins that cluster", file=sys.stderr)
        # Batch systems have long names for scratch folders. Ray and trials have sockets there, and little else.
        if len(os.environ.get("TMPDIR", "")) > SOCKET - len(SOCKET_OF_RAY):
            os.environ["TMPDIR"] = "/tmp"  # noqa: S108
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that fails is ours to tell
    if address is None:
        _start(ray)
        return
    # Workers import these very packages, wherever they run; a submitted job has brought them already.
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    packages = [str(Path(__file__).parents[1] / name) for name in ("preprocessing", "pipeline", "tuning")]
    try:
        knock(address)
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.ERROR,
            runtime_env=None if submitted else {"py_modules": packages},
        )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from None


def _start(ray: Any) -> None:
    """Ray gives its own processes 30 s to come up, which a busy machine may not keep: then once more."""
    for left in reversed(range(STARTS)):
        try:
            # "local", or Ray joins whatever cluster was started here last, and waits for minutes where that is gone.
            ray.init(
                address="local", include_dashboard=False, _node_ip_address="127.0.0.1",
                log_to_driver=False, logging_level=logging.ERROR,
            )  # fmt: skip
            return
        except Exception as error:  # what Ray raises here is Exception itself
            ray.shutdown()
            if not left:
                reason = str(error).splitlines()[0]
                long = "AF_UNIX path length" in reason
                remedy = "set RAY_TMPDIR to a folder with a short path" if long else "the same command tries again"
                raise EngineError(f"Ray did not start ({reason}); {remedy}") from None


def _no_cluster(address: str, error: Exception) -> EngineError:
    reason = str(error).splitlines()[0]
    return EngineError(
        f"no Ray cluster at {address} ({reason}); start one with ray start --head, or leave out --address"
    )


def run_all(
    source: Source, trials: Path, resources: Resources, address: str | None, halving: Halving | None = None
) -> None:
    """Do all tasks of `source`, each in its folder of `trials`. A task that fails is tried once more."""
    connect(address)
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    # max_t is one more than there are epochs: a trial that gets through them all ends by itself and leaves its files.
    scheduler = (
        ASHAScheduler(
            time_attr="epoch",
            max_t=halving.epochs + 1,
            grace_period=min(halving.grace, halving.epochs),
            reduction_factor=KEEP,
        )
        if halving
        else FIFOScheduler()
    )
    live = _Live(source)
    scratch = tempfile.mkdtemp(prefix="skelnorm-ray-")
    before = signal.signal(signal.SIGINT, live.interrupt)
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(), lambda config: _needs(config, resources)),
            param_space={"folder": str(trials.resolve()), "limit": resources.limit},
            tune_config=tune.TuneConfig(
                metric="val",
                mode="max",
                num_samples=-1,
                scheduler=scheduler,
                search_alg=_searcher(live, resources),
                reuse_actors=True,
                max_concurrent_trials=resources.at_once or None,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=scratch,
                callbacks=[_callback(live)],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
            ),
        )
        tuner.fit()
        live.heed()
    finally:
        signal.signal(signal.SIGINT, before)
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _needs(config: dict[str, Any], resources: Resources) -> Any:
    from ray import tune

    ranks = config["order"]["settings"]["nproc"]
    return tune.PlacementGroupFactory([{"CPU": resources.cpus * ranks, "GPU": resources.gpus * ranks}])


class _Live:
    """The source and what is known of running trials: never copied, never pickled (Ray pickles what it is given)."""

    def __init__(self, source: Source | None = None) -> None:
        self.source = source
        self.tasks: dict[str, Task] = {}
        self.curves: dict[str, dict[int, dict[str, Any]]] = {}
        self.interrupted = False

    def interrupt(self, *_: Any) -> None:
        """Ctrl-C. Python swallows what is raised in a finalizer, and Ray has many: so it is kept as well."""
        self.interrupted = True
        self.heed()

    def heed(self) -> None:
        """Raise what was swallowed."""
        if self.interrupted:
            raise KeyboardInterrupt

    def __deepcopy__(self, memo: Any) -> _Live:
        return self

    def __reduce__(self) -> Any:
        return (_Live, ())


def _trainable() -> type:
    """What a Ray worker holds: the running attempt and nothing else."""
    import json

    from ray import tune

    class Training(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.attempt = Attempt(Path(config["folder"]) / config["name"], config["order"], config["limit"])

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.attempt.stop()
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            figures = self.attempt.next()
            if figures is not None:
                return figures
            result = json.loads((self.attempt.folder / RESULT).read_text())
            if not self.config["keep"]:
                shutil.rmtree(self.attempt.folder / "checkpoints", ignore_errors=True)
                (self.attempt.folder / "checkpoint.json").unlink(missing_ok=True)
            return {"done": True, "result": result}

        def cleanup(self) -> None:
            self.attempt.stop()

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: the attempt's own checkpoint is in its folder."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing: the next attempt finds its own."""

    return Training


def _searcher(live: _Live, resources: Resources) -> Any:
    """The source in the form that Ray Tune asks for."""
    from ray.tune.search import Searcher

    class Tasks(Searcher):
        def __init__(self, live: _Live) -> None:
            super().__init__(metric="val", mode="max")
            self.live = live

        def suggest(self, trial_id: str) -> Any:
            assert self.live.source is not None
            task = self.live.source.next()
            if task is None:
                return Searcher.FINISHED
            self.live.tasks[trial_id] = task
            order = self.live.source.order(task) | {"threads": resources.cpus, "memory": resources.memory}
            return {"name": task.name, "order": order, "keep": order.pop("keep")}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Nothing: the callback below knows more."""

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
            """Nothing: our ledger is the truth."""

    return Tasks(live)


def _callback(live: _Live) -> Any:
    """What the driver does as results arrive: tell the source."""
    from ray import tune

    class Tell(tune.Callback):
        def __init__(self, live: _Live) -> None:
            self.live = live

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
            self.live.heed()

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            # The last report has no epoch. One that makes ASHA stop the trial has, and says "done" all the same.
            if "epoch" in result:
                task = self.live.tasks[trial.trial_id]
                figures = {name: value for name, value in result.items() if name in FIGURES}
                self.live.curves.setdefault(trial.trial_id, {})[figures["epoch"]] = figures
                self.live.source.measured(task, figures)  # type: ignore[union-attr]

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            written = Path(trial.error_file or "")
            self.cause = said(written.read_text() if written.is_file() else "")
            self.live.source.failed(self.live.tasks[trial.trial_id], self.cause)  # type: ignore[union-attr]

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            result = (trial.last_result or {}).get("result")
            if result:
                self._end(trial, "finished", summary=result["summary"], variants=result["variants"])
            else:
                self._end(trial, "stopped")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self.on_trial_recover(iteration, trials, trial)
            self._end(trial, "failed", cause=self.cause)

        def _end(self, trial: Any, outcome: str, **more: Any) -> None:
            task = self.live.tasks.pop(trial.trial_id)
            curve = [figures for _, figures in sorted(self.live.curves.pop(trial.trial_id, {}).items())]
            self.live.source.ended(Outcome(task=task, outcome=outcome, curve=curve, **more))  # type: ignore[union-attr]

    return Tell(live)


FIGURES = ("epoch", "val", "train", "A", "B", "C", "D", "normalization_gap", "generalization_gap")


def said(error: str) -> str:
    """The cause in what Ray makes of a failure: our own line if there is one, else Ray's last."""
    ours = re.findall(r"tuning\.attempt\.Failed: (.*)", error)
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return ours[-1] if ours else f"worker lost: {lines[0] if lines else 'no reason given'}"
