"""Say why a run's batch norms evaluate badly.

    python -m pipeline.doctor runs/bn-loop
    python -m pipeline.doctor runs/bn-loop --split test

Leaves RUN/doctor.json. Exit codes: 0 ok, 2 wrong settings, 6 damaged file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pipeline import distributed, evaluate
from pipeline.data import Batch, Clips, epoch_batches
from pipeline.doctor.diagnosis import Diagnosis, diagnose
from pipeline.models.bodies import rows_of_real_bodies
from pipeline.train import load_run
from preprocessing import files
from preprocessing.hdf5 import IntegrityError


@dataclass(frozen=True)
class ClipBatches:
    """Shuffled batches of some clips, the same at each iteration."""

    clips: Clips
    index_N: Tensor
    frames: int
    size: int

    def __iter__(self) -> Iterator[Batch]:
        for index_N in epoch_batches(self.index_N, self.clips.label_N, self.size, seed=0, epoch=0, order="once"):
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
    return rows_of_real_bodies(batch.present_NMT.any(dim=-1), len(x), call) if x.dim() > 2 else None


def diagnose_run(folder: Path, split: str) -> tuple[Diagnosis, str]:
    """The diagnosis of a run folder and the split it was evaluated on: val or test (auto: val when it was held out)."""
    config, clips, splits, model = load_run(folder, distributed.join())
    held_out = splits.held_out(config.input.fit)
    if split == "auto":
        split = "val" if len(held_out) else "test"
    judged = held_out if split == "val" else splits.test
    if not len(judged):
        raise ValueError(f"{folder} has no {split} clips; name the other split")
    sizes = config.input.frames, config.train.batch_size
    train = ClipBatches(clips, evaluate.probe(splits.fit(config.input.fit)), *sizes)
    held = ClipBatches(clips, judged, *sizes)
    return diagnose(model, train, held, forward=forward, correct=correct, rows=rows), split


def show(diagnosis: Diagnosis, console: Console) -> None:
    """The verdict first, then the figures."""
    console.print(f"\n[bold]{diagnosis.verdict}[/bold]\n")
    table = Table("statistics", "A train", "C evaluation")
    four = diagnosis.accuracies
    lines: dict[str, dict[str, Any]] = {"running": four, "batch (B, D)": {"A": four["B"], "C": four.get("D")}}
    for name, values in (lines | diagnosis.recalibration).items():
        cells = [f"{100 * values[k]:.1f} %" if values.get(k) is not None else "" for k in "AC"]
        table.add_row(name if name in lines else f"recalibrated: {name}", *cells)
    console.print(table)
    for cause in diagnosis.causes:
        console.print(f"[bold]{cause.check}[/bold]: {cause.remedy}")


def main() -> int:
    """Entry of `python -m pipeline.doctor`; returns the exit code."""

    def command(
        run: Annotated[Path, tyro.conf.Positional], split: Literal["auto", "val", "test"] = "auto"
    ) -> tuple[Path, str]:
        """Arguments: RUN folder; split to evaluate on."""
        return run, split

    run, split = tyro.cli(command, prog="python -m pipeline.doctor", description=__doc__)
    try:
        torch.manual_seed(0)
        diagnosis, judged = diagnose_run(run, split)
    except (IntegrityError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 6 if isinstance(error, IntegrityError) else 2
    files.publish_json(run / "doctor.json", {"judged": judged, **diagnosis.as_dict()})
    show(diagnosis, Console())
    print(f"written: {run / 'doctor.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
