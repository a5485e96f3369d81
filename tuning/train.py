"""Train one network over the nodes of a Ray cluster; the run folder is that of `pipeline.train`.

    python -m tuning.train ntu60-xsub --data /shared/ntu60.h5 --out /shared/runs/ctrgcn --nodes 4 --ranks-per-node 8 \
        --gpus-per-rank 1 --address auto
    ray submit cluster.yaml tuning/train.py -- ntu60-xsub --data ... --out ... --nodes 4 --address auto

All other options are settings of `pipeline.train` (`python -m pipeline.train PRESET --help`). Every node sees the data
file and the run folder under the same path. Ray Train starts the ranks; each does the work of a rank of
`pipeline.train`, with its checkpoints. A node that dies is replaced, and the training goes on from the last epoch. The
same command resumes a training that was stopped.
"""

from __future__ import annotations

import sys

from preprocessing import startup
from tuning.options import TrainNodes, read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("tuning.train"))  # before h5py and Ray load

import dataclasses
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import integrity
from pipeline.config import Config, as_dict, from_dict, of_run, own_options
from pipeline.run_folder import Run
from pipeline.tracking import ledger
from pipeline.tracking.follower import follow_training
from preprocessing import exits, lifetime
from tuning import ray_session
from tuning.engine import connected

WORDS = "failed.json"  # of the ranks, beside Ray's own state


class TrainingFailed(exits.Fault):
    """The training ended with an error on some rank; the message names it."""

    def __init__(self, message: str, code: int = exits.WORKER) -> None:
        super().__init__(message)
        self.exit_code = code


@dataclasses.dataclass(frozen=True)
class Place:
    """Nodes and resources of the ranks, and the number of failures that are replaced."""

    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    gpus_per_rank: float
    max_failures: int
    address: str | None

    @property
    def ranks(self) -> int:
        """Return the number of ranks over all nodes."""
        return self.nodes * self.ranks_per_node


def read(words: list[str] | None = None) -> tuple[Place, Config]:
    """Return where to train, and what, from the command line."""
    command = read_options("tuning.train", words)
    place = Place(**{name: getattr(command, name) for name in own_options(TrainNodes)})
    config = of_run(command)
    return place, dataclasses.replace(config, nproc=place.ranks, out=config.out.resolve())


def train(place: Place, config: Config) -> None:
    """Train on Ray's nodes; the run folder is complete when this returns.

    Raises:
        TrainingFailed: A rank failed more often than allowed, or for a reason that a new start does not mend.
    """
    with Run(config.out).lock(), connected(place.address):
        Run.claim(config)
        # Followed from here: the variables of the ranks hold no key of W&B.
        follower = follow_training(config.out, config.wandb, integrity.read_pointer(config.out).get("epoch", 0))
        with ray_session.private_environment():
            _fit(place, config)
        follower.finish()


def _fit(place: Place, config: Config) -> None:
    from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray's own state is not read again: each start has a new name, and its folder goes at the end.
    with tempfile.TemporaryDirectory(prefix=f".{config.out.name}-ray-", dir=config.out.parent) as name:
        folder = Path(name)
        resources = {"CPU": place.cpus_per_rank} | ({"GPU": place.gpus_per_rank} if place.gpus_per_rank else {})
        variables = {"OMP_NUM_THREADS": str(place.cpus_per_rank)}
        if place.address is None:
            variables["GLOO_SOCKET_IFNAME"] = "lo"
        # Ray's rendezvous listens on all interfaces. Ranks of one machine meet through a file instead.
        by_file = place.address is None and not place.gpus_per_rank
        by_port = TorchConfig(backend="nccl" if place.gpus_per_rank else "gloo")
        trainer = DataParallelTrainer(
            _rank,
            train_loop_config={"config": as_dict(config), "folder": str(folder), "by_file": by_file},
            backend_config=BackendConfig() if by_file else by_port,
            scaling_config=ScalingConfig(
                num_workers=place.ranks,
                use_gpu=place.gpus_per_rank > 0,
                resources_per_worker=resources,
                placement_strategy="SPREAD" if place.nodes > 1 else "PACK",
            ),
            run_config=RunConfig(  # type: ignore[call-arg]  # typed as the one of Ray Train's first version
                name=uuid.uuid4().hex,
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=place.max_failures),
                worker_runtime_env={"env_vars": variables},
            ),
        )
        try:
            with _epochs_printed(config.out):
                trainer.fit()
        except TrainingFailedError as error:
            raise _failure(folder / WORDS, error) from None
        if (folder / WORDS).is_file():
            raise _failure(folder / WORDS, None)


def _rank(given: dict[str, Any]) -> None:
    """Do the work of one rank, in a worker of Ray Train."""
    import torch

    from pipeline.training import run

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = Path(given["folder"])
    if given["by_file"]:
        _meet(folder)
    try:
        run(from_dict(given["config"]), follow=False)
    except Exception as error:
        if exits.expected(error):
            _leave_words(folder / WORDS, error)
        raise


def _meet(folder: Path) -> None:
    """Join the process group through a file in `folder`: a new one per start of the ranks, as a store is used once."""
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    from pipeline import distributed

    context = get_context()
    name = broadcast_from_rank_zero(uuid.uuid4().hex)
    distributed.meet(folder / name, context.get_world_rank(), context.get_world_size())


def _leave_words(path: Path, error: Exception) -> None:
    """Write an expected error for the driver, unless another rank was first."""
    from ray.train import get_context

    text = json.dumps({"rank": get_context().get_world_rank(), "message": str(error), "code": exits.code(error)})
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return


def _failure(path: Path, error: Exception | None) -> TrainingFailed:
    """Return the error of the first rank that gave a reason, else Ray's."""
    if path.is_file():
        words = json.loads(path.read_text(encoding="utf-8"))
        return TrainingFailed(f"rank {words['rank']}: {words['message']}", words["code"])
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return TrainingFailed(f"the training failed ({lines[-1] if lines else error!r}); the same command resumes it")


@contextmanager
def _epochs_printed(folder: Path) -> Iterator[None]:
    """Print a line per evaluated epoch while the ranks, whose output stays on their nodes, train."""
    ended, seen = threading.Event(), len(_records(folder))

    def follow() -> None:
        nonlocal seen
        while True:
            last = ended.wait(1.0)
            for record in _records(folder)[seen:]:
                seen += 1
                print(_line(record), file=sys.stderr, flush=True)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _records(folder: Path) -> list[dict[str, Any]]:
    return ledger.read(folder) if (folder / ledger.NAME).is_file() else []


def _line(record: dict[str, Any]) -> str:
    """Return an epoch in words."""
    four = "".join(f"  {name} {100 * value:.1f} %" for name, value in record.get("accuracies", {}).items())
    return f"epoch {record['epoch']}  loss {record['train']['loss']:.4f}{four}"


def main() -> int:
    """Run `python -m tuning.train`; return the exit code."""
    with lifetime.interruptible():
        try:
            place, config = read()
            train(place, config)
            print(Run(config.out).describe(), flush=True)
        except BaseException as error:
            return exits.report(error, "interrupted; the same command resumes")
    return 0


if __name__ == "__main__":
    # Ray pickles functions by their module's name, which must be tuning.train, not __main__.
    from tuning.train import main as imported_main

    sys.exit(startup.run(imported_main))
