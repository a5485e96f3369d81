"""Options of the commands that read them before h5py and Ray load; a search and a study have theirs beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipeline import settings
from pipeline.config import Config, read_command
from pipeline.settings import Range
from preprocessing import arguments


@dataclass(frozen=True)
class TrainNodes(Config):
    """Command line of `tuning.train`: the settings of the run, and where its ranks work."""

    nodes: Annotated[int, Range(ge=1)] = 1
    """Nodes of the cluster."""
    ranks_per_node: Annotated[int, Range(ge=1)] = 1
    """Ranks on each node."""
    cpus_per_rank: Annotated[int, Range(ge=1)] = 1
    """Cores, and threads, per rank."""
    gpus_per_rank: Annotated[float, Range(ge=0)] = 0.0
    """GPUs per rank, 0 or 1."""
    max_failures: Annotated[int, Range(ge=0)] = 3
    """Lost nodes or ranks that are replaced."""
    address: str | None = None
    """Address of a cluster, or auto; without it Ray starts on this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nproc > 1:
            raise ValueError(f"--nproc {self.nproc} is for one machine: use --nodes and --ranks-per-node.")


@dataclass(frozen=True)
class Watch:
    """Options of `tuning.watch`."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Run folder, or folder of a search or study."""
    port: Annotated[int, Range(ge=0, le=65535)] = 0
    """Port on 127.0.0.1; 0: any that is free."""

    def __post_init__(self) -> None:
        settings.check(self, "--")


OPTIONS: dict[str, type[Any]] = {"tuning.train": TrainNodes, "tuning.watch": Watch}


def options_class(module: str) -> Any:
    """Return the dataclass of a command's options."""
    return OPTIONS[module]


def read_options(module: str, words: Sequence[str] | None = None) -> Any:
    """Return the options of a command.

    Args:
        module: Name in OPTIONS.
        words: Words of the command line; None: those of this process.
    """
    if module == "tuning.train":
        return read_command(TrainNodes, words, module)
    return arguments.parse(
        OPTIONS[module], module, arguments.docstring(module), words, registry=settings.command_line()
    )
