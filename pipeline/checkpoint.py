"""Complete, verified, atomically named training state. The only door to torch.load.

A run folder holds `checkpoints/epoch-0010.pt` and `checkpoint.json`, a pointer with the name of the newest whole file
and its sha256. A kill at any moment leaves the old pointer good. There is no random state to save: order and dropout
are pure functions of (seed, epoch, rank), and checkpoints are made between epochs.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preprocessing import files, provenance

POINTER = "checkpoint.json"


class Checkpoint(NamedTuple):
    """State of a training between two epochs."""

    epoch: int
    """Epochs that are done."""
    state: dict[str, Any]
    """`model`, `optimizer`, `average` and `best`, as `pipeline.train` saves them, and `provenance`."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """State of the network: of the kept epoch, else of the last one, averaged where the run averages."""
        average = self.state["average"].items()
        averaged = {key.removeprefix("module."): x for key, x in average if key.startswith("module.")}
        weights: dict[str, Tensor] = self.state["best"]["model"] or averaged or self.state["model"]
        return weights

    @property
    def kept_epoch(self) -> int:
        """The epoch of `weights`."""
        return int(self.state["best"]["epoch"] or self.epoch)

    def with_weights(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """Return the state with another network in every place that holds one."""
        average = self.state.get("average") or {}
        if average:
            average = {"n_averaged": average["n_averaged"], **{f"module.{key}": x for key, x in weights.items()}}
        best = self.state["best"] | {"model": weights, "epoch": self.kept_epoch}
        return self.state | {"model": weights, "average": average, "best": best}


def save(run: Path, epoch: int, state: dict[str, Any]) -> None:
    """Publish the state after `epoch` epochs, then point to it, then delete older ones."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch-{epoch:04d}.pt"
    buffer = io.BytesIO()
    torch.save(state | {"provenance": provenance.record()}, buffer)
    files.publish_bytes(path, buffer.getvalue())
    files.publish_json(run / POINTER, {"file": path.name, "sha256": files.sha256_file(path), "epoch": epoch})
    for old in folder.glob("epoch-*.pt"):
        if old != path:
            old.unlink()


def load(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint, on the CPU; None if there is none yet.

    Raises:
        ValueError: The file that the pointer names is missing or has changed.
        IntegrityError: The pointer is damaged.
    """
    pointer = run / POINTER
    if not pointer.exists():
        return None
    entry = files.read_json(pointer, "file", "sha256", "epoch")
    path = run / "checkpoints" / Path(entry["file"]).name
    if not path.exists():
        raise ValueError(f"{pointer} names {path.name}, which is missing; delete {pointer} to start over")
    if files.sha256_file(path) != entry["sha256"]:
        raise ValueError(f"{path} has changed since it was written (sha256); delete {pointer} to start over")
    return Checkpoint(int(entry["epoch"]), torch.load(path, map_location="cpu", weights_only=True))
