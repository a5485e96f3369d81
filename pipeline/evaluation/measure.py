"""Measure a network as its run folder reports it: after an epoch, and once at the end."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from pipeline import distributed
from pipeline.config import Config, as_dict
from pipeline.data.clips import Clips
from pipeline.data.splits import Splits
from pipeline.evaluation import accuracies
from pipeline.evaluation.calibration import calibrate
from pipeline.evaluation.metrics import confusion, metrics
from pipeline.evaluation.recalibration import recalibrate
from pipeline.models.cost import cost
from pipeline.network import autocast
from pipeline.normdoctor.evidence import gaps


def after_epoch(config: Config, clips: Clips, splits: Splits, model: nn.Module, epoch: int) -> dict[str, Any]:
    """Recalibrate and evaluate the network where the settings ask for it.

    Returns:
        `reused` of a recalibration; `accuracies` (A to D), `gap`, `norm`, `val` (its loss) and `evaluation_seconds` of
        an evaluation.
    """
    training, frames, size = config.train, config.input.frames, config.train.batch_size
    probe_N, record = accuracies.probe(splits.fit(config.input.fit)), dict[str, Any]()
    if config.norm.recalibrate == "each" or (config.norm.recalibrate == "final" and epoch == training.epochs):
        record["reused"] = recalibrate(model, clips, probe_N, frames, size)
    if epoch % training.eval_every == 0 or epoch == training.epochs:
        begin, held_out_N = time.perf_counter(), splits.held_out(config.input.fit)
        with autocast(config, clips.device):
            found = accuracies.evaluation(model, clips, probe_N, held_out_N, frames, size)
        record |= {
            "accuracies": found.accuracies,
            "gap": gaps(found.accuracies),
            "norm": found.norms,
            "evaluation_seconds": time.perf_counter() - begin,
        }
        if found.loss is not None:
            record["val"] = {"loss": found.loss}
    return record


def final(config: Config, clips: Clips, splits: Splits, model: nn.Module) -> dict[str, Any]:
    """Measure what summary.json reports. A training reads the test split here and nowhere else.

    C and D are those of the test split, or of val if there is no test split.
    """
    frames, size = config.input.frames, config.train.batch_size
    train_N = accuracies.probe(splits.fit(config.input.fit))
    held_out_N = splits.held_out(config.input.fit)
    evaluation_N = splits.test if len(splits.test) else held_out_N
    found = accuracies.evaluation(model, clips, train_N, evaluation_N, frames, size)
    several = {}
    if config.train.test_clips > 1 and len(splits.test):
        crops = accuracies.crops(config.augment.crop, config.train.test_clips)
        voted = accuracies.predict_crops(model, clips, splits.test, frames, size, crops)
        several[f"test_{len(crops)}_clips"] = metrics(voted.logits_NK, voted.label_N)
    val, test = (
        accuracies.predict(model, clips, index_N, frames, size) if len(index_N) else None
        for index_N in (held_out_N, splits.test)
    )
    evaluated = test or val
    return several | {
        "val": {} if val is None else metrics(val.logits_NK, val.label_N),
        "test": {} if test is None else metrics(test.logits_NK, test.label_N),
        "calibration": calibrate(val, test),
        "confusion": [] if evaluated is None else confusion(evaluated.logits_NK, evaluated.label_N).tolist(),
        "accuracies": found.accuracies,
        "gap": gaps(found.accuracies),
        "norm": found.norms,
        "eval": "test" if len(splits.test) else "val",
        "protocol": splits.protocol,
        "clips": {"train": len(splits.fit(config.input.fit)), "val": len(held_out_N), "test": len(splits.test)},
        "ranks": distributed.world_size(),
        "device": str(clips.device),
        "model": cost(model, frames, clips.joints, clips.channels),
        "config": as_dict(config),
    }
