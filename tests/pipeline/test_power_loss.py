"""A power cut at any moment drops or reorders what was not synced; the run folder is whole all the same (F30).

The model: a file's content is durable once it is synced, a name once its folder is. Of the names that are not durable
yet, any subset may survive.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import integrity
from pipeline.run_folder import Run
from pipeline.tracking.ledger import RunLedger
from preprocessing import files

Tree = dict[str, bytes]


class Disk:
    """What a folder's disk may hold after each step, recorded while the folder is written.

    Args:
        folder: The folder; what is in it is durable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.durable: Tree = {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder)}
        self.synced: dict[int, bytes] = {}  # inode -> content
        self.pending: list[tuple[str, bytes | None]] = []  # names that are not durable: new content, None: removed
        self.states: list[tuple[Tree, list[tuple[str, bytes | None]]]] = []
        self.steps: list[str] = []

    def name(self, path: str | Path) -> str:
        return os.path.relpath(path, self.folder)

    def note(self, step: str) -> None:
        self.steps.append(step)
        self.states.append((dict(self.durable), list(self.pending)))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsync, replace, unlink = os.fsync, os.replace, os.unlink

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_dir():
                here = Path(self.name(path))
                for name, content in [entry for entry in self.pending if Path(entry[0]).parent == here]:
                    self.pending.remove((name, content))
                    self.durable.pop(name, None)
                    if content is not None:
                        self.durable[name] = content
            else:
                self.synced[os.fstat(descriptor).st_ino] = path.read_bytes()
                if self.name(path) in self.durable:
                    self.durable[self.name(path)] = path.read_bytes()
            self.note(f"sync {path.name}")

        def replaced(source: Any, target: Any, **_: Any) -> None:
            content = self.synced.get(os.stat(source).st_ino, b"")  # never synced: the name leads to nothing
            replace(source, target)
            self.pending.append((self.name(target), content))
            self.note(f"rename {Path(target).name}")

        def removed(path: Any, **options: Any) -> None:
            unlink(path, **options)
            if not Path(path).name.endswith(".tmp"):
                self.pending.append((self.name(path), None))
                self.note(f"remove {Path(path).name}")

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", replaced)
        monkeypatch.setattr(os, "unlink", removed)

    def after_power_loss(self) -> Iterator[tuple[int, Tree]]:
        """Every tree that the disk may hold, after every step."""
        for step, (durable, pending) in enumerate(self.states):
            for count in range(len(pending) + 1):
                for survivors in itertools.combinations(pending, count):
                    tree = dict(durable)
                    for name, content in survivors:
                        tree.pop(name, None)
                        if content is not None:
                            tree[name] = content
                    yield step, tree


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def restored(tree: Tree, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "none", tmp_path / "run"))


def one_more_epoch(folder: Path) -> None:
    """What a training writes: it takes the summary away, an epoch, and the summary again."""
    run = Run(folder)
    saved, summary = run.checkpoint, run.summary
    assert saved is not None
    integrity.replace(folder, integrity.SUMMARY, None)
    RunLedger(folder, 6).write(run.ledger[-1] | {"epoch": 7})
    run.save_checkpoint(7, {key: value for key, value in saved.state.items() if key != "written"})
    integrity.replace(folder, integrity.SUMMARY, summary | {"epoch": 7})


def test_every_state_of_the_disk_is_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoint is the old or the new one, and a training can go on from it."""
    disk, states, epochs = Disk(run), 0, set()
    with monkeypatch.context() as patched:
        disk.install(patched)
        one_more_epoch(run)
    for step, tree in disk.after_power_loss():
        folder = restored(tree, tmp_path / "after")
        try:
            integrity.check(folder, resuming=True)
        except files.IntegrityError as error:
            pytest.fail(f"after {disk.steps[: step + 1]}: {error}")
        epochs.add(integrity.read_pointer(folder)["epoch"])
        states += 1
    assert states > 30
    assert epochs == {6, 7}


@pytest.mark.parametrize("dropped", ["sync_file", "sync_folder"])
def test_without_a_sync_a_state_is_broken(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropped: str
) -> None:
    """Negative control: both syncs of a publication are needed."""
    disk = Disk(run)
    with monkeypatch.context() as patched:
        disk.install(patched)
        patched.setattr(files, dropped, lambda path: None)
        one_more_epoch(run)
    broken = 0
    for _, tree in disk.after_power_loss():
        folder = restored(tree, tmp_path / "after")
        try:
            integrity.check(folder, resuming=True)
        except (files.IntegrityError, FileNotFoundError):
            broken += 1
            break
    assert broken
