"""The training of one rank: set up, resume, train, evaluate, write. `pipeline.train` is its command."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline import checkpoint, distributed, graphs, network, optim, preflight, transfer
from pipeline.config import Config
from pipeline.data.clips import Clips
from pipeline.data.splits import Splits
from pipeline.data.training import training_steps
from pipeline.evaluation import gap, measure
from pipeline.gap_watch import GapWatch, watching
from pipeline.nonfinite import NonFiniteLoss, NonFiniteWeights
from pipeline.norms.input import keep_shapes
from pipeline.run_folder import Run
from pipeline.step import TrainStep
from pipeline.tracking.follower import follow_training
from pipeline.tracking.ledger import RunLedger
from preprocessing import hdf5
from preprocessing.arguments import suggest
from preprocessing.faults import faultpoint


class State(NamedTuple):
    """The part of a training that changes, and that a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated: the averaged one, if there is one."""
        return self.model if self.average is None else self.average.module

    def save(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        average = {} if self.average is None else self.average.state_dict()
        return {"model": self.model.state_dict(), "optimizer": optim.state_of(self.optimizer), "average": average}

    def load(self, saved: dict[str, Any]) -> None:
        """Load what `save` returned; a part that is missing or does not fit raises."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])


class Best(NamedTuple):
    """The evaluated epoch that is kept: the last, or the best on the held-out clips so far."""

    epoch: int = 0
    accuracy: float = -1.0
    model: dict[str, Tensor] = {}

    def or_this(self, choose: str, record: dict[str, Any], model: nn.Module) -> Best:
        """Return the epoch just evaluated if it is to be kept, else this one."""
        accuracy = record.get("accuracies", {}).get("C", -1.0)
        if "accuracies" not in record or (choose == "best" and accuracy <= self.accuracy):
            return self
        return Best(record["epoch"], accuracy, {name: x.clone() for name, x in model.state_dict().items()})


def setup(config: Config, device: torch.device) -> tuple[Clips, Splits, State]:
    """Return data, network and optimizer of a run at its start; the same on every rank."""
    run = Run(config.out, device, config)
    clips, splits = run.clips, run.splits
    torch.manual_seed(config.train.seed)
    model = network.build(config, clips, device)
    if config.init is not None:
        transfer.start(config, run, model)
    return clips, splits, fresh_state(config, model)


def fresh_state(config: Config, model: nn.Module) -> State:
    """Return the state at the start of a training of this network."""
    optimizer = optim.optimizer(model, config.optim, decay_norms=config.norm.decay)
    return State(model, optimizer, optim.averaged(model, config.optim))


def fit(
    config: Config,
    clips: Clips,
    splits: Splits,
    state: State,
    done: int = 0,
    watch: GapWatch | None = None,
    usage: graphs.Usage | None = None,
    recorder: graphs.Recorder | None = None,
) -> Iterator[dict[str, Any]]:
    """Train the epochs after the first `done`; yield the record of each epoch, when its checkpoint can be made.

    Args:
        config: Settings of the run.
        clips: Clips of the data file.
        splits: Their splits.
        state: What is trained.
        done: Epochs that are done.
        watch: Sees each step.
        usage: Counts the captured steps.
        recorder: As in `graphs.steps`.
    """
    training, device = config.train, clips.device
    train_N = splits.fit(config.input.fit)
    weight_K = optim.class_weights(config.optim, clips.label_N[train_N.to(device)], clips.classes)
    rank, ranks = distributed.rank(), distributed.world_size()
    parallel = network.for_training(config, state.model, device)
    if device.type == "cuda" or recorder is not None:
        # Captured or not, so that both have the same bits.
        optim.rates_as_tensors(state.optimizer)
        keep_shapes(state.model)
    take = TrainStep(config, parallel, *state, weight_K, device)
    steps = graphs.steps(config, take, usage or graphs.Usage(), recorder)
    counted = isinstance(steps, graphs.CapturedSteps) and config.norm.persons == "masked"
    for epoch in range(done + 1, training.epochs + 1):
        parallel.train()
        if training.freeze == "trunk":
            transfer.keep_frozen(state.model)
        torch.manual_seed(training.seed * 1_000_003 + epoch * 1_009 + rank)  # of dropout
        begin, rate = time.perf_counter(), 0.0
        take.begin_epoch()
        for step in training_steps(config, clips, train_N, epoch, take.gradients.broken, rank, ranks, counted):
            rate = optim.rate(config.optim, step.progress, training.epochs)
            optim.set_rate(state.optimizer, rate)
            batch = steps(step)
            if watch is not None:
                watch.step(batch)
        right, loss = (distributed.total(take.sums) / len(train_N)).tolist()
        seconds = time.perf_counter() - begin
        record: dict[str, Any] = {"epoch": epoch, "train": {"top1": right, "loss": loss}}
        record |= {"seconds": seconds, "clips_per_second": len(train_N) / seconds}
        record["optim"] = {"lr": rate, "gradient_norm": take.norms.item() / max(1, take.steps)}
        record |= {} if watch is None else watch.record()
        yield record | measure.after_epoch(config, clips, splits, state.eval_model, epoch)


