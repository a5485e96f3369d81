"""Train copies of a run for a few epochs, to test what no statistics can show: a learning rate too high, another norm.

The run itself is only read. Every training starts from the run's network with a fresh optimizer, and is measured as
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
from pipeline.data.clips import Clips
from pipeline.data.splits import Splits
from pipeline.doctor.patient import evaluated_on
from pipeline.evaluation import accuracies
from pipeline.normdoctor.intervals import paired
from pipeline.normdoctor.samples import random_state_kept
from pipeline.normdoctor.sites import batch_norms
from pipeline.normdoctor.sources import batch_statistics
from pipeline.run_folder import Run
from pipeline.training import fit, fresh_state

# The probe's share of the run's last learning rate.
DROP = 0.1


class NoStartError(ValueError):
    """The run's network is not a start for a network of these settings."""


@dataclass(frozen=True)
class Probe:
    """A short training with changed settings.

    Attributes:
        advice: What to do if it helps.
        change: The run's settings -> those of the training.
        applies: Whether it changes anything in a run of these settings.
    """

    advice: str
    change: Callable[[Config], Config]
    applies: Callable[[Config], bool] = lambda config: True


def at_rate(config: Config, lr: float, schedule: str) -> Config:
    """Return the settings with another learning rate and schedule, without warmup."""
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=lr, schedule=schedule, warmup=0.0))


def last_rate(config: Config) -> float:
    """Return the learning rate in the middle of the last epoch."""
    return optim.rate(config.optim, config.train.epochs - 0.5, config.train.epochs)


def with_norm(**changed: Any) -> Callable[[Config], Config]:
    """Return a change of the norm, in which the learning rate falls from the run's own to zero."""
    return lambda config: dataclasses.replace(
        at_rate(config, config.optim.lr, "cosine"), norm=dataclasses.replace(config.norm, freeze_after=0, **changed)
    )


LOWER_RATE = Probe(
    "the learning rate was not decayed: let it fall (optim.schedule cosine or step)",
    lambda config: at_rate(config, DROP * last_rate(config), "constant"),
)

FINE_TUNES: dict[str, Probe] = {
    # The gain of the epochs alone; the others are compared with it.
    "train_on": Probe("train longer", lambda config: at_rate(config, config.optim.lr, "cosine")),
    "freeze": Probe(
        "freeze the statistics for the last epochs (norm.kind frozen_bn)",
        with_norm(kind="frozen_bn"),
        lambda config: config.norm.kind != "frozen_bn",
    ),
    "swap": Probe(
        "a norm of single samples (norm.kind gn), which does not depend on the batch",
        with_norm(kind="gn"),
        lambda config: config.norm.kind != "gn",
    ),
    # A scale per joint and coordinate amplifies joints that hardly move: the network fits every training clip by them,
    # A and B agree, and no other statistics undo what it learned.
    "input": Probe(
        "one scale per coordinate for all joints (norm.input c_masked)",
        with_norm(input="c_masked"),
        lambda config: config.norm.input not in ("c", "c_masked"),
    ),
}


@random_state_kept()
def probe_rate(folder: Path, split: str, epochs: int) -> dict[str, Any]:
    """Measure the gain of a few epochs at a tenth of the last learning rate.

    The verdict goes by batch statistics (D): running ones also catch up when the weights slow down, which is not
    learning.

    Args:
        folder: The run folder; only read.
        split: The split to evaluate on (`evaluated_on`).
        epochs: Epochs to train.

    Returns:
        `text`, the verdict; and the entries of `compared` where a copy was trained.
    """
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    if last_rate(config) <= DROP * config.optim.lr:
        text = f"learning rate decayed: {last_rate(config):.2g} in the last epoch, {config.optim.lr:.2g} before"
        return {"text": text}
    _, index_N = evaluated_on(run, split)
    before = measured(config, clips, index_N, model)
    lower = LOWER_RATE.change(config)
    after = measured(config, clips, index_N, trained(lower, epochs, clips, splits, start(lower, clips, model)))
    entry = compared(LOWER_RATE, epochs, before, after)
    gains = entry["gain"]["D"]["significant"]
    verdict = "learning rate not decayed" if gains else "no sign of a learning rate too high"
    return entry | {
        "text": f"{verdict}: {epochs} epochs at a tenth of it take D {moved(entry, 'D')}, C {moved(entry, 'C')}"
    }


