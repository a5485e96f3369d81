"""Complete, verified, atomically named state.

A run folder holds `checkpoints/epoch-0010.pt` and `checkpoint.json`, a pointer that names the newest whole file and its
sha256. A kill at any moment leaves the old pointer good. There is no random state to save: order and dropout are
pure functions of (seed, epoch, rank), and checkpoints are made between epochs.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from preprocessing import files

POINTER = "checkpoint.json"


def save(run: Path, epoch: int, state: dict[str, Any]) -> None:
    """Publish the state after `epoch` epochs, then point to it, then delete what is no longer pointed to."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch-{epoch:04d}.pt"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files.publish_bytes(path, buffer.getvalue())
    files.publish_json(run / POINTER, {"file": path.name, "sha256": files.sha256_file(path), "epoch": epoch})
    for old in folder.glob("epoch-*.pt"):
        if old != path:
            old.unlink()


def load(run: Path, device: torch.device) -> tuple[int, dict[str, Any]] | None:
    """(epochs done, state) of the newest checkpoint, None when there is none yet.

    ValueError when the file that the pointer names is missing or has changed: never a wrong number.
    """
    pointer = run / POINTER
    if not pointer.exists():
        return None
    entry = pointed_to(run)
    path = run / "checkpoints" / Path(entry["file"]).name
    if not path.exists():
        raise ValueError(f"{pointer} names {path.name}, which is missing; delete {pointer} to start over")
    if files.sha256_file(path) != entry["sha256"]:
        raise ValueError(f"{path} has changed since it was written (sha256); delete {pointer} to start over")
    return int(entry["epoch"]), torch.load(path, map_location=device, weights_only=True)


def pointed_to(run: Path) -> dict[str, Any]:
    """What the pointer says of the newest checkpoint: `file`, `sha256`, `epoch`."""
    return files.read_json(run / POINTER, "file", "sha256", "epoch")
