"""Train one network on one data file.

    python -m pipeline.train default --data ntu60.h5 --out runs/bn-loop --norm.kind bn --norm.persons loop
    python -m pipeline.train default --data ntu60.h5 --out runs/ddp --nproc 2 --train.batch-size 128
    torchrun --nproc-per-node 4 -m pipeline.train default --data ntu60.h5 --out runs/four

The same command again resumes from the last checkpoint. RUN/summary.json has the figures, RUN/ledger.jsonl one line an
epoch. Exit codes: 0 ok, 2 wrong settings, 3 a rank died, 5 non-finite loss, 6 damaged file, 7 no space,
130 interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from pipeline import distributed, network, norms, optim, preflight, settings
from pipeline.config import Config, as_dict, from_dict, preset
from pipeline.data.augment import Draw, augment, mirrored_joints, windows
from pipeline.data.clips import Batch, Clips, Splits, ahead, epoch_batches, load
from pipeline.evaluation import accuracies
from pipeline.evaluation.calibration import calibrate
from pipeline.evaluation.metrics import confusion, metrics
from pipeline.evaluation.recalibration import recalibrate
from pipeline.models import compile_trunk
from pipeline.models.cost import cost
from pipeline.models.cost import describe as describe_cost
from pipeline.nonfinite import NonFiniteLoss, Watch
from pipeline.run_folder import Run, claim, describe
from pipeline.tracking import report
from preprocessing import exits, files

# What ends a training by a line instead of a traceback.
FAULTS = (ValueError, OSError, files.LockedError, distributed.WorkerDied, NonFiniteLoss, KeyboardInterrupt)


class State(NamedTuple):
    """What training changes, and a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated: the averaged one, if there is one."""
        return self.model if self.average is None else self.average.module

    def save(self) -> dict[str, Any]:
        """Everything as tensors and plain values."""
        average = {} if self.average is None else self.average.state_dict()
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average}

    def load(self, saved: dict[str, Any]) -> None:
        """What `save` gave; a part that is missing or does not fit raises."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])


def setup(config: Config, device: torch.device) -> tuple[Clips, Splits, State]:
    """Data, network and optimizer of a run, the same on every rank."""
    clips, splits = load(config.data, config.input, device, config.fast_start)
    torch.manual_seed(config.train.seed)
    return clips, splits, fresh_state(config, network.build(config, clips, device))


def fresh_state(config: Config, model: nn.Module) -> State:
    """What training starts with from this network: an optimizer that has not stepped, and the average if any."""
    scales = norms.norm_parameters(model) if config.norm.decay else []
    return State(model, optim.optimizer(model, config.optim, scales), optim.averaged(model, config.optim))


def fit(config: Config, clips: Clips, splits: Splits, state: State, done: int = 0) -> Iterator[dict[str, Any]]:
    """Train epochs done+1 .. epochs; yield each epoch's figures, when its checkpoint can be made."""
    training, frames, device = config.train, config.input.frames, clips.device
    train_N, held_out_N = splits.fit(config.input.fit), splits.held_out(config.input.fit)
    probe_N = accuracies.probe(train_N)
    mirror_V = mirrored_joints(clips.joint_names).to(device) if config.augment.mirror else None
    order, key_N = config.input.order, clips.sorted_by(config.input.order)
    rank, ranks = distributed.rank(), distributed.world_size()
    if training.compile:
        compile_trunk(state.model)
    parallel = distributed.wrap(state.model, device, same_buffers=config.norm.sync)
    low_precision = torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16")
    for epoch in range(done + 1, training.epochs + 1):
        parallel.train()
        torch.manual_seed(_dropout_seed(training.seed, epoch, rank))
        begin, sums = time.perf_counter(), torch.zeros(2, dtype=torch.float64, device=device)
        # On the device all at once: a copy of its own for each batch would wait until the batch before is done.
        batches = epoch_batches(train_N.to(device), key_N, training.batch_size, training.seed, epoch, order)
        watch = Watch(epoch, state.optimizer, clips.names, device)
        draws = (
            Draw(training.seed, epoch, part_N.tensor_split(ranks)[rank])
            for index_N in batches
            for part_N in index_N.tensor_split(training.accumulate)
        )
        made = ahead(partial(training_batch, config, clips, mirror_V), draws, clips.workers)
        for step, index_N in enumerate(batches):
            middle = epoch - 1 + (step + 0.5) / len(batches)
            optim.set_rate(state.optimizer, optim.rate(config.optim, middle, training.epochs))
            state.optimizer.zero_grad(set_to_none=True)
            for part_N in index_N.tensor_split(training.accumulate):
                batch = next(made)
                with low_precision:
                    logits = parallel(batch.x_NCTVM, batch.present_NMT).float()
                # Ranks may hold different numbers of clips: the sum over the global batch size, times the ranks that
                # DDP averages over, is exactly the gradient of one big batch.
                smooth = config.optim.label_smoothing
                loss = functional.cross_entropy(logits, batch.label_N, reduction="sum", label_smoothing=smooth)
                loss = loss * ranks / len(index_N)
                loss.backward()
                watch.see(state.model, part_N)
                right = (logits.argmax(1) == batch.label_N).sum()
                sums += torch.stack([right, loss.detach() / ranks * len(index_N)])
            norms.clip_gradients(state.model, config.norm.clip)
            if config.optim.clip_norm:
                nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
            state.optimizer.step()
            if state.average is not None:
                optim.follow(state.average, state.model)
        watch.read()
        right, loss = (distributed.total(sums) / len(train_N)).tolist()
        seconds = time.perf_counter() - begin
        record: dict[str, Any] = {"epoch": epoch, "train": {"top1": right, "loss": loss}}
        record |= {"seconds": seconds, "clips_per_second": len(train_N) / seconds}
        if config.norm.recalibrate == "each" or (config.norm.recalibrate == "final" and epoch == training.epochs):
            record["reused"] = recalibrate(state.judged, clips, probe_N, frames, training.batch_size)
        if epoch % training.eval_every == 0 or epoch == training.epochs:
            begin = time.perf_counter()
            with low_precision:
                sizes = frames, training.batch_size
                found = accuracies.evaluation(state.judged, clips, probe_N, held_out_N, *sizes)
            record |= {
                "accuracies": found.accuracies,
                "gap": accuracies.gaps(found.accuracies),
                "norm": found.norms,
                "evaluation_seconds": time.perf_counter() - begin,
            }
        yield record


