"""Complete, verified, atomically named training state. The only door to torch.load.

A run folder holds `checkpoints/epoch-0010.pt` and `checkpoint.json`, a pointer with the name of the newest whole file,
its sha256 and those of the folder's other parts (`pipeline.integrity`). A kill at any moment leaves the old pointer
good. There is no random state to save: order and dropout are pure functions of (seed, epoch, rank), and checkpoints are
made between epochs.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline import integrity
from preprocessing import files, provenance
from preprocessing.faults import faultpoint


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
    """Publish the state after `epoch` epochs, then point to it, then delete older ones.

    The epoch and the checksum of the settings stand in the checkpoint as well, under `written`.
    """
    folder = run / integrity.CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch-{epoch:04d}.pt"
    settings = integrity.digest(run, integrity.CONFIG)
    buffer = io.BytesIO()
    written = {"epoch": epoch, "settings": settings}
    torch.save(state | {"provenance": provenance.record(), "written": written}, buffer)
    files.publish_bytes(path, buffer.getvalue())
    faultpoint("checkpoint published")
    entry = {"file": path.name, "sha256": files.sha256_file(path), "epoch": epoch, "settings": settings}
    integrity.publish_pointer(run, integrity.new_pointer(run, entry))
    faultpoint("pointer published")
    for old in folder.glob("epoch-*.pt"):
        if old != path:
            old.unlink()


def load(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint, on the CPU; None if there is none yet.

    Raises:
        IntegrityError: The file that the pointer names is missing or has changed, or does not belong to the pointer.
    """
    pointer = integrity.read_pointer(run)
    if not pointer:
        return None
    integrity.check_weights(run, pointer)
    state = read_state(run / integrity.CHECKPOINTS / pointer["file"])
    written = state.get("written")
    if written is None:  # of a version before 0.2
        return Checkpoint(pointer["epoch"], state)
    if (written["epoch"], written["settings"]) != (pointer["epoch"], pointer.get("settings")):
        raise files.IntegrityError(
            f"{run / integrity.POINTER} was edited: {pointer['file']} holds epoch {written['epoch']} of other settings "
            f"or of another epoch than {pointer['epoch']}. {integrity.accept(run)}"
        )
    return Checkpoint(pointer["epoch"], state)


def read_state(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, without regard to the pointer. IntegrityError if it has another form."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        whole = {"model", "optimizer"} <= state.keys()
    except Exception as error:  # torch's reader raises of many classes
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise files.IntegrityError(f"{path} is not a checkpoint ({first}). Put the original back.") from None
    if not whole:
        raise files.IntegrityError(f"{path} is not a checkpoint: it lacks model or optimizer. Put the original back.")
    return dict(state)


def require_valid(weights: Mapping[str, Tensor], source: Path) -> None:
    """Raise IntegrityError if a number of a network's state is not finite, or a variance is negative."""
    if fault := fault_of(weights):
        raise files.IntegrityError(f"{source}: {fault}. Put the original weights back, or train again.")


def fault_of(weights: Mapping[str, Tensor]) -> str:
    """Return what makes a network's state unusable; empty if nothing does."""
    for name, x in weights.items():
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            return f"{name} has values that are not finite"
        if name.endswith("running_var") and bool((x < 0).any()):
            return f"{name} has negative variances"
    return ""
