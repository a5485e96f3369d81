"""transformers: the monitor as a callback of the real Trainer; skipped where the package is not installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.pipeline.normdoctor.planted import data

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def model(momentum: float) -> nn.Module:
    """A small ResNet of the library, for pictures of 8x8."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    net = transformers.ResNetForImageClassification(config)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum
    return net


def pictures(seed: int) -> list[dict[str, Any]]:
    """Samples as the default collator takes them: rows of eight numbers, repeated to a picture."""
    x, y = (torch.cat(parts) for parts in zip(*data(seed), strict=True))
    return [{"pixel_values": row.repeat(8, 1)[None], "labels": label} for row, label in zip(x, y, strict=True)]


def train(folder: Path, momentum: float, callbacks: list[Any], **options: Any) -> nn.Module:
    """Train 60 steps, evaluated after 20."""
    net = model(momentum)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=60, per_device_train_batch_size=32, eval_strategy="steps", eval_steps=20,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=1e-2, seed=0, **options,
    )  # fmt: skip
    transformers.Trainer(
        net, arguments, train_dataset=pictures(0), eval_dataset=pictures(1), callbacks=callbacks
    ).train()
    return net


@pytest.mark.filterwarnings("ignore")
def test_slow_statistics_are_announced_and_no_weight_changes(tmp_path: Path) -> None:
    """Batches by a hook, evaluation samples too; weights to the bit, and no hook is left."""
    from pipeline.normdoctor.transformers import MonitorCallback

    callback = MonitorCallback(every=5)
    watched = train(tmp_path, 0.001, [callback])
    assert callback.monitor is not None
    said = callback.monitor.announcement
    assert said is not None, str(callback.monitor)
    assert said.diagnosis.causes[0].check == "stale"
    assert set(callback.latest.scores) == set("ABCD")
    assert not watched._forward_pre_hooks
    alone = train(tmp_path, 0.001, [])
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True)
    )


@pytest.mark.filterwarnings("ignore")
def test_without_labels_in_the_call_the_monitor_says_so(tmp_path: Path) -> None:
    """A label smoother takes them away; the training goes on."""
    from pipeline.normdoctor.transformers import MonitorCallback

    callback = MonitorCallback(every=5)
    train(tmp_path, 0.1, [callback], label_smoothing_factor=0.1)
    assert callback.monitor is not None
    assert "no label fits" in callback.monitor.off
