"""Options of the commands, and the table by which their arguments are read before torch loads. Imports no torch.

The settings of a training are in `config`; all other commands of this package have one dataclass each here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from preprocessing import arguments

Split = Literal["train", "val", "test", "all"]
Per = Literal["clip", "person", "pair"]


@dataclass(frozen=True)
class Predict:
    """Options of `pipeline.predict`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of pipeline.train, folder of pipeline.share, or file of pipeline.ensemble."""
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECORDING...")] = ()
    """Recordings: files, folders, zips, data files, or - for standard input."""
    format: str = ""
    """Format of the recordings, as --format of preprocessing.build; empty: recognised by their content."""
    layout: str = ""
    """Layout of their joints, as --layout of preprocessing.build; empty: as they say."""
    per: Per = "clip"
    """clip: one answer per recording; person: one per person in it; pair: one per two people who share a frame."""
    window: str = ""
    """Length of the windows of a timeline, such as 2s; auto: the median length of the training clips; empty: one answer
    per recording. Windows of 0.6 to 1.5 times this length are tried."""
    stride: str = "0.25s"
    """Seconds between two windows of a timeline."""
    html: Path | None = None
    """File .html: write the timeline as a page where the skeleton moves over coloured segments."""
    onnx: Path | None = None
    """File .onnx: write the network, or several as one, and check it against torch with onnxruntime, on the first of
    these recordings (at most 32) or on noise."""
    out: Path | None = None
    """File .json: write the answers. A timeline can be written as .csv as well."""


@dataclass(frozen=True)
class Evaluate:
    """Options of `pipeline.evaluate`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of pipeline.train, or folder of pipeline.share."""
    data: Path
    """HDF5 file made by preprocessing.build."""
    protocol: str = ""
    """Split protocol of the file; empty: the run's, if the file has it, else the file's default."""
    split: Split = "test"
    """Clips to evaluate on; all: every clip of the file."""
    test_clips: int = 1
    """Crop windows per clip whose probabilities are averaged into a second figure, as train.test-clips."""
    html: Path | None = None
    """HTML page to write the figures to."""
    out: Path | None = None
    """File .json to write the figures to; default: RUN/evaluations/FILE-PROTOCOL-SPLIT.json."""
    fast_start: bool = False
    """Skip the check of the sha256 of the data file's frames; attributes, clips and splits are checked."""


@dataclass(frozen=True)
class Share:
    """Options of `pipeline.share`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Finished run folder of pipeline.train."""
    out: Path
    """Folder of the model; it must not exist, or be empty."""


@dataclass(frozen=True)
class Ensemble:
    """Options of `pipeline.ensemble`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN...")]
    """Run folders of pipeline.train, on the same data and protocol."""
    weights: tuple[float, ...] = ()
    """One number per run; none: chosen on val."""
    out: Path | None = None
    """File .json with the figures, which pipeline.predict takes like a run."""


@dataclass(frozen=True)
class Doctor:
    """Options of `pipeline.doctor`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    split: Literal["auto", "val", "test"] = "auto"
    """Split to evaluate on; auto: val where it was held out, else test."""
    fix: bool = False
    """Write the repaired run."""
    out: Path | None = None
    """Folder of the repaired run; default: RUN-fixed."""
    probe_lr: int = 0
    """Epochs at a tenth of the last learning rate, to test whether it was too high; 0: none."""
    fine_tune: int = 0
    """Epochs of each trained remedy (statistics frozen, layer swapped, input rescaled, nothing changed); 0: none. Use
    about 20: after 5, weights have not adapted to a new norm."""
    html: Path | None = None
    """HTML page to write the diagnosis to."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Record the verdict on W&B too, as a run of its own beside the training's; doctor.json holds it in any case."""


@dataclass(frozen=True)
class Page:
    """Options of `pipeline.page`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Finished run folders."""
    out: Path
    """The page to write."""
    study: Path | None = None
    """Folder of tuning.search or tuning.study, shown as a table."""


OPTIONS: dict[str, Callable[..., Any]] = {
    "pipeline.predict": Predict,
    "pipeline.evaluate": Evaluate,
    "pipeline.share": Share,
    "pipeline.ensemble": Ensemble,
    "pipeline.doctor": Doctor,
    "pipeline.page": Page,
}
HOMES = {"pipeline.doctor": "pipeline.doctor.__main__"}  # module of the command, where it is a package
ALIASES = {"pipeline.page": {"--html": "--out"}}  # other name of an option -> its name


def options_class(module: str) -> Any:
    """Return the dataclass of a command's options."""
    if module == "pipeline.train":
        from pipeline.config import Train

        return Train
    return OPTIONS[module]


def read_options(module: str, words: Sequence[str] | None = None) -> Any:
    """Return the options of a command.

    Args:
        module: Name in OPTIONS, or `pipeline.train`.
        words: Words of the command line; None: those of this process.
    """
    if module == "pipeline.train":
        from pipeline.config import Train, read_command

        return read_command(Train, words)
    description = arguments.docstring(HOMES.get(module, module))
    return arguments.parse(OPTIONS[module], module, description, words, aliases=ALIASES.get(module))