@random_state_kept()
def fine_tunes(folder: Path, split: str, epochs: int) -> dict[str, dict[str, Any]]:
    """Train a copy of a run in each way of FINE_TUNES that its network is a start for.

    Args:
        folder: The run folder; only read.
        split: The split to evaluate on (`evaluated_on`).
        epochs: Epochs of each training.

    Returns:
        Name -> entries of `compared`; `helps`: whether C gains more than by the epochs alone; `text`: in words.

    Raises:
        ValueError: The run has no norm to change.
    """
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    _, index_N = evaluated_on(run, split)
    starts: dict[str, nn.Module] = {}
    for name, way in FINE_TUNES.items():
        if way.applies(config):
            with suppress(NoStartError):
                starts[name] = start(way.change(config), clips, model)
    if set(starts) == {"train_on"}:
        raise ValueError(f"{folder} has no norm to change: no layer with statistics, and one scale per coordinate")
    before = measured(config, clips, index_N, model)
    after = {
        name: measured(config, clips, index_N, trained(FINE_TUNES[name].change(config), epochs, clips, splits, begun))
        for name, begun in starts.items()
    }
    tried = {name: compared(FINE_TUNES[name], epochs, before, right) for name, right in after.items()}
    for name, entry in tried.items():
        beyond = name == "train_on" or paired(after["train_on"]["C"], after[name]["C"]).significant
        entry["helps"] = entry["gain"]["C"]["significant"] and beyond
        advice = f": {entry['advice']}" if entry["helps"] else ""
        entry["text"] = f"{name}, {epochs} epochs: C {moved(entry, 'C')}{advice}"
    return tried


def measured(config: Config, clips: Clips, index_N: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Return which clips are right, (N,): C by running statistics, D by batch statistics."""
    ask = clips, index_N, config.input.frames, config.train.batch_size
    by = {"C": None, "D": batch_statistics if batch_norms(model) else None}
    return {name: accuracies.predict(model, *ask, source).correct_N.cpu() for name, source in by.items()}


def compared(way: Probe, epochs: int, before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Any]:
    """Return the advice, the epochs, the accuracies C and D before and after, and their gains with intervals."""
    gains = {name: paired(before[name], after[name]) for name in before}
    return {
        "advice": way.advice,
        "epochs": epochs,
        "before": {name: right_N.double().mean().item() for name, right_N in before.items()},
        "after": {name: right_N.double().mean().item() for name, right_N in after.items()},
        "gain": {n: {"mean": g.mean, "interval": g.interval, "significant": g.significant} for n, g in gains.items()},
    }


def start(config: Config, clips: Clips, model: nn.Module) -> nn.Module:
    """Return a copy of the network with the norms of these settings; an input norm of another kind is initialized.

    Raises:
        NoStartError: The new norm has parameters that the network lacks.
    """
    new = network.build(config, clips, clips.device)
    state, old = new.state_dict(), model.state_dict()
    kept = {name: x for name, x in old.items() if name in state and x.shape == state[name].shape}
    if lacking := sorted(name for name in set(state) - set(kept) if not name.startswith("input_norm.")):
        raise NoStartError(
            f"norm.kind {config.norm.kind} has {lacking[0]}, which the run lacks: it is not a start for it"
        )
    new.load_state_dict(state | kept)
    return new


def trained(config: Config, epochs: int, clips: Clips, splits: Splits, model: nn.Module) -> nn.Module:
    """Train the network in place for some epochs of these settings, and return it in eval mode."""
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, ema=0.0),
        train=dataclasses.replace(config.train, epochs=epochs, eval_every=epochs),
    )
    for _ in fit(config, clips, splits, fresh_state(config, model)):
        pass
    return model.eval()


def moved(entry: dict[str, Any], name: str) -> str:
    """Return an accuracy before and after, and the interval of the gain, in words."""
    low, high = (100 * bound for bound in entry["gain"][name]["interval"])
    return f"{100 * entry['before'][name]:.1f} -> {100 * entry['after'][name]:.1f} % ({low:+.1f} to {high:+.1f})"
