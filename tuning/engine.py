"""The engine of searches and studies: Ray Tune on this machine or on an existing cluster. The only door to Ray here.

A `TaskSource` yields tasks and receives events; it stays in the driver. Each trial is a process of its own
(tuning.attempt), so a trial may use several ranks, hang, crash or be killed without harm to the Ray worker.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from preprocessing import exits
from preprocessing.engines import EngineError, knock
from tuning import ray_session, spread
from tuning.attempt import EPOCH_METRICS
from tuning.ledger import Outcome, Task
from tuning.trial import RESULT, drop_checkpoints
from tuning.trial_spec import TrialSpec

ATTEMPTS = 2  # per trial
REDUCTION = 3  # of ASHA, and of a study's halving: one trial of so many goes on from a rung to the next
STARTS = 3  # attempts to start Ray


@dataclass(frozen=True)
class Asha:
    """Early stopping by ASHA (Li et al. 2020, arXiv 1810.05934): one in REDUCTION trials goes on from each rung."""

    grace: int
    """Epochs that every trial gets."""
    epochs: int
    """Epochs of a trial that is not stopped."""


@dataclass(frozen=True)
class Pause:
    """A stop of every trial after the same epoch; each can go on later, from its checkpoint."""

    epoch: int


Stops = Asha | Pause | None  # None trains every trial to its end


@dataclass(frozen=True)
class Resources:
    """Resources per trial; as many trials run at once as fit."""

    cpus_per_rank: int
    """Cores, and threads, per rank."""
    gpus_per_rank: float
    """GPUs per rank; with a fraction, trials share a GPU."""
    time_limit: float | None
    """Seconds per attempt; None means no limit."""
    max_concurrent: int = 0
    """Largest number of trials that run at once; 0 means as many as fit."""
    nodes: int = 1
    """Nodes that the ranks of a trial are divided among."""

    def nodes_of(self, ranks: int) -> int:
        """Return the number of nodes of a trial with so many ranks; one rank has one node."""
        return self.nodes if ranks > 1 else 1


class TaskSource(Protocol):
    """Interface of a source of tasks, which also receives events."""

    def next(self) -> Task | None:
        """Return the next task; None when there is none."""

    def spec(self, task: Task) -> TrialSpec:
        """Return the full specification of a task's training."""

    def on_attempt_failed(self, task: Task, cause: str) -> None:
        """Receive the cause of a failed attempt."""

    def on_end(self, outcome: Outcome) -> None:
        """Receive the outcome of a task that has ended."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Start a private Ray on loopback, or join a cluster; leave it at the end. No dashboard, no usage reports.

    Within another `connected` nothing is started: Ray starts badly a second time in one process.

    Args:
        address: Address of a cluster, or `auto`; None starts Ray on this machine.

    Raises:
        EngineError: Ray does not start, or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the study ledger is the record
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the last result has no accuracy
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "600")  # Ray's state is never read back
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command, which can be resumed
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # makes verbose=0 silent: the source reports
    if _connections:
        yield
        return
    with _own_ray() if address is None else _cluster(address), _counted():
        # The source reports failed trials.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        yield


_connections: list[bool] = []  # one entry while this process is connected


@contextmanager
def _counted() -> Iterator[None]:
    _connections.append(True)
    try:
        yield
    finally:
        _connections.pop()


@contextmanager
def _own_ray() -> Iterator[None]:
    if os.environ.get("RAY_ADDRESS"):
        unused = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} is not used"
        print(f"note: {unused}: trials run on this machine; --address auto joins that cluster", file=sys.stderr)
    session, switches = ray_session.SessionFolder(), ray_session.LOOPBACK | ray_session.NO_METRICS
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        with ray_session.private_environment(session.path / "tmp", **switches):
            import ray
            from ray._private import ray_constants

            _start(ray, ray_constants, session.path / "r")  # which Ray makes writable for all users
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        session.remove()


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    import ray

    # Workers on all nodes import these packages; a submitted job has uploaded them already.
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    packages = [str(Path(__file__).parents[1] / name) for name in ("preprocessing", "pipeline", "tuning")]
    with ray_session.private_environment():
        try:
            knock(address)
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR,
                runtime_env=None if submitted else {"py_modules": packages},
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, error) from None
    try:
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, constants: Any, folder: Path) -> None:
    """Start Ray, up to STARTS times: its processes must be up within 30 s, which a busy machine can miss."""
    for left in reversed(range(STARTS)):
        try:
            # Without "local" Ray joins the cluster that was last started here, and waits minutes if it is gone.
            with ray_session.on_loopback(constants):
                ray.init(
                    address="local", include_dashboard=False, _temp_dir=str(folder),
                    log_to_driver=False, logging_level=logging.ERROR,
                )  # fmt: skip
            return
        except Exception as error:  # Ray raises a plain Exception here
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
    source: TaskSource,
    trials: Path,
    resources: Resources,
    address: str | None,
    stops: Stops = None,
) -> None:
    """Run all tasks of a source; a task that fails is tried ATTEMPTS times.

    Args:
        source: Yields tasks and receives events.
        trials: Folder in which each task gets a folder.
        resources: What each trial gets.
        address: Ray cluster, or None for this machine.
        stops: What stops trials before their end. The checkpoints of those that ASHA stopped are removed, and those of
            finished trials unless their specification keeps them.

    Raises:
        EngineError: Ray cannot be used.
        Exception: What the source raised, such as OSError on a full disk; the trial counts as under way.
        KeyboardInterrupt: The user pressed Ctrl-C; Terminated, a kind of it, after SIGTERM.
    """
    live = _Live(source, trials, given_up=isinstance(stops, Asha))

    def paused(trial_id: str, result: Mapping[str, Any]) -> bool:
        return isinstance(stops, Pause) and int(result.get("epoch", 0)) >= stops.epoch

    with (
        connected(address),
        ray_session.private_environment(),
        tempfile.TemporaryDirectory(prefix="skelnorm-tune-") as scratch,
        live.interruptible(),
    ):
        from ray import tune

        spread.report_missing_nodes(resources.nodes)
        tuner = tune.Tuner(
            tune.with_resources(_trainable(resources), lambda config: _placement(config, resources)),
            param_space={"folder": str(trials.resolve()), "limit": resources.time_limit},
            tune_config=tune.TuneConfig(
                metric="val",
                mode="max",
                num_samples=-1,
                scheduler=_scheduler(stops),
                search_alg=_searcher(live),
                reuse_actors=True,
                max_concurrent_trials=resources.max_concurrent or None,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=scratch,
                callbacks=[_callback(live)],
                verbose=0,
                stop=paused,
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
            ),
        )
        tuner.fit()
        live.drop_stopped()
        live.raise_if_ended()


def _scheduler(stops: Stops) -> Any:
    """Return ASHA, or a scheduler that stops no trial."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if not isinstance(stops, Asha):
        return FIFOScheduler()
    # max_t is beyond the last epoch: a trial that is not stopped ends by itself and writes its files.
    return ASHAScheduler(
        time_attr="epoch",
        max_t=stops.epochs + 1,
        grace_period=min(stops.grace, stops.epochs),
        reduction_factor=REDUCTION,
    )


