"""The short help of pipeline.train: presets with one line each, and the options that most trainings need.

`--help-all`, or `--help` behind a preset, lists every setting.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from pipeline import preset_list, settings
from pipeline.config import ALIASES, Config, own_options

WIDTH, COLUMN = 118, 24
# Section -> options of `pipeline.config.Config` that the short help shows.
SHOWN = {
    "run": ("data", "out", "init", "nproc", "wandb"),
    "network and normalization": (
        "model.name", "norm.kind", "norm.persons", "norm.input", "norm.momentum", "norm.recalibrate",
    ),
    "training": (
        "train.epochs", "train.batch_size", "train.seed", "optim.lr", "optim.schedule", "optim.weight_decay",
    ),
    "input": ("input.frames", "input.protocol", "input.fit", "input.stream", "augment.rotate"),
}  # fmt: skip


def text(program: str, description: str, cls: type[Config]) -> str:
    """Return the short help.

    Args:
        program: How the command was started.
        description: Docstring of the command; its last paragraph is left to the long help.
        cls: Command line: settings, and the options of this command.
    """
    purpose = description.strip().rpartition("\n\n")[0]
    lines = [f"usage: {program} PRESET --data FILE.h5 --out RUN [--SECTION.SETTING VALUE ...]", "", purpose]
    lines += ["", f"presets ({program} mine.toml takes a TOML file of your own):", preset_list.table(WIDTH)]
    default = settings.build(cls, {"data": "FILE.h5", "out": "RUN"})
    for section, names in SHOWN.items():
        lines += ["", f"{section}:", *(_line(name, default) for name in names)]
    lines += ["", "this command:", *(_line(name, default) for name in own_options(cls))]
    lines += [f"{'  --help-all':<{COLUMN}}List all settings; behind a preset, --help lists them with its values."]
    return "\n".join(lines)


def _line(name: str, default: Config) -> str:
    """Return the option, its allowed values, its default and the first sentence about it."""
    section, _, field = name.rpartition(".")
    owner: Any = getattr(default, section) if section else default
    kind, value = settings.declared(type(owner))[field], getattr(owner, field)
    option = f"--{name.replace('_', '-')}"
    short = next((other for other, known in ALIASES.items() if known == option), "")
    about = re.sub(r"\s*\([^()]*\)", "", settings.documented(type(owner))[field])
    about = re.split(r"(?<=[.;:])\s", about)[0].rstrip(".;:")
    allowed = settings.allowed(kind)
    shown = "" if name in ("data", "out") or value in ("", None) or value is False else f" (default: {value})"
    left = f"  {short or option}"
    right = f"{about}{': ' + allowed if allowed else ''}{shown}{f' = {option}' if short else ''}"
    lines = textwrap.wrap(right, WIDTH - COLUMN, break_on_hyphens=False)
    return f"{left:<{COLUMN}}" + f"\n{'':<{COLUMN}}".join(lines)
