"""Write the repaired run folder: the same weights, other statistics, measured before and after. Nothing is retrained.

A repair changes which bodies share statistics (`norm.persons`) and recalibrates over the training clips: a network that
needs one set per call becomes a `per_person` one, a network that leaves absent bodies out a `masked` one. The choice is
made on training clips alone (A); the evaluation clips only measure its effect.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline import network
from pipeline.config import Config
from pipeline.data.clips import Clips
from pipeline.data.splits import Splits
from pipeline.evaluation import accuracies, measure
from pipeline.evaluation.recalibration import recalibrate
from pipeline.models.bodies import SlotNorms
from pipeline.normdoctor.intervals import Difference, paired
from pipeline.normdoctor.sites import batch_norms
from pipeline.run_folder import Run


class Conversion(NamedTuple):
    """A form in which a network of ours keeps the statistics of a remedy."""

    persons: str | None
    """Setting of norm.persons that shares statistics that way; None: the run's own."""
    of: tuple[str, ...] | None = None
    """Settings of norm.persons that it can be made from; None: all."""


# Remedy of normdoctor.remedies -> how it is kept; simplest first.
CONVERSIONS = {
    "joint": Conversion(None),
    "per_call": Conversion("per_person", of=("loop",)),
    "masked": Conversion("masked", of=("loop", "fold")),
}


class Repair(NamedTuple):
    """A network with its statistics, its settings, and which training clips it gets right."""

    name: str
    config: Config
    model: nn.Module
    correct_N: Tensor


def fix_run(folder: Path, out: Path | None = None) -> dict[str, Any] | None:
    """Write the repaired run folder. `folder` itself is only read.

    Args:
        folder: The run folder to repair.
        out: Where the repaired one goes; None: FOLDER-fixed.

    Returns:
        The entry "fix" of its summary.json, and `out`; None: no repair helps, and nothing is written.

    Raises:
        ValueError: `out` exists.
    """
    out = destination(folder, out)
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    as_it_is, repairs = candidates(config, clips, splits, model)
    chosen = choose(as_it_is, repairs)
    if chosen is None:
        return None
    before = measure.final(config, clips, splits, model)
    fixed = dataclasses.replace(chosen.config, out=out)
    after = measure.final(fixed, clips, splits, chosen.model)
    gain = paired(as_it_is.correct_N, chosen.correct_N)
    entry = {
        "of": folder.name,
        "eval": after["eval"],
        "remedy": chosen.name,
        "gain_on_training_clips": {"mean": gain.mean, "interval": gain.interval},
        "tried": {repair.name: repair.correct_N.double().mean().item() for repair in (as_it_is, *repairs)},
        "before": _figures(before),
        "after": _figures(after),
    }
    repaired, epoch = run.write_repaired(fixed, chosen.model)
    repaired.write_summary(epoch, after | {"fix": entry})
    return entry | {"out": str(out)}


def destination(folder: Path, out: Path | None = None) -> Path:
    """Return where the repaired run folder goes.

    Raises:
        ValueError: Something is there already.
    """
    out = out or folder.with_name(f"{folder.name}-fixed")
    if out.exists():
        raise ValueError(f"{out} exists, and a repair overwrites nothing: delete it or choose another --out")
    return out


def candidates(config: Config, clips: Clips, splits: Splits, model: nn.Module) -> tuple[Repair, list[Repair]]:
    """Return the run as it is, and the repairs that are possible for it, simplest first."""
    probe_N = accuracies.probe(splits.fit(config.input.fit))
    sizes = config.input.frames, config.train.batch_size

    def measured(name: str, settings: Config, network: nn.Module) -> Repair:
        prediction = accuracies.predict(network, clips, probe_N, *sizes)
        return Repair(name, settings, network, prediction.correct_N.cpu())

    as_it_is = measured("as it is", config, model)
    if not batch_norms(model):
        return as_it_is, []
    repairs = []
    for name, conversion in CONVERSIONS.items():
        if conversion.of is None or config.norm.persons in conversion.of:
            persons = conversion.persons or config.norm.persons
            settings = dataclasses.replace(config, norm=dataclasses.replace(config.norm, persons=persons))
            network = converted(model, settings, clips)
            recalibrate(network, clips, probe_N, *sizes)
            repairs.append(measured(name, settings, network))
    return as_it_is, repairs


def choose(as_it_is: Repair, repairs: list[Repair]) -> Repair | None:
    """Return the simplest repair that no later one beats significantly; None when none beats the run as it is."""
    best = as_it_is
    for repair in repairs:
        gain: Difference = paired(best.correct_N, repair.correct_N)
        if gain.significant:
            best = repair
    return None if best is as_it_is else best


def converted(model: nn.Module, config: Config, clips: Clips) -> nn.Module:
    """Return the same weights in a network that shares statistics otherwise; new slots start from slot 0's."""
    if not any(isinstance(module, SlotNorms) for module in model.modules()):
        return copy.deepcopy(model)
    with torch.random.fork_rng():
        new = network.build(config, clips, clips.device)
    old = model.state_dict()
    places = [f"{name}." for name, module in new.named_modules() if isinstance(module, SlotNorms)]
    new.load_state_dict({key: old[key if key in old else _first_slot(key, places)] for key in new.state_dict()})
    return new.eval()


def _first_slot(key: str, places: list[str]) -> str:
    """The name that a slot's entry has in the first slot."""
    for place in places:
        if key.startswith(place):
            return f"{place}0.{key.removeprefix(place).split('.', 1)[1]}"
    raise ValueError(f"{key} has no counterpart in the network that is repaired")


def _figures(measured: dict[str, Any]) -> dict[str, Any]:
    """A to D, and top-1 of the splits."""
    splits = {name: measured[name]["top1"] for name in ("val", "test") if measured[name]}
    return {"accuracies": measured["accuracies"], **splits}
