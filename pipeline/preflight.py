"""Preflight checks: samples per batch statistic, bf16 support, free cores, kernels, an overfit test."""

from __future__ import annotations

import copy
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import distributed
from pipeline.data.clips import Clips
from pipeline.data.order import subsample
from pipeline.data.splits import Splits
from pipeline.evaluation.gap import FEW_CLIPS, lag_note
from pipeline.kernels import availability
from pipeline.models.cost import cost, describe
from pipeline.normdoctor.sites import batch_norms
from preprocessing.balance import balance_notes

if TYPE_CHECKING:
    from pipeline.config import Config

UNEVEN = 4  # clips of the most frequent class per clip of the rarest, from which the classes are uneven
STEPS = 200
CLIPS = 16
LEARNED = 0.5  # share of the loss of guessing, ln K, at which the overfit test passes
LOOKS = 9  # samples of the number of runnable threads, 25 ms apart


def check(config: Config, clips: Clips, splits: Splits, model: nn.Module, fresh: bool) -> None:
    """Run the preflight checks of a training; rank 0 prints what the network costs and each warning.

    Args:
        config: Settings of the run.
        clips: Clips of the data file.
        splits: Splits of the run.
        model: The network; it stays as it is.
        fresh: Warn and try the network as well; a resumed run has done so.

    Raises:
        ValueError: The settings cannot work on these data.
    """
    train_N, first = splits.fit(config.input.fit), distributed.rank() == 0
    if config.train.choose == "best" and not len(splits.held_out(config.input.fit)):
        raise ValueError("train.choose best needs held-out clips to choose by; set input.fit train, or choose last")
    sizes = config.input.frames, clips.joints, clips.channels
    notes = [f"{config.model.name}: {describe(cost(model, *sizes))}"] if first else []
    if fresh:
        notes += [
            *balance_notes(
                clips.label_N.cpu().numpy(),
                clips.subject_N.numpy(),
                {"train": train_N.numpy(), "val": splits.val.numpy(), "test": splits.test.numpy()},
                clips.class_names,
                splits.protocol,
            ),
            classes_note(clips.class_names, clips.label_N[train_N.to(clips.device)], config),
            statistics_note(config, model, len(train_N), distributed.world_size()),
            lag_note(config, len(train_N)),
            precision_note(config.train.precision, clips.device, torch.cpu.get_capabilities()),
            kernels_note(config, clips.device),
            cores_note(torch.get_num_threads(), running, os.cpu_count() or 1, clips.device),
        ]
        if config.train.self_test and config.train.freeze == "none":  # a frozen network need not learn any 16 clips
            notes.append(self_test(config, clips, model, train_N))
    for note in filter(None, notes if first else []):
        print(note, file=sys.stderr)


