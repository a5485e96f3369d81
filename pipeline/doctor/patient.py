"""Make a run folder the doctor's patient: its batches, its rows of real bodies, the history of its training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import optim
from pipeline.data.clips import Batch, Clips
from pipeline.data.order import epoch_batches
from pipeline.evaluation import accuracies
from pipeline.models.bodies import present_rows
from pipeline.normdoctor import Diagnosis, History, decayed_scales, diagnose
from pipeline.normdoctor.evidence import Groups
from pipeline.run_folder import Run
from preprocessing.hdf5 import SkeletonFile

DIVISIONS = ("camera", "subject")
# Advice for the next training in the settings of pipeline.train.
NEXT_TRAINING = {
    "reuse": "--norm.persons masked: one call over the bodies that are present; or fold, or per_person",
    "padding": "--norm.persons masked, and a masked --norm.input",
    "stale": "raise --norm.momentum, train longer, or --norm.recalibrate final",
    "ranks": "--norm.sync True: statistics over all ranks",
    "leakage": "--input.order reshuffle, or --norm.kind gn",
    "correlated": "--input.order reshuffle: another order of the clips in each epoch",
    "small": "raise --train.batch-size, or --norm.kind gn",
    "decay": "--norm.decay False: no weight decay on scales and shifts of norms",
    "overfit": "augmentation, --model.dropout or weight decay; python -m pipeline.doctor RUN --fine-tune 20 tests "
    "whether the scale of the input is the reason",
}


@dataclass(frozen=True)
class ClipBatches:
    """Batches of clips `index_N` in a training order, the same at each iteration."""

    clips: Clips
    index_N: Tensor
    frames: int
    size: int
    order: str = "once"

    def __iter__(self) -> Iterator[Batch]:
        key_N = self.clips.sorted_by(self.order)
        for index_N in epoch_batches(self.index_N, key_N, self.size, seed=0, epoch=0, order=self.order):
            yield self.clips.batch(index_N, self.frames)


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits (N, K) of one of our models."""
    logits: Tensor = model(batch.x_NCTVM, batch.present_NMT)
    return logits


def correct(logits_NK: Tensor, batch: Batch) -> Tensor:
    """Return whether each clip's first choice is right, (N,)."""
    return logits_NK.argmax(1) == batch.label_N


def rows(batch: Batch, x: Tensor, call: int) -> Tensor | None:
    """Return which rows of a layer's input x (B, C, ...) are real bodies, (B,); None where rows are not bodies."""
    return present_rows(batch.present_NMT.any(dim=-1), len(x), call) if x.dim() > 2 else None


def divisions(file: SkeletonFile) -> Groups:
    """Return functions of a batch that give each clip's camera and subject, where the file has more than one."""
    tables = {name: torch.from_numpy(np.array(file.clips[name], dtype=np.int64)) for name in DIVISIONS}
    return {name: _Lookup(table_N) for name, table_N in tables.items() if len(table_N.unique()) > 1}


@dataclass(frozen=True)
class _Lookup:
    table_N: Tensor

    def __call__(self, batch: Batch) -> Tensor:
        return self.table_N[batch.index_N.cpu()]


def history(run: Run, model: nn.Module, clips: int) -> History:
    """Return the optimizer steps, the layers whose scale is decayed, and the source of averaged weights.

    Args:
        run: The run folder.
        model: Its network.
        clips: Number of clips that it was trained on.
    """
    saved, config = run.checkpoint, run.config
    assert saved is not None
    return History(
        steps=saved.kept_epoch * -(-clips // config.train.batch_size),
        decayed=decayed_scales(model, optim.parameter_groups(model, config.optim, config.norm.decay)),
        source=saved.state["model"] if config.optim.ema else {},
    )


def evaluated_on(run: Run, split: str) -> tuple[str, Tensor]:
    """Return the split to evaluate on (auto: val when it was held out, else test) and its clips.

    Raises:
        ValueError: The split has no clips.
    """
    splits = run.splits
    held_out = splits.held_out(run.config.input.fit)
    if split == "auto":
        split = "val" if len(held_out) else "test"
    index_N = held_out if split == "val" else splits.test
    if not len(index_N):
        raise ValueError(f"{run.folder} has no {split} clips: choose the other split")
    return split, index_N


def diagnose_run(folder: Path, split: str) -> tuple[Diagnosis, str]:
    """Diagnose a run folder.

    Args:
        folder: The run folder; only read.
        split: val, test, or auto (val when it was held out, else test).

    Returns:
        The diagnosis, and the split that it was evaluated on.

    Raises:
        ValueError: The folder is not a run folder, its data file is gone, or the split has no clips.
    """
    run = Run(folder)
    config, clips, model = run.config, run.clips, run.network()
    split, index_N = evaluated_on(run, split)
    fitted = run.splits.fit(config.input.fit)
    size = max(1, config.train.batch_size // config.train.accumulate)
    train = ClipBatches(clips, accuracies.probe(fitted), config.input.frames, size, config.input.order)
    held = ClipBatches(clips, index_N, config.input.frames, size)
    known: dict[str, Any] = {"groups": divisions(run.data), "history": history(run, model, len(fitted))}
    known |= {"higher_is_better": True, "next_training": NEXT_TRAINING}
    return diagnose(model, train, held, forward=forward, metric=correct, rows=rows, **known), split
