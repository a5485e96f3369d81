"""Publish a file so that it is whole or absent; hashes, locks, free space. Everyone who writes uses this."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preprocessing import exits

BLOCK = 1 << 20


class IntegrityError(ValueError):
    """A file is not what was written; the message names it, what in it, and the remedy."""

    exit_code = exits.INTEGRITY


class LockedError(RuntimeError):
    """Another process holds the lock; the message names its pid."""


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, on error it is removed."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder; name a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; the caller holds the lock, so no other is at work."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole or not at all."""
    with publish(path) as temporary:
        temporary.write_bytes(content)


def publish_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    publish_bytes(path, text.encode())


def publish_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN is refused, because it is not JSON."""
    publish_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file of ours. IntegrityError for a file that holds none, or one without one of `keys`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged ({error}); put a copy of it back, or make it anew") from None
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing or not isinstance(value, dict):
        lacks = f"no {', '.join(missing)} in it" if missing else "no JSON object"
        raise IntegrityError(f"{path} is damaged ({lacks}); put a copy of it back, or make it anew")
    return value


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_suffix(option: str, path: Path | None, *suffixes: str) -> None:
    """ValueError if a file to write is not named as what it will be: it may be a recording that stands there instead.

    None is no file, and fine.
    """
    if path is not None and path.suffix not in suffixes:
        raise ValueError(f"{option} {path} must end in {suffixes[0]}")


def require_space(folder: Path, needed: int) -> None:
    """Raise OSError(ENOSPC) naming both sizes when `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; free some space", str(folder)
        )


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which names our pid. The kernel frees it when we die, so none is ever stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise LockedError(f"{path} is held by process {owner}; wait for it to end") from None
        # The previous owner may have removed the name between our open and our lock.
        if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
            break
        os.close(descriptor)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