def deterministic_algorithms(on: bool) -> None:
    """Use deterministic algorithms on a GPU, or not; call this before it computes."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS chooses its ways by the moment
    torch.use_deterministic_algorithms(on, warn_only=True)


def classes_note(names: list[str], label_N: Tensor, config: Config) -> str:
    """Return what is wrong with the classes of the training clips: one alone, absent ones, uneven ones; else "".

    Args:
        names: Names of the classes.
        label_N: Labels of the training clips.
        config: Settings; those that balance classes silence the note on uneven ones.
    """
    clips_K = torch.bincount(label_N, minlength=len(names))
    there = clips_K.nonzero()[:, 0].tolist()
    if len(there) == 1:
        return (
            f"classes: all {len(label_N)} training clips are of one class ({names[there[0]]}): nothing can be learned"
        )
    notes = []
    if absent := [name for name, count in zip(names, clips_K.tolist(), strict=True) if not count]:
        notes.append(f"{len(absent)} of {len(names)} have no training clips ({_some(absent)})")
    if lone := [names[k] for k in there if clips_K[k] == 1]:
        notes.append(f"{len(lone)} have one training clip ({_some(lone)})")
    most, least = int(clips_K.max()), int(clips_K[there].min())
    if most >= UNEVEN * least and config.optim.class_weights == "none" and config.input.sample == "each":
        notes.append(
            f"the most frequent has {most} training clips, the rarest {least}: try --optim.class-weights balanced or "
            "--input.sample balanced, and look at the mean class accuracy"
        )
    return "classes: " + "; ".join(notes) if notes else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def statistics_note(config: Config, model: nn.Module, clips: int, ranks: int) -> str:
    """Return the number of clips per batch statistic, with a warning below 16; empty without batch norms.

    Batches of an epoch differ by one clip at most, accumulation splits them, ranks share them out.
    """
    if not batch_norms(model):
        return ""
    batches = -(-clips // config.train.batch_size)
    own = max(1, clips // batches // config.train.accumulate // ranks)
    together = own * ranks if config.norm.sync else own
    how = f"over {ranks} ranks" if config.norm.sync and ranks > 1 else "on each rank"
    note = f"batch statistics: {together} clips {how if ranks > 1 else 'per batch'}"
    if config.train.accumulate > 1:
        note += f", a part of {config.train.accumulate}: accumulation adds up gradients, not statistics"
    if together < FEW_CLIPS:
        note += (
            f"; under {FEW_CLIPS} they are noisy: raise train.batch-size, lower train.accumulate, or use a norm of one "
            "clip (norm.kind gn)"
        )
    return note


def precision_note(precision: str, device: torch.device, capabilities: Mapping[str, Any]) -> str:
    """Return a warning if bf16 is slow on this machine, else "". `capabilities`: torch.cpu.get_capabilities().

    A CPU without instructions for bf16 is 8 times slower with it than with fp32 (`cnn`, measured on an AVX2 machine).
    """
    native = any(have is True for name, have in capabilities.items() if "bf16" in name)
    if precision != "bf16" or device.type != "cpu" or native:
        return ""
    return (
        "precision: this CPU has no instructions for bf16 (avx512_bf16, amx_bf16), so that training is several times "
        "slower than with --train.precision fp32"
    )


def cores_note(threads: int, others: Callable[[], int], cores: int, device: torch.device) -> str:
    """Return a warning if the threads of this training will wait for cores that other work holds, else nothing.

    Threads that wait for one another spin: two trainings on two cores went at a third of the rate of one thread each.
    `others` takes a moment and is asked only where it matters. Ranks have shared the cores out among themselves.
    """
    if device.type != "cpu" or threads == 1 or distributed.world_size() > 1:
        return ""
    busy = others()
    if busy + threads <= cores:
        return ""
    return (
        f"cores: other work runs on {min(busy, cores)} of {cores}, and {threads} threads here would wait for one "
        "another and for it. Give each training cores of its own: OMP_NUM_THREADS=1 before the command"
    )


def running(proc: Path = Path("/proc/loadavg")) -> int:
    """Threads of other processes that run or wait for a core just now; 0 where the system does not say (no Linux)."""
    if not proc.is_file():
        return 0
    seen = []
    for _ in range(LOOKS):
        time.sleep(0.025)
        seen.append(int(proc.read_text().split()[3].split("/")[0]) - 1)  # this thread is runnable itself
    return max(0, int(statistics.median(seen)))


def kernels_note(config: Config, device: torch.device) -> str:
    """Return why a training that our GPU kernels suit runs without them, and a remedy; empty if it runs with them."""
    wanted = config.train.precision == "bf16" and config.train.channels_last and not config.train.compile
    why = availability.unavailable_reason() if device.type == "cuda" and wanted else ""
    return why and (
        f"kernels: torch's alone, which large batches are slower with, since Triton cannot make ours here ({why}). It "
        "needs a C compiler and Python's headers (apt-get install gcc python3-dev)"
    )


def self_test(config: Config, clips: Clips, model: nn.Module, train_N: Tensor) -> str:
    """Train a copy on 16 clips until it has learned them, 200 steps at most; empty if it has, else what is wrong.

    A loss that stays at ln K is that of guessing: the network does not see its input, or its gradients vanish.
    The model and the random state stay as they were.
    """
    batch = clips.batch(subsample(train_N, CLIPS), config.input.frames)
    with torch.random.fork_rng(devices=[clips.device] if clips.device.type == "cuda" else []):
        learner = copy.deepcopy(model).train()
        optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
        guess, best = math.log(clips.classes), float("inf")
        for _ in range(STEPS):
            loss = functional.cross_entropy(learner(batch.x_NCTVM, batch.present_NMT), batch.label_N)
            # All ranks do the same on the same clips: batch norms add up over ranks, so all must stop together.
            best = min(best, distributed.total(loss.detach()).item() / distributed.world_size())
            if best <= LEARNED * guess:
                return ""
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return (
        f"self-test: {STEPS} steps on {len(batch.label_N)} clips leave the loss at {best:.2f}; guessing among "
        f"{clips.classes} classes has ln K = {guess:.2f}. The network does not learn even these: look at the data "
        "(python -m preprocessing.verify) and at norm.kind"
    )