def training_batch(config: Config, clips: Clips, mirror_V: Tensor | None, draw: Draw) -> Batch:
    """The clips of `draw`, changed as the settings say; the same for a clip whatever the batch and rank it is in."""
    if not config.augment.on:
        return clips.batch(draw.index_N, config.input.frames)
    batch = clips.batch(draw.index_N, config.input.frames, windows(config.augment, draw))
    x_NCTVM, present_NMT = augment(config.augment, draw, batch.x_NCTVM, batch.present_NMT, mirror_V)
    return batch._replace(x_NCTVM=x_NCTVM, present_NMT=present_NMT)


def _dropout_seed(seed: int, epoch: int, rank: int) -> int:
    return seed * 1_000_003 + epoch * 1_009 + rank


def final(config: Config, clips: Clips, splits: Splits, model: nn.Module) -> dict[str, Any]:
    """The one reading of the test split, and A to D with C and D on it."""
    frames, size = config.input.frames, config.train.batch_size
    train_N = accuracies.probe(splits.fit(config.input.fit))
    held_out_N = splits.held_out(config.input.fit)
    judged_N = splits.test if len(splits.test) else held_out_N
    found = accuracies.evaluation(model, clips, train_N, judged_N, frames, size)
    several = {}
    if config.train.test_clips > 1 and len(splits.test):
        crops = accuracies.crops(config.augment.crop, config.train.test_clips)
        voted = accuracies.predict_crops(model, clips, splits.test, frames, size, crops)
        several[f"test_{len(crops)}_clips"] = metrics(voted.logits_NK, voted.label_N)
    val, test = (
        accuracies.predict(model, clips, index_N, frames, size) if len(index_N) else None
        for index_N in (held_out_N, splits.test)
    )
    judged = test or val
    return several | {
        "val": {} if val is None else metrics(val.logits_NK, val.label_N),
        "test": {} if test is None else metrics(test.logits_NK, test.label_N),
        "calibration": calibrate(val, test),
        "confusion": [] if judged is None else confusion(judged.logits_NK, judged.label_N).tolist(),
        "accuracies": found.accuracies,
        "gap": accuracies.gaps(found.accuracies),
        "norm": found.norms,
        "eval": "test" if len(splits.test) else "val",
        "protocol": splits.protocol,
        "clips": {"train": len(splits.fit(config.input.fit)), "val": len(held_out_N), "test": len(splits.test)},
        "ranks": distributed.world_size(),
        "device": str(clips.device),
        "model": cost(model, frames, clips.joints),
        "config": as_dict(config),
    }


class Best(NamedTuple):
    """The evaluated epoch that is kept: the last, or the best on the held-out clips so far."""

    epoch: int
    accuracy: float
    model: dict[str, Tensor]

    def or_this(self, choose: str, record: dict[str, Any], model: nn.Module) -> Best:
        """Itself, or the epoch just evaluated."""
        accuracy = record.get("accuracies", {}).get("C", -1.0)
        if "accuracies" not in record or (choose == "best" and accuracy <= self.accuracy):
            return self
        return Best(record["epoch"], accuracy, {name: x.clone() for name, x in model.state_dict().items()})


