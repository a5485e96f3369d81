"""Write the repaired run folder: the same weights, other statistics, measured before and after. Nothing is retrained.

The remedy is the one that the diagnosis proves, as in `Diagnosis.repaired`; a run folder keeps it in a form of our own
networks. A repair changes which bodies share statistics (`norm.persons`) and recalibrates over the training clips: one
that needs one set of statistics per call becomes a `per_person` network, one that leaves absent bodies out `masked`.
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
from pipeline.evaluation import accuracies, measure
from pipeline.evaluation.recalibration import recalibrate
from pipeline.models.bodies import SlotNorms
from pipeline.normdoctor.intervals import paired
from pipeline.normdoctor.remedies import buildable
from pipeline.run_folder import Run


class Conversion(NamedTuple):
    """A form in which a network of ours keeps the statistics of a remedy."""

    persons: str | None
    """Setting of norm.persons that shares statistics that way; None: the run's own."""
    of: tuple[str, ...] | None = None
    """Settings of norm.persons that it can be made from; None: all."""


# Remedy of normdoctor.remedies -> how it is kept.
CONVERSIONS = {
    "joint": Conversion(None),
    "per_call": Conversion("per_person", of=("loop",)),
    "masked": Conversion("masked", of=("loop", "fold")),
}


class Candidate(NamedTuple):
    """A network with its statistics, its settings, and which training clips it gets right."""

    config: Config
    model: nn.Module
    correct_N: Tensor


def fix_run(folder: Path, remedy: str | None, out: Path | None = None) -> dict[str, Any] | None:
    """Write the repaired run folder. `folder` itself is only read.

    Where our networks cannot keep the remedy, the simpler one that it contains is tried.

    Args:
        folder: The run folder to repair.
        remedy: The one that is proven (`Diagnosis.remedy`); None: none is, and nothing is written.
        out: Where the repaired one goes; None: FOLDER-fixed.

    Returns:
        The entry "fix" of its summary.json, and `out`; None: nothing was written.

    Raises:
        ValueError: `out` exists.
    """
    out = destination(folder, out)
    if remedy is None:
        return None
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    probe_N = accuracies.probe(splits.fit(config.input.fit))
    sizes = config.input.frames, config.train.batch_size

    def candidate(settings: Config, network: nn.Module) -> Candidate:
        prediction = accuracies.predict(network, clips, probe_N, *sizes)
        return Candidate(settings, network, prediction.correct_N.cpu())

    as_it_is = candidate(config, model)
    tried = {"as it is": as_it_is}

    def build(name: str) -> Candidate | None:
        settings = kept_as(name, config)
        if settings is None:
            return None
        network = converted(model, settings, clips)
        recalibrate(network, clips, probe_N, *sizes)
        tried[name] = candidate(settings, network)
        gain = paired(as_it_is.correct_N, tried[name].correct_N)
        # The diagnosis may have proven its remedy on evaluation clips, where A has no room to rise.
        return tried[name] if gain.significant or (name == remedy and gain.mean >= 0) else None

    found = buildable(remedy, build)
    if found is None:
        return None
    name, chosen = found
    before = measure.final(config, clips, splits, model)
    fixed = dataclasses.replace(chosen.config, out=out)
    after = measure.final(fixed, clips, splits, chosen.model)
    gain = paired(as_it_is.correct_N, chosen.correct_N)
    entry = {
        "of": folder.name,
        "eval": after["eval"],
        "remedy": name,
        "gain_on_training_clips": {"mean": gain.mean, "interval": gain.interval},
        "tried": {name: one.correct_N.double().mean().item() for name, one in tried.items()},
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


def kept_as(name: str, config: Config) -> Config | None:
    """Return the settings of a run that keeps the statistics of a remedy; None where no network of ours does."""
    conversion = CONVERSIONS.get(name)
    if conversion is None or (conversion.of is not None and config.norm.persons not in conversion.of):
        return None
    persons = conversion.persons or config.norm.persons
    return dataclasses.replace(config, norm=dataclasses.replace(config.norm, persons=persons))


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
