"""A run folder of ours as the doctor's patient: its batches, which rows are real bodies, what its training did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import norms, optim
from pipeline.data.clips import Batch, Clips, epoch_batches
from pipeline.evaluation import accuracies
from pipeline.models.bodies import present_rows
from pipeline.normdoctor import Diagnosis, History, decayed_scales, diagnose
from pipeline.normdoctor.evidence import Groups
from pipeline.run_folder import Run
from preprocessing.hdf5 import SkeletonFile

DIVISIONS = ("camera", "subject")


@dataclass(frozen=True)
class ClipBatches:
    """Batches of some clips in a training order, the same at each iteration."""

    clips: Clips
    index_N: Tensor
    frames: int
    size: int
    order: str = "once"

    def __iter__(self) -> Iterator[Batch]:
        for index_N in epoch_batches(self.index_N, self.clips.label_N, self.size, seed=0, epoch=0, order=self.order):
            yield self.clips.batch(index_N, self.frames)


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of one of our models."""
    logits: Tensor = model(batch.x_NCTVM, batch.present_NMT)
    return logits


def correct(logits_NK: Tensor, batch: Batch) -> Tensor:
    """Whether each clip's first choice is right."""
    return logits_NK.argmax(1) == batch.label_N


def rows(batch: Batch, x: Tensor, call: int) -> Tensor | None:
    """Rows of a layer's input that are real bodies."""
    return present_rows(batch.present_NMT.any(dim=-1), len(x), call) if x.dim() > 2 else None


def divisions(file: SkeletonFile) -> Groups:
    """Camera and subject of each clip, where the file has more than one."""
    tables = {name: torch.from_numpy(np.array(file.clips[name], dtype=np.int64)) for name in DIVISIONS}
    return {name: _Lookup(table_N) for name, table_N in tables.items() if len(table_N.unique()) > 1}


@dataclass(frozen=True)
class _Lookup:
    table_N: Tensor

    def __call__(self, batch: Batch) -> Tensor:
        return self.table_N[batch.index_N.cpu()]


def history(run: Run, model: nn.Module, clips: int) -> History:
    """Optimizer steps, layers whose scale is decayed, and, for averaged weights, the network they are averages of."""
    saved, config = run.checkpoint, run.config
    assert saved is not None
    scales = norms.norm_parameters(model) if config.norm.decay else []
    return History(
        steps=saved.kept_epoch * -(-clips // config.train.batch_size),
        decayed=decayed_scales(model, optim.parameter_groups(model, config.optim, scales)),
        source=saved.state["model"] if config.optim.ema else {},
    )


def judged_on(run: Run, split: str) -> tuple[str, Tensor]:
    """The split (auto: val when it was held out, else test) and its clips. ValueError when it has none."""
    splits = run.splits
    held_out = splits.held_out(run.config.input.fit)
    if split == "auto":
        split = "val" if len(held_out) else "test"
    judged = held_out if split == "val" else splits.test
    if not len(judged):
        raise ValueError(f"{run.folder} has no {split} clips; name the other split")
    return split, judged


def diagnose_run(folder: Path, split: str) -> tuple[Diagnosis, str]:
    """The diagnosis of a run folder and the split it was evaluated on: val or test (auto: val when it was held out)."""
    run = Run(folder)
    config, clips, model = run.config, run.clips, run.network()
    split, judged = judged_on(run, split)
    fitted = run.splits.fit(config.input.fit)
    size = max(1, config.train.batch_size // config.train.accumulate)
    train = ClipBatches(clips, accuracies.probe(fitted), config.input.frames, size, config.input.order)
    held = ClipBatches(clips, judged, config.input.frames, size)
    known: dict[str, Any] = {"groups": divisions(run.data), "history": history(run, model, len(fitted))}
    return diagnose(model, train, held, forward=forward, metric=correct, rows=rows, **known), split
