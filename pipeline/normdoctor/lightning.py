"""Monitor as a callback of Lightning: `Trainer(callbacks=[MonitorCallback()])`."""

from __future__ import annotations

from typing import Any

from .monitor import Monitor

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        raise ImportError("Lightning is missing: pip install lightning") from None

PREFIX = "normdoctor/"


class MonitorCallback(Callback):
    """Watch the normalization of a LightningModule while it trains.

    Evaluation samples are those of the first validation batches that pass by, the sanity check's included. The scores
    A to D go to the trainer's loggers.

    Args:
        **options: Those of `Monitor`: `forward` and `metric` where the module's own forward does not take a batch.

    Attributes:
        monitor: The monitor, from the start of `fit` on.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.monitor: Monitor | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch."""
        self.monitor = Monitor(pl_module, **self.options)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first evaluation batches."""
        if self.monitor is not None:
            self.monitor.add_eval(batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a step, and log what was measured."""
        measurement = self.monitor.step(batch) if self.monitor is not None else None
        if measurement is None:
            return
        values = {PREFIX + name: score for name, score in (measurement.scores | measurement.gap).items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