def run(config: Config, read_test: bool = True) -> None:
    """One rank's whole work: set up, resume, train, evaluate, write. A search hides the test split from its trials."""
    preflight.one_order(config.train.deterministic)
    device = distributed.join()
    first, folder = distributed.rank() == 0, Run(config.out, device, config)
    try:
        clips, splits, state = setup(config, device)
        if not read_test:
            splits = splits._replace(test=splits.test[:0])
        if config.train.choose == "best" and not len(splits.held_out(config.input.fit)):
            raise ValueError("train.choose best needs held-out clips to judge by; set input.fit train, or choose last")
        if first:
            print(
                f"{config.model.name}: {describe_cost(cost(state.model, config.input.frames, clips.joints))}",
                file=sys.stderr,
            )
        saved = folder.checkpoint
        done, best = 0, Best(0, -1.0, {})
        if saved is not None:
            done = saved.epoch
            state.load(saved.state)
            best = Best(**saved.state["best"])
        else:
            _start_up(config, clips, splits, state)
        ledger = report.Ledger(config.out, as_dict(config), config.wandb, done) if first else None
        epochs = fit(config, clips, splits, state, done)
        console, left = Console(stderr=True), config.train.epochs - done
        silent = not first or not left  # a finished run has no bar to fill
        for record in track(epochs, total=left, description=config.out.name, console=console, disable=silent):
            best = best.or_this(config.train.choose, record, state.judged)
            if ledger is not None:
                ledger.write(record)
                folder.save_checkpoint(record["epoch"], state.save() | {"best": best._asdict()})
        state.judged.load_state_dict(best.model)
        measured = final(config, clips, splits, state.judged)
        if ledger is not None:
            # What the doctor has written of its repair holds as long as no epoch was trained since.
            kept = folder.summary if folder.finished and not left else {}
            repair = {"fix": kept["fix"]} if "fix" in kept else {}
            summary = folder.write_summary(best.epoch, measured | repair)
            ledger.close(summary)
            print(describe(summary))
    except NonFiniteLoss as error:
        if first:
            folder.write_non_finite(error.epoch, error.clips)
        raise
    finally:
        distributed.leave()


def _start_up(config: Config, clips: Clips, splits: Splits, state: State) -> None:
    train_N = splits.fit(config.input.fit)
    notes = [
        preflight.statistics_note(config, state.model, len(train_N), distributed.world_size()),
        preflight.precision_note(config.train.precision, clips.device, torch.cpu.get_capabilities()),
        preflight.kernels_note(config, clips.device),
        preflight.cores_note(torch.get_num_threads(), preflight.running, os.cpu_count() or 1, clips.device),
    ]
    if config.train.self_test:
        notes.append(preflight.self_test(config, clips, state.model, train_N))
    for note in filter(None, notes if distributed.rank() == 0 else []):
        print(note, file=sys.stderr)


def parse(arguments: list[str]) -> Config:
    """Command line -> settings. The first word names the preset."""
    if not arguments or arguments[0].startswith("-"):
        name, rest = "default", arguments
        if not {"-h", "--help"} & set(arguments):
            raise ValueError("name a preset first: python -m pipeline.train default --data FILE.h5 --out RUN")
    else:
        name, rest = arguments[0], arguments[1:]
    missing = {"data": tyro.MISSING, "out": tyro.MISSING}
    config: Config = tyro.cli(
        Config,
        args=rest,
        default=from_dict(missing | preset(name)),
        prog=f"python -m pipeline.train {name}",
        description=__doc__,
        registry=settings.command_line(),
    )
    # The run remembers where its data is, for the doctor and the page, which may be started in another folder.
    return dataclasses.replace(config, data=config.data.resolve())


def main() -> int:
    """Entry of `python -m pipeline.train`; returns the exit code."""
    try:
        config = parse(sys.argv[1:])
        if not config.data.is_file():
            raise ValueError(
                f"{config.data} does not exist; build it with python -m preprocessing.build SOURCE --out {config.data}"
            )
        if config.out.is_file():
            raise ValueError(f"--out {config.out} is a file; a run makes a folder")
        first = not distributed.launched() or os.environ["RANK"] == "0"
        with files.lock(config.out / "lock") if first else nullcontext():
            if first:
                claim(config)
            if config.nproc > 1 and not distributed.launched():
                distributed.launch(main_of_rank, (as_dict(config), True), config.nproc)
            else:
                run(config)
    except FAULTS as error:
        return exits.report(error, "interrupted; the same command resumes")
    return 0


def main_of_rank(values: dict[str, Any], read_test: bool) -> None:
    """What our launcher starts in each rank, of a search's trial too."""
    try:
        run(from_dict(values), read_test)
    except (ValueError, OSError, NonFiniteLoss) as error:
        sys.exit(exits.report(error))
    except KeyboardInterrupt:
        sys.exit(exits.INTERRUPTED)  # the launcher tells


if __name__ == "__main__":
    # Ranks are started by name: they must find this module under its own name, not as __main__.
    from pipeline.train import main as imported_main

    sys.exit(imported_main())
