"""Write the repaired run: the same weights, other statistics, measured before and after. Nothing is retrained.

A repair is a change of who shares statistics (`norm.persons`) and a recalibration over the training clips: one that
needs a set a call becomes a `per_person` network, one that leaves absent bodies out a `masked` one. Which repair is
chosen is decided on training clips alone (A); the evaluation clips only say what it brought.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline import network, train
from pipeline.config import Config
from pipeline.data.clips import Clips, Splits
from pipeline.evaluation import accuracies
from pipeline.evaluation.recalibration import recalibrate
from pipeline.models.bodies import SlotNorms
from pipeline.normdoctor.intervals import Difference, paired
from pipeline.normdoctor.sites import batch_norms
from pipeline.run_folder import Run


class Repair(NamedTuple):
    """One way to repair a run: the network with its new statistics, its settings, and A (clips right, (N,))."""

    name: str
    config: Config
    model: nn.Module
    correct_N: Tensor


def fix_run(folder: Path, out: Path | None = None) -> dict[str, Any] | None:
    """Write the repaired run to `out` (FOLDER-fixed) and return what summary.json says of it; None: nothing helps.

    The folder it was given is only read. ValueError when `out` is there already.
    """
    out = destination(folder, out)
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    sick, repairs = candidates(config, clips, splits, model)
    chosen = choose(sick, repairs)
    if chosen is None:
        return None
    before = train.final(config, clips, splits, model)
    fixed = dataclasses.replace(chosen.config, out=out)
    after = train.final(fixed, clips, splits, chosen.model)
    gain = paired(sick.correct_N, chosen.correct_N)
    entry = {
        "of": folder.name,
        "eval": after["eval"],
        "remedy": chosen.name,
        "gain_on_training_clips": {"mean": gain.mean, "interval": gain.interval},
        "tried": {repair.name: repair.correct_N.double().mean().item() for repair in (sick, *repairs)},
        "before": _figures(before),
        "after": _figures(after),
    }
    repaired, epoch = run.write_repaired(fixed, chosen.model)
    repaired.write_summary(epoch, after | {"fix": entry})
    return entry | {"out": str(out)}


def destination(folder: Path, out: Path | None = None) -> Path:
    """Where the repaired run goes. ValueError when something is there already."""
    out = out or folder.with_name(f"{folder.name}-fixed")
    if out.exists():
        raise ValueError(f"{out} exists; a repair overwrites nothing: delete it or name another --out")
    return out


def candidates(config: Config, clips: Clips, splits: Splits, model: nn.Module) -> tuple[Repair, list[Repair]]:
    """The run as it is, and the repairs that are possible for it, simplest first."""
    probe_N = accuracies.probe(splits.fit(config.input.fit))
    sizes = config.input.frames, config.train.batch_size

    def judged(name: str, settings: Config, network: nn.Module) -> Repair:
        prediction = accuracies.predict(network, clips, probe_N, *sizes)
        return Repair(name, settings, network, prediction.correct_N.cpu())

    sick = judged("as it is", config, model)
    if not batch_norms(model):
        return sick, []
    repairs = []
    ways = {"joint": config.norm.persons}
    if config.norm.persons == "loop":
        ways |= {"per_call": "per_person"}
    if config.norm.persons in ("loop", "fold"):
        ways |= {"masked": "masked"}
    for name, persons in ways.items():
        settings = dataclasses.replace(config, norm=dataclasses.replace(config.norm, persons=persons))
        network = converted(model, settings, clips)
        recalibrate(network, clips, probe_N, *sizes)
        repairs.append(judged(name, settings, network))
    return sick, repairs


def choose(sick: Repair, repairs: list[Repair]) -> Repair | None:
    """The simplest repair that no later one beats beyond its noise; None when none beats the run as it is."""
    best = sick
    for repair in repairs:
        gain: Difference = paired(best.correct_N, repair.correct_N)
        if gain.significant:
            best = repair
    return None if best is sick else best


def converted(model: nn.Module, config: Config, clips: Clips) -> nn.Module:
    """The same weights in a network with other sharing of statistics; new slots start from slot 0's."""
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
