"""Where a run's numbers go: the JSONL ledger always, W&B if asked. The only door to wandb."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


class Ledger:
    """`RUN/ledger.jsonl`, one line an epoch; and the same figures on W&B, which is never fatal."""

    def __init__(self, run: Path, config: dict[str, Any], wandb_mode: str, epochs_done: int) -> None:
        self.path = run / "ledger.jsonl"
        # After a kill the ledger may be ahead of the checkpoint: those epochs will be written again.
        kept = [line for line in read(run) if line["epoch"] <= epochs_done]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._wandb = _start_wandb(run, config, wandb_mode)

    def write(self, record: dict[str, Any]) -> None:
        """Append one epoch's figures."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._wandb is not None:
            self._wandb.log(_flat(record), step=record["epoch"])

    def close(self, summary: dict[str, Any]) -> None:
        """End the W&B run with the summary's figures."""
        if self._wandb is not None:
            self._wandb.summary.update(_flat(summary))
            self._wandb.finish()


def read(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ledger; a last line torn by a kill is left out."""
    path = run / "ledger.jsonl"
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def _start_wandb(run: Path, config: dict[str, Any], mode: str) -> Any:
    if mode == "off":
        return None
    try:
        import wandb

        # No program arguments, host or code are recorded: they may hold secrets.
        settings = wandb.Settings(
            silent=True, init_timeout=15, save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True
        )
        return wandb.init(
            project="skelnorm", name=run.name, dir=str(run), mode=_mode(mode), config=config, settings=settings
        )
    except Exception as error:  # W&B must never cost a training
        print(
            f"W&B is off for this run ({type(error).__name__}: {error}); the ledger has every figure", file=sys.stderr
        )
        return None


def _mode(mode: str) -> Any:
    return mode


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return flat