def _placement(config: dict[str, Any], resources: Resources) -> Any:
    """Return the placement group of a trial: one bundle, and one node, for all ranks that share a node."""
    from ray import tune

    ranks = TrialSpec.from_json(config["spec"]).ranks
    nodes = resources.nodes_of(ranks)
    bundle = {"CPU": resources.cpus_per_rank * ranks // nodes, "GPU": resources.gpus_per_rank * ranks / nodes}
    return tune.PlacementGroupFactory([bundle] * nodes, strategy="PACK" if nodes == 1 else "STRICT_SPREAD")


class _Live:
    """The source and the state of running trials: never copied, and pickled as empty (Ray pickles its arguments).

    `trials` holds the trials' folders; `given_up` means that a stopped trial never goes on.
    """

    def __init__(self, source: TaskSource | None = None, trials: Path = Path(), given_up: bool = False) -> None:
        self.source = source
        self.trials = trials
        self.given_up = given_up
        self.stopped: list[str] = []
        self.tasks: dict[str, Task] = {}
        self.curves: dict[str, dict[int, dict[str, Any]]] = {}
        self.signal = 0
        self.failure: Exception | None = None

    def tell(self, event: Callable[..., None], *values: Any) -> None:
        """Call what an event is for; its error ends the run. Ray would take it for an error of the trial."""
        if self.failure is None:
            try:
                event(*values)
            except Exception as error:
                self.failure = error

    def drop_stopped(self) -> None:
        """Remove the checkpoints of the trials that were stopped and never go on."""
        if self.given_up:
            for name in self.stopped:
                drop_checkpoints(self.trials / name)
        self.stopped.clear()

    def end(self, trial_id: str, outcome: str, **more: Any) -> None:
        """Tell the source the outcome of a trial, then drop the checkpoints that are no longer needed."""
        assert self.source is not None
        task = self.tasks.pop(trial_id)
        self.drop_stopped()  # of trials that ended earlier: Ray reports this one before its processes end
        self.stopped += [task.name] * (outcome == "stopped")
        curve = [metrics for _, metrics in sorted(self.curves.pop(trial_id, {}).items())]
        self.tell(self.source.on_end, Outcome(task=task, outcome=outcome, curve=curve, **more))
        if outcome == "finished" and not self.source.spec(task).keep:
            self.tell(drop_checkpoints, self.trials / task.name)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the search; Ray has set a handler of its own."""
        before = {number: signal.signal(number, self.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except KeyboardInterrupt:  # Ray raises one of its own for a signal during its waits in C++
            self.raise_if_ended()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.signal else handler)

    def interrupt(self, number: int = signal.SIGINT, _: Any = None) -> None:
        """Note the first signal and raise."""
        if not self.signal:
            self.signal = number
            self.raise_if_ended()

    def raise_if_ended(self) -> None:
        """Raise what ends the run: KeyboardInterrupt (Terminated for SIGTERM) after a signal, or the source's error.

        Python ignores exceptions in finalizers, and Ray catches those in callbacks: so they are raised here once more.
        """
        if self.signal:
            raise exits.Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt
        if self.failure is not None:
            raise self.failure

    def __deepcopy__(self, memo: Any) -> _Live:
        return self

    def __reduce__(self) -> Any:
        return (_Live, ())


def _trainable(resources: Resources) -> type:
    """Return the class that a Ray worker runs: it holds the running attempt and nothing else."""
    import json

    from ray import tune

    class TrialRunner(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.agents: list[Any] = []
            self.begin(config)

        def begin(self, config: dict[str, Any]) -> None:
            self.spec = TrialSpec.from_json(config["spec"])
            nodes, folder = resources.nodes_of(self.spec.ranks), Path(config["folder"]) / config["name"]
            self.attempt = spread.start(folder, self.spec, config["limit"], nodes, self.agents)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.attempt.stop()
            self.begin(new_config)
            return True

        def step(self) -> dict[str, Any]:
            metrics = self.attempt.next_epoch()
            if metrics is not None:
                return metrics
            # The driver drops the checkpoints, once the end is on its record.
            return {"done": True, "result": json.loads((self.attempt.folder / RESULT).read_text())}

        def cleanup(self) -> None:
            self.attempt.stop()
            spread.end(self.agents)

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Do nothing: the attempt's own checkpoint is in its folder."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Do nothing: the next attempt finds its own checkpoint."""

    return TrialRunner


def _searcher(live: _Live) -> Any:
    """Return the source as a Ray Tune searcher."""
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
            return {"name": task.name, "spec": self.live.source.spec(task).to_json()}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Do nothing: the callback below knows more."""

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
            """Do nothing: the study ledger is the record."""

    return Tasks(live)


def _callback(live: _Live) -> Any:
    """Return the callback that passes Ray Tune's events on to the source."""
    from ray import tune

    class Events(tune.Callback):
        def __init__(self, live: _Live) -> None:
            self.live = live

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
            self.live.raise_if_ended()

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            # The last result has no epoch. The one at which ASHA stops the trial has one, although it is "done" too.
            if "epoch" in result:
                metrics = {name: value for name, value in result.items() if name in EPOCH_METRICS}
                self.live.curves.setdefault(trial.trial_id, {})[metrics["epoch"]] = metrics

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            written = Path(trial.error_file or "")
            self.cause = cause_from_ray(written.read_text() if written.is_file() else "")
            self.live.tell(self.live.source.on_attempt_failed, self.live.tasks[trial.trial_id], self.cause)  # type: ignore[union-attr]

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            result = (trial.last_result or {}).get("result")
            if result:
                self.live.end(trial.trial_id, "finished", summary=result["summary"], re_evaluations=result["variants"])
            else:
                self.live.end(trial.trial_id, "stopped")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self.on_trial_recover(iteration, trials, trial)
            self.live.end(trial.trial_id, "failed", cause=self.cause)

    return Events(live)


def cause_from_ray(error: str) -> str:
    """Return the cause of a failure from Ray's error file: the message of AttemptFailed, else Ray's first line."""
    ours = re.findall(r"tuning\.attempt\.AttemptFailed: (.*)", error)
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return ours[-1] if ours else f"worker lost: {lines[0] if lines else 'no reason given'}"