def run(config: Config, read_test: bool = True, follow: bool = True) -> None:
    """Do the whole work of one rank: set up, resume, train, evaluate, write.

    Args:
        config: The settings; the run folder is claimed.
        read_test: Evaluate the test split; a search hides it from its trials.
        follow: Start W&B's process, unless the caller has.
    """
    preflight.deterministic_algorithms(config.train.deterministic)
    device = distributed.join()
    first, folder = distributed.rank() == 0, Run(config.out, device, config)
    try:
        clips, splits, state = setup(config, device)
        data_watch = watched(clips)
        if not read_test:
            splits = splits._replace(test=splits.test[:0])
        preflight.check(config, clips, splits, state.model, fresh=folder.checkpoint is None)
        done, best = 0, Best()
        if folder.checkpoint is not None:
            done, saved = folder.checkpoint
            state.load(saved)
            best = Best(**saved["best"])
        ledger = RunLedger(config.out, done) if first else None
        follower = follow_training(config.out, config.wandb if first and follow else "off", done)
        # Trials of a search are too short for a warning that anybody reads.
        watched_model = state.model if state.average is None else state.average
        watch = watching(config, watched_model) if first and read_test else None
        usage = graphs.Usage()
        epochs = fit(config, clips, splits, state, done, watch, usage)
        console, left = Console(stderr=True), config.train.epochs - done
        silent = not first or not left  # a finished run has no bar to fill
        for record in track(epochs, total=left, description=config.out.name, console=console, disable=silent):
            data_watch.check()
            best = best.or_this(config.train.choose, record, state.eval_model)
            if ledger is not None:
                if fault := checkpoint.fault_of(state.eval_model.state_dict()):
                    raise NonFiniteWeights(record["epoch"], fault)
                ledger.write(record)
                faultpoint("ledger written")
                folder.save_checkpoint(record["epoch"], state.save() | {"best": best._asdict()})
        state.eval_model.load_state_dict(best.model)
        measured = measure.final(config, clips, splits, state.eval_model)
        data_watch.check()
        if ledger is not None:
            folder.require_content(data_watch)
            # The doctor's repair holds as long as no epoch was trained since.
            repair = {} if left else folder.repair
            start = {"init": folder.start} if config.init is not None else {}
            captured = usage.report() if left else folder.graphs
            folder.write_summary(best.epoch, measured | repair | start | captured)
            print(folder.describe(), flush=True)
            if note := gap.gap_note(config, measured):
                print(note, file=sys.stderr)
                suggest("pipeline.doctor", config.out)
            follower.finish()
    except NonFiniteLoss as error:
        if first:
            folder.write_non_finite(error.epoch, error.clips)
        raise
    finally:
        distributed.leave()


def watched(clips: Clips) -> hdf5.Watch:
    """Watch the data file of these clips from now on."""
    file = clips.file
    assert file.identity is not None
    hdf5.end_on_bus_error(file.path)
    return hdf5.Watch(file.path, file.identity, file.content_sha256)
