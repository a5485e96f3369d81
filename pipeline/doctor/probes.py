"""Short trainings of a copy of a run, for what no statistics can show: is the rate too high, would another norm do?

The run itself is only read. Every training starts from the run's network, with a fresh optimizer, and is judged as
the other remedies are: evaluation accuracy before and after, on the same clips, with the interval of the gain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline import network, optim
from pipeline.config import Config
from pipeline.data.clips import Clips, Splits
from pipeline.doctor.patient import judged_on
from pipeline.evaluation import accuracies
from pipeline.normdoctor.intervals import paired
from pipeline.normdoctor.samples import random_state_kept
from pipeline.normdoctor.sites import batch_norms
from pipeline.normdoctor.sources import batch_statistics
from pipeline.run_folder import Run
from pipeline.train import fit, fresh_state

# The probe's share of the run's last learning rate.
DROP = 0.1


class NoStartError(ValueError):
    """The run holds no start for a network of other settings."""


@dataclass(frozen=True)
class Training:
    """What is changed for it, and what to do if it helps."""

    advice: str
    change: Callable[[Config], Config]
    applies: Callable[[Config], bool] = lambda config: True
    """Whether it would change a run of these settings."""


def at_rate(config: Config, lr: float, schedule: str) -> Config:
    """The settings with another learning rate from first epoch to last."""
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=lr, schedule=schedule, warmup=0.0))


def last_rate(config: Config) -> float:
    """Learning rate in the middle of the last epoch."""
    return optim.rate(config.optim, config.train.epochs - 0.5, config.train.epochs)


def with_norm(**changed: Any) -> Callable[[Config], Config]:
    """Changes the norm; the rate falls from the run's own to zero."""
    return lambda config: dataclasses.replace(
        at_rate(config, config.optim.lr, "cosine"), norm=dataclasses.replace(config.norm, freeze_after=0, **changed)
    )


LOWER_RATE = Training(
    "the learning rate was not decayed: let it fall (optim.schedule cosine or step)",
    lambda config: at_rate(config, DROP * last_rate(config), "constant"),
)

FINE_TUNES: dict[str, Training] = {
    # What the epochs alone bring: the others are to be read against it.
    "train_on": Training("train longer", lambda config: at_rate(config, config.optim.lr, "cosine")),
    "freeze": Training(
        "freeze the statistics for the last epochs (norm.kind frozen_bn)",
        with_norm(kind="frozen_bn"),
        lambda config: config.norm.kind != "frozen_bn",
    ),
    "swap": Training(
        "a norm of one sample (norm.kind gn), which no batch can mislead",
        with_norm(kind="gn"),
        lambda config: config.norm.kind != "gn",
    ),
    # A scale for each joint's coordinate makes what hardly varies as loud as a hand: it fits every training clip, A and
    # B are right, and no other statistics heal what was learnt by it.
    "input": Training(
        "one scale a coordinate for all joints (norm.input c_masked)",
        with_norm(input="c_masked"),
        lambda config: config.norm.input not in ("c", "c_masked"),
    ),
}


@random_state_kept()
def probe_rate(folder: Path, split: str, epochs: int) -> dict[str, Any]:
    """What a few epochs at a tenth of the last rate bring, and in words whether the rate was not decayed.

    Judged by batch statistics (D): running ones also catch up when the weights slow down, which is not learning.
    """
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    if last_rate(config) <= DROP * config.optim.lr:
        text = (
            f"learning rate decayed: {last_rate(config):.2g} in the last epoch, {config.optim.lr:.2g} before; no probe"
        )
        return {"text": text}
    _, index_N = judged_on(run, split)
    before = judged(config, clips, index_N, model)
    lower = LOWER_RATE.change(config)
    after = judged(config, clips, index_N, trained(lower, epochs, clips, splits, start(lower, clips, model)))
    entry = compared(LOWER_RATE, epochs, before, after)
    gains = entry["gain"]["D"]["significant"]
    verdict = "learning rate not decayed" if gains else "no sign of a learning rate too high"
    return entry | {
        "text": f"{verdict}: {epochs} epochs at a tenth of it take D {moved(entry, 'D')}, C {moved(entry, 'C')}"
    }


