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
        self._wandb = start_wandb(run, run.name, config, wandb_mode)

    def write(self, record: dict[str, Any]) -> None:
        """Append one epoch's figures."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._wandb.log(record)

    def close(self, summary: dict[str, Any]) -> None:
        """End the W&B run with the summary's figures."""
        self._wandb.finish(summary)


def read(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ledger; a last line torn by a kill is left out."""
    path = run / "ledger.jsonl"
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


class Tracker:
    """One run on W&B; a run that is off, or that failed to start, swallows everything."""

    def __init__(self, run: Any = None) -> None:
        self._run = run

    def log(self, record: dict[str, Any]) -> None:
        """Figures after an epoch; nested names are joined by a slash."""
        if self._run is not None:
            self._run.log(flat(record), step=record["epoch"])

    def finish(self, summary: dict[str, Any]) -> None:
        """End the run with its last figures."""
        if self._run is not None:
            self._run.summary.update(flat(summary))
            self._run.finish()


def start_wandb(folder: Path, name: str, config: dict[str, Any], mode: str, group: str | None = None) -> Tracker:
    """A run in `folder`/wandb (offline) or on the server (online). A failure costs a message, never a training."""
    if mode == "off":
        return Tracker()
    try:
        import wandb

        # No program arguments, host or code are recorded: they may hold secrets.
        settings = wandb.Settings(
            silent=True, init_timeout=15, save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True
        )
        chosen: Any = mode
        run = wandb.init(
            project="skelnorm", name=name, group=group, dir=str(folder), mode=chosen, config=config, settings=settings,
            reinit="create_new",  # a search has many runs open at once in its driver
        )  # fmt: skip
        return Tracker(run)
    except Exception as error:
        print(
            f"W&B is off for this run ({type(error).__name__}: {error}); the ledger has every figure", file=sys.stderr
        )
        return Tracker()


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures under names joined by a slash."""
    result: dict[str, Any] = {}
    for key, value in record.items():
        result |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return result
