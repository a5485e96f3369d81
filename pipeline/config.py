"""Settings of a run: frozen dataclasses, one documented field per setting. A preset is a TOML file that overrides them.

Command line: `PRESET --section.key value`. Every error names the thing, the allowed values and the remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from pipeline import preset_list, settings
from pipeline.data.config import AugmentConfig, InputConfig
from pipeline.models import ModelConfig
from pipeline.norms import NormConfig
from pipeline.schedule import OptimConfig
from pipeline.settings import Range
from preprocessing import arguments

PRESETS = preset_list.PRESETS
MODULE = "pipeline.train"
LIST = "skelnorm presets lists them"
OURS = ("lock", "wandb", "checkpoints")  # beside JSON, what a run folder may hold without its settings
# Short name of an option -> its name. The other commands have the same short names.
ALIASES = {
    "--epochs": "--train.epochs",
    "--batch-size": "--train.batch-size",
    "--seed": "--train.seed",
    "--lr": "--optim.lr",
    "--frames": "--input.frames",
    "--protocol": "--input.protocol",
    "--model": "--model.name",
    "--norm": "--norm.kind",
}


@dataclass(frozen=True)
class TrainConfig:
    """Length, batches, precision and seed of a training."""

    epochs: Annotated[int, Range(ge=1)] = 40
    """Passes over the training clips. May be raised later, also for a finished run: the training then continues, and
    the learning rate follows the schedule over the new length from the next epoch on."""
    batch_size: Annotated[int, Range(ge=1)] = 64
    """Clips per step, over all ranks together."""
    accumulate: Annotated[int, Range(ge=1)] = 1
    """Gradient-accumulation steps: micro-batches per optimizer step. BatchNorm sees each micro-batch separately."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of convolutions and matrix products. In bf16 (autocast) norms, loss, weights and the last test stay
    fp32. bf16 is faster on a GPU and on a CPU with bf16 instructions, slower on others (a preflight check warns)."""
    channels_last: bool = False
    """Memory order N T V C, which pays together with bf16."""
    compile: bool = False
    """Use torch.compile for the forward and backward pass: about a minute at the start. Pays on a GPU for cnn in large
    batches (1.45 times as fast), not for stgcn in bf16, which then lacks our kernels (0.55 times)."""
    graphs: Literal["auto", "off"] = "off"
    """CUDA graphs: auto captures the whole optimizer step once per shape of batch and replays it, where that is
    possible; summary.json has the reason where it is not. Same numbers, faster in small batches. Nothing on a CPU; on
    a GPU not yet run."""
    seed: int = 0
    """Seed of weights, order, dropout and augmentation."""
    deterministic: bool = False
    """Use deterministic algorithms on a GPU: every run of a seed, resumed or not, gives the same bits (a CPU always
    does). Slower; torch warns of operations that have no deterministic algorithm."""
    eval_every: Annotated[int, Range(ge=1)] = 5
    """Epochs between two evaluations (A to D); the last epoch is always evaluated."""
    choose: Literal["last", "best"] = "last"
    """Weights that are kept: last (epoch), or best (evaluated epoch by accuracy C on the held-out clips)."""
    test_clips: Annotated[int, Range(ge=1)] = 1
    """Crop windows per test clip whose probabilities are averaged into a second, labelled figure (pyskl takes 10)."""
    self_test: bool = True
    """Before the first epoch, check that a copy of the network can overfit one small batch."""
    monitor: bool = True
    """Watch the normalization gap during training, and warn once where it opens (normdoctor.Monitor). Takes up to 2 %
    of the time and the memory of the weights once more; changes no number."""
    freeze: Literal["none", "trunk"] = "none"
    """With --init: trunk trains the last layer, and what --init did not fill, alone. Frozen norms keep their
    statistics."""

    def __post_init__(self) -> None:
        settings.check(self, "train.")


@dataclass(frozen=True)
class Config:
    """All settings of a run: what decides its numbers, and where it reads and writes."""

    data: Path
    """HDF5 file made by preprocessing.build."""
    out: Path
    """Run folder; the same command again resumes it."""
    nproc: Annotated[int, Range(ge=1)] = 1
    """Ranks (processes) on this machine."""
    rank_timeout: Annotated[float, Range(ge=0)] = 60.0
    """Seconds without a sign of life (a step, processor time, file access) after which a rank is named and the training
    ends; 0 means never."""
    wandb: Literal["off", "offline", "online"] = "offline"
    """W&B: a local run folder (offline), the server (online: key from the environment or netrc), or none (off)."""
    fast_start: bool = False
    """Skip the check of the sha256 of the data file's frames, at the start and at the end; attributes, clips and splits
    are checked."""
    init: Path | None = None
    """Run folder, or folder of pipeline.share, whose weights the training starts from (fine-tuning). Classes and joints
    are matched by name; what does not fit starts from scratch, and init.json in the run folder lists it."""
    input: InputConfig = field(default_factory=InputConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        settings.check(self, "")
        if self.train.test_clips > 1 and self.augment.crop == 1:
            raise ValueError(
                f"train.test-clips {self.train.test_clips} evaluates crop windows, which the network must know from "
                "training: set augment.crop below 1 (CTR-GCN: 0.5), or leave train.test-clips at 1"
            )
        if self.train.freeze != "none" and self.init is None:
            raise ValueError(
                f"train.freeze {self.train.freeze} would freeze untrained layers: add --init RUN, a run to start from, "
                "or leave train.freeze at none"
            )


@dataclass(frozen=True)
class Train(Config):
    """Command line of `pipeline.train`: the settings of the run, and the options of the command."""

    dry_run: bool = False
    """Print resolved settings, size of the network, time and memory; write nothing."""


Command = TypeVar("Command", bound=Config)


def own_options(cls: type[Config]) -> list[str]:
    """Return the fields of a command line that are not settings of the run."""
    known = settings.declared(Config)
    return [name for name in settings.declared(cls) if name not in known]


def of_run(command: Config) -> Config:
    """Return the settings of the run alone, without the options of the command."""
    return Config(**{name: getattr(command, name) for name in settings.declared(Config)})


def as_dict(config: Config) -> dict[str, Any]:
    """Return the settings as plain JSON values."""
    plain = dataclasses.asdict(config)
    start = None if config.init is None else str(config.init.resolve())
    return plain | {"data": str(config.data), "out": str(config.out), "init": start}


def as_toml(values: dict[str, Any]) -> str:
    """Return nested settings as TOML, which `preset` reads again; what is None is left out."""
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict | None)]
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += ["", f"[{key}]", as_toml(value)]
    return "\n".join(lines).lstrip("\n")


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Return flat settings (`norm.kind`) as words of a command line, which `parse` reads again."""
    words: list[str] = []
    for name, value in values.items():
        section, dot, field_name = name.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            words.append(f"--{section}{dot}{'' if value else 'no-'}{field_name}")
        else:
            words += [f"--{section}{dot}{field_name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return words


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def from_dict(values: dict[str, Any]) -> Config:
    """Make settings from plain values; ValueError names an unknown key and the nearest known one."""
    return settings.build(Config, values)


def preset(name: str) -> dict[str, Any]:
    """Return the values of a preset by name, or of a TOML file by path; `extends` names a preset to start from."""
    path = Path(name) if name.endswith(".toml") else preset_list.PRESETS / f"{name}.toml"
    if name.endswith(".toml") and not path.is_file():
        raise ValueError(f"{path} does not exist: name a preset ({', '.join(preset_list.names())}) or a TOML file.")
    if not path.is_file():
        known = preset_list.names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no preset {name!r}{hint}; choose one of {', '.join(known)}, or the path of a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None
    if "extends" not in values:
        return values
    base = str(values.pop("extends"))
    if base.endswith(".toml"):
        raise ValueError(f"{path}: extends {base!r} is a file: must be the name of a preset of the program")
    merged = preset(base)
    for key, value in values.items():
        merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    return merged


def _others(out: Path) -> list[str]:
    """Return the names of files in a folder that is not a run folder; a training that was rejected leaves its own."""
    if not out.is_dir() or (out / "config.json").exists():
        return []
    names = sorted(path.name for path in out.iterdir())
    return [name for name in names if name not in OURS and not name.startswith(".") and ".json" not in name]


def parse(words: Sequence[str]) -> Config:
    """Make settings from a command line without options of a command; arguments and errors as of `read_command`."""
    return read_command(Config, words)


def read_command(cls: type[Command], words: Sequence[str] | None = None, module: str = MODULE) -> Command:
    """Make settings from a command line, whose first word names the preset.

    Args:
        cls: `Config`, or a subclass with the options of one command (`own_options`); other options are rejected.
        words: Words of the command line; None: those of this process.
        module: Module of the command: its docstring is the text of the help, its name stands in messages.

    Raises:
        ValueError: The preset, the data file or the run folder is not usable; the message has the remedy.
    """
    program = arguments.program_name(module)
    words = list(sys.argv[1:] if words is None else words)
    asked = set(words) & {*arguments.HELP, arguments.HELP_ALL}
    named = words and not words[0].startswith("-")
    description = arguments.docstring(module) if asked else ""
    if asked and not named and arguments.HELP_ALL not in asked:
        from pipeline import train_help

        print(train_help.text(program, description, cls))
        sys.exit(0)
    if not asked and not named:
        names = [*arguments.option_names(cls), *ALIASES, *arguments.HELP, arguments.HELP_ALL]
        if mistake := arguments.unknown_option(words[:1], names):
            raise ValueError(f"{mistake} {program} --help lists what is allowed.")
        raise ValueError(f"name a preset first: {program} default --data FILE.h5 --out RUN ({LIST})")
    name, rest = (words[0], words[1:]) if named else ("default", words)
    missing = {"data": tyro.MISSING, "out": tyro.MISSING}
    config = arguments.parse(
        cls,
        module,
        description,
        rest,
        program=f"{program} {name}",
        aliases=ALIASES,
        default=settings.build(cls, missing | preset(name)),
        registry=settings.command_line(),
    )
    if config.data.is_dir():
        raise ValueError(
            f"--data {config.data} is a folder: must be an HDF5 file. Build one with python -m preprocessing.build "
            f"{config.data} --out {config.data.name or 'clips'}.h5"
        )
    if not config.data.is_file():
        raise ValueError(
            f"{config.data} does not exist; build it with python -m preprocessing.build SOURCE --out {config.data}"
        )
    if config.init is not None and config.init.resolve() == config.out.resolve():
        raise ValueError(f"--init {config.init} is the run folder --out: choose another --out for the fine-tuned run")
    if config.out.is_file():
        raise ValueError(f"--out {config.out} is a file; a run makes a folder")
    if others := _others(config.out):
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise ValueError(
            f"--out {config.out} holds other files ({some}): name a folder that is empty or does not exist yet"
        )
    # The run remembers where its data is, for the doctor and the page, which may be started in another folder.
    return dataclasses.replace(config, data=config.data.resolve())