@random_state_kept()
def fine_tunes(folder: Path, split: str, epochs: int) -> dict[str, dict[str, Any]]:
    """Each of FINE_TUNES that has a start in this run: accuracies before and after, and whether C gains more than by
    epochs alone. ValueError where there is nothing to change.
    """
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    _, index_N = judged_on(run, split)
    starts: dict[str, nn.Module] = {}
    for name, way in FINE_TUNES.items():
        if way.applies(config):
            with suppress(NoStartError):
                starts[name] = start(way.change(config), clips, model)
    if set(starts) == {"train_on"}:
        raise ValueError(f"{folder} has no norm to change: no layer with statistics, and one scale a coordinate")
    before = judged(config, clips, index_N, model)
    after = {
        name: judged(config, clips, index_N, trained(FINE_TUNES[name].change(config), epochs, clips, splits, begun))
        for name, begun in starts.items()
    }
    tried = {name: compared(FINE_TUNES[name], epochs, before, right) for name, right in after.items()}
    for name, entry in tried.items():
        beyond = name == "train_on" or paired(after["train_on"]["C"], after[name]["C"]).significant
        entry["helps"] = entry["gain"]["C"]["significant"] and beyond
        advice = f": {entry['advice']}" if entry["helps"] else ""
        entry["text"] = f"{name}, {epochs} epochs: C {moved(entry, 'C')}{advice}"
    return tried


def judged(config: Config, clips: Clips, index_N: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Which of the clips are right, (N,): C by running statistics, D by those of the batch."""
    ask = clips, index_N, config.input.frames, config.train.batch_size
    by = {"C": None, "D": batch_statistics if batch_norms(model) else None}
    return {name: accuracies.predict(model, *ask, source).correct_N.cpu() for name, source in by.items()}


def compared(way: Training, epochs: int, before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Any]:
    """Accuracies before and after a training of a copy, and the gains."""
    gains = {name: paired(before[name], after[name]) for name in before}
    return {
        "advice": way.advice,
        "epochs": epochs,
        "before": {name: right_N.double().mean().item() for name, right_N in before.items()},
        "after": {name: right_N.double().mean().item() for name, right_N in after.items()},
        "gain": {n: {"mean": g.mean, "interval": g.interval, "significant": g.significant} for n, g in gains.items()},
    }


def start(config: Config, clips: Clips, model: nn.Module) -> nn.Module:
    """A copy of the network in the norms of these settings. An input norm of another kind begins anew. NoStartError
    where nothing fits another norm.
    """
    new = network.build(config, clips, clips.device)
    state, old = new.state_dict(), model.state_dict()
    kept = {name: x for name, x in old.items() if name in state and x.shape == state[name].shape}
    if lacking := sorted(name for name in set(state) - set(kept) if not name.startswith("input_norm.")):
        raise NoStartError(f"norm.kind {config.norm.kind} has {lacking[0]}, which the run has not: no start for it")
    new.load_state_dict(state | kept)
    return new


def trained(config: Config, epochs: int, clips: Clips, splits: Splits, model: nn.Module) -> nn.Module:
    """The network, in place, after so many epochs of these settings."""
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, ema=0.0),
        train=dataclasses.replace(config.train, epochs=epochs, eval_every=epochs),
    )
    for _ in fit(config, clips, splits, fresh_state(config, model)):
        pass
    return model.eval()


def moved(entry: dict[str, Any], name: str) -> str:
    """An accuracy before and after, and the interval of the gain."""
    low, high = (100 * bound for bound in entry["gain"][name]["interval"])
    return f"{100 * entry['before'][name]:.1f} -> {100 * entry['after'][name]:.1f} % ({low:+.1f} to {high:+.1f})"
