"""Which data file a run was trained on, and where it is by now; without torch, for who shows a run and asks it nothing.

RUN/config.json names the file and the folder as they were when it trained. A run that was moved together with its data
finds it by the way that led there from its old place.
"""

from __future__ import annotations

import os
from pathlib import Path

from preprocessing import files
from preprocessing.hdf5 import SkeletonFile, open_file


def place(folder: Path) -> Path:
    """Where a run's data file is, or else was."""
    values = files.read_json(folder / "config.json", "data", "out")
    data = Path(values["data"])
    beside = (folder.resolve() / os.path.relpath(data, values["out"])).resolve()
    return beside if not data.is_file() and beside.is_file() else data


def sha256(folder: Path) -> str:
    """The content hash of the data file that a run was trained on."""
    return str(files.read_json(folder / "config.json").get("data_sha256", ""))


def data_file(folder: Path) -> SkeletonFile:
    """A run's data file, without its checksums. ValueError says where it should be, or that it is another one now."""
    path = place(folder)
    if not path.is_file():
        raise ValueError(
            f"{folder} was trained on {path}, which is not there; put it back, or write its new place into "
            f'{folder / "config.json"} ("data")'
        )
    file = open_file(path, fast_start=True)
    if file.content_sha256 != sha256(folder):
        raise ValueError(f"{path} is not the file that {folder} was trained on; put that one back")
    return file
