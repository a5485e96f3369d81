"""lightning: the monitor as a callback of the real Trainer; skipped where Lightning is not installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.pipeline.normdoctor.planted import Small, data, norms

lightning = pytest.importorskip("lightning.pytorch")


class Module(lightning.LightningModule):
    """A LightningModule around the small network."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.net = Small(dropout=0.2)
        for layer in norms(self.net):
            layer.momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Loss."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        """Log the accuracy."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), 1e-2)


def loader(seed: int, shuffle: bool) -> DataLoader:
    """Batches of 32."""
    x, y = (torch.cat(parts) for parts in zip(*data(seed), strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=shuffle)


def fit(folder: Path, momentum: float, callbacks: list[Any]) -> Module:
    """Train five epochs of 16 steps, validated after each."""
    lightning.seed_everything(0)
    module = Module(momentum)
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", default_root_dir=folder, callbacks=callbacks, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, logger=lightning.loggers.CSVLogger(folder),
    )  # fmt: skip
    trainer.fit(module, loader(0, True), loader(1, False))
    return module


@pytest.mark.filterwarnings("ignore")
def test_slow_statistics_are_announced_and_no_weight_changes(tmp_path: Path) -> None:
    """Evaluation samples from the validation batches that pass by; scores in the logger; weights to the bit."""
    from pipeline.normdoctor.lightning import MonitorCallback

    callback = MonitorCallback(every=5)
    watched = fit(tmp_path, 0.001, [callback])
    assert callback.monitor is not None
    said = callback.monitor.announcement
    assert said is not None, str(callback.monitor)
    assert said.diagnosis.causes[0].check == "stale"
    assert set(callback.monitor.measurements[-1].scores) == set("ABCD")
    logged = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "normdoctor/A" in logged
    alone = fit(tmp_path / "alone", 0.001, [])
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True)
    )


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "error::pipeline.normdoctor.NormalizationWarning")
def test_a_healthy_module_is_not_announced(tmp_path: Path) -> None:
    """Momentum 0.1."""
    from pipeline.normdoctor.lightning import MonitorCallback

    callback = MonitorCallback(every=10)
    fit(tmp_path, 0.1, [callback])
    assert callback.monitor is not None
    assert callback.monitor.announcement is None
    assert callback.monitor.off == ""
    assert callback.monitor.measurements
