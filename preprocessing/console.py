"""Console script `skelnorm`: every command under one name.

    skelnorm build raw --out clips.h5
    skelnorm train default --data clips.h5 --out runs/first
    skelnorm doctor runs/first

`skelnorm COMMAND --help` explains a command. `skelnorm NAME` is `python -m MODULE`, except that a package of the
working folder never hides ours.
"""

from __future__ import annotations

import difflib
import importlib
import platform
import sys
from collections.abc import Sequence
from typing import NamedTuple

from preprocessing import exits, provenance, startup


class Command(NamedTuple):
    """A command: the module whose `main` runs it, its purpose, and who reads its arguments before torch loads."""

    module: str
    purpose: str
    reader: str = ""
    """Module whose function `read_options` takes the name of the command's module; empty: the module is light."""


OPTIONS = "pipeline.options"
BUILD_OPTIONS, TUNING_OPTIONS = "preprocessing.options", "tuning.options"
COMMANDS = {
    "build": Command("preprocessing.build", "recordings -> one HDF5 file", BUILD_OPTIONS),
    "verify": Command("preprocessing.verify", "re-check a built file", BUILD_OPTIONS),
    "inspect": Command("preprocessing.inspect", "contents of recordings or of a built file", BUILD_OPTIONS),
    "view": Command("preprocessing.view", "watch clips, the recording beside the built file", BUILD_OPTIONS),
    "export": Command("preprocessing.export", "convert a built file for other programs", BUILD_OPTIONS),
    "synthetic": Command("preprocessing.synthetic", "write made-up recordings to try everything on", BUILD_OPTIONS),
    "train": Command("pipeline.train", "train one network", OPTIONS),
    "presets": Command("pipeline.preset_list", "the presets of train, one line each"),
    "evaluate": Command("pipeline.evaluate", "evaluate a trained run on another file or split", OPTIONS),
    "doctor": Command("pipeline.doctor.__main__", "why batch norms evaluate badly: prove it, repair it", OPTIONS),
    "predict": Command("pipeline.predict", "name the action in recordings", OPTIONS),
    "share": Command("pipeline.share", "write a trained run as a model folder to give away", OPTIONS),
    "ensemble": Command("pipeline.ensemble", "combine several runs on the same clips", OPTIONS),
    "adopt": Command("pipeline.adopt", "accept an edited run folder as it is"),
    "page": Command("pipeline.page", "one report over several runs", OPTIONS),
    "train-nodes": Command("tuning.train", "train one network over the nodes of a Ray cluster", TUNING_OPTIONS),
    "watch": Command("tuning.watch", "follow a training, a search or a study in the browser", TUNING_OPTIONS),
    "search": Command("tuning.search", "search normalization settings with Ray Tune"),
    "study": Command("tuning.study", "compare arms over seeds"),
    "dashboard": Command("tuning.dashboard", "the W&B workspace of a project"),
    "completion": Command("preprocessing.completion", "a script that completes commands in bash, zsh or fish"),
}
VERSIONS = ("skelnorm", "torch", "numpy", "h5py", "ray", "wandb")
NOT = ("not installed", "none (not a checkout)")


def main(words: Sequence[str] | None = None) -> int:
    """Run `skelnorm WORDS...` and return the exit code of its command."""
    return startup.run(lambda: _main(sys.argv[1:] if words is None else list(words)))


def _main(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else exits.USAGE
    if words[0] in ("-V", "--version"):
        print(versions())
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        return exits.report(ValueError(unknown(words[0])))
    sys.argv = [f"skelnorm {words[0]}", *words[1:]]
    startup.early(lambda: _read(command))
    main_of_command = importlib.import_module(command.module).main
    return startup.run(main_of_command)


def _read(command: Command) -> None:
    if command.reader:
        importlib.import_module(command.reader).read_options(command.module.removesuffix(".__main__"))


def overview() -> str:
    """Return the help text: one line per command."""
    lines = [f"  {name:<11} {command.purpose}" for name, command in COMMANDS.items()]
    head, _, rest = (__doc__ or "").partition("\n\n")
    return "\n".join(
        ["usage: skelnorm COMMAND ...", "", head, "", *lines, "", rest.strip("\n"), "", "skelnorm --version"]
    )


def unknown(name: str) -> str:
    """Return the message about a command that does not exist."""
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
    return f"skelnorm has no command {name!r}: {hint}"


def versions() -> str:
    """Return the versions of what a figure depends on, and the machine class, one per line."""
    found = {name: provenance.version(name) for name in VERSIONS}
    found |= {"hdf5": _hdf5(), "commit": provenance.commit(), "python": platform.python_version()}
    found["machine"] = provenance.machine()
    return "\n".join(f"{name:<10} {value or NOT[name == 'commit']}" for name, value in found.items())


def _hdf5() -> str:
    from preprocessing.hdf5 import LIBRARY

    return LIBRARY
