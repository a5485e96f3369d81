"""One run's settings: frozen dataclasses, one documented field a line. A preset is a TOML file that overrides defaults.

Command line: `PRESET --section.key value`. Every error names the thing, the allowed values and the remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.data.augment import AugmentConfig
from pipeline.data.clips import InputConfig
from pipeline.models import ModelConfig
from pipeline.norms import NormConfig
from pipeline.optim import OptimConfig

PRESETS = Path(__file__).parent / "presets"
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class TrainConfig:
    """How long, in which batches and numbers, from which seed."""

    epochs: int = 40
    """Passes over the training clips."""
    batch_size: int = 64
    """Clips a step, over all ranks together."""
    accumulate: int = 1
    """Parts that a batch is put through the network in, with one step after the last; BatchNorm sees a part alone."""
    precision: str = "fp32"
    """Numbers of convolutions and products: fp32, or bf16 (autocast; norms, loss, weights and last test stay fp32).
    bf16 is faster on a GPU and on a CPU that has instructions for it, slower on others, which the start tells."""
    channels_last: bool = False
    """Memory order N T V C, which pays together with bf16."""
    compile: bool = False
    """torch.compile of the training's forward and backward: a minute at the start. Pays on a GPU for cnn in large
    batches (1.45 times), not for stgcn in bf16, which then goes without kernels of its own (0.55 times)."""
    seed: int = 0
    """Of weights, order, dropout and augmentation."""
    deterministic: bool = False
    """On a GPU add up in one order: the same bits from every run of a seed, resumed or not (a CPU gives them anyway);
    slower, and torch warns of operations that have no such way."""
    eval_every: int = 5
    """Epochs between two evaluations (A to D); the last epoch is always evaluated."""
    choose: str = "last"
    """Whose weights are kept: last (epoch), or best (evaluated epoch by accuracy C on the held-out clips)."""
    test_clips: int = 1
    """Parts of each test clip whose probabilities are averaged into a second, labelled figure (pyskl takes 10)."""
    self_test: bool = True
    """Before the first epoch, see whether a copy of the network can learn one small batch by heart."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every", "accumulate", "test_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name.replace('_', '-')} {getattr(self, name)} must be 1 or more")
        for name, known in (("precision", ("fp32", "bf16")), ("choose", ("last", "best"))):
            if getattr(self, name) not in known:
                raise ValueError(f"train.{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(known)}")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's numbers, and where it reads and writes."""

    data: Path
    """HDF5 file made by preprocessing.build."""
    out: Path
    """Run folder; the same command again resumes it."""
    nproc: int = 1
    """Ranks (processes) on this machine."""
    wandb: Literal["off", "offline", "online"] = "offline"
    """W&B: a local run folder (offline), the server (online: key from the environment or netrc), or none."""
    fast_start: bool = False
    """Skip the check of the data file's sha256."""
    input: InputConfig = field(default_factory=InputConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for section, settings in dataclasses.asdict(self).items():
            for name, value in settings.items() if isinstance(settings, dict) else ():
                numbers = value if isinstance(value, tuple) else (value,)
                if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
                    raise ValueError(f"{section}.{name.replace('_', '-')} {value} must be finite")
        if self.nproc < 1:
            raise ValueError(f"nproc {self.nproc} must be 1 or more")
        if self.train.test_clips > 1 and self.augment.crop == 1:
            raise ValueError(
                f"train.test-clips {self.train.test_clips} shows the network parts of clips, which it must know from "
                "training: set augment.crop below 1 (CTR-GCN: 0.5), or leave it at 1"
            )


def as_dict(config: Config) -> dict[str, Any]:
    """The settings as plain JSON values."""
    plain = dataclasses.asdict(config)
    return plain | {"data": str(config.data), "out": str(config.out)}


def from_dict(values: dict[str, Any]) -> Config:
    """Settings from plain values; ValueError names an unknown key and the nearest known one."""
    return build(Config, values, "")


def build(cls: Any, values: dict[str, Any], prefix: str) -> Any:
    """A dataclass from nested plain values."""
    known = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(prefix + k for k in known)}"
            raise ValueError(f"unknown setting {prefix}{key}{hint}")
        kind, name = known[key], f"{prefix}{key}"
        if not dataclasses.is_dataclass(kind):
            arguments[key] = _setting(kind, value, name)
        elif isinstance(value, dict):
            arguments[key] = build(kind, value, f"{name}.")
        else:
            raise ValueError(f"{name} {value!r} must be a table of settings: {', '.join(get_type_hints(kind))}")
    return cls(**arguments)


def _setting(kind: Any, value: Any, name: str) -> Any:
    """A plain value as a field of this type holds it; ValueError says what the field takes."""
    if kind is Path:
        return Path(value) if isinstance(value, str) else value
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} {value!r} must be a list, each {WORDS[get_args(kind)[0]]}")
        return tuple(_setting(get_args(kind)[0], each, name) for each in value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole if kind is int else whole or isinstance(value, float) if kind is float else isinstance(value, kind)):
        raise ValueError(f"{name} {value!r} must be {WORDS[kind]}")
    return value


def preset(name: str) -> dict[str, Any]:
    """The values of a preset by name, or of a TOML file by path; `extends` names a preset whose values it changes."""
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in PRESETS.glob("*.toml"))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no preset {name!r}{hint}; choose one of {', '.join(known)}, or the path of a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML file: {error}") from None
    if "extends" not in values:
        return values
    base = str(values.pop("extends"))
    if base.endswith(".toml"):
        raise ValueError(f"{path}: extends {base!r} is a file; it names a preset that comes with the program")
    merged = preset(base)
    for key, value in values.items():
        merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    return merged
