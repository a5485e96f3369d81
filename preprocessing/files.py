"""Publish files so that they are complete or absent; hashes, locks, free space. All packages write through this."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preprocessing import exits
from preprocessing.faults import faultpoint

LOCK = "lock"
"""Name of the lock file of a folder."""


class IntegrityError(ValueError):
    """A file differs from what was written; the message names the file, the place and the remedy."""

    exit_code = exits.INTEGRITY


class LockedError(exits.Fault):
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
    """Yield a temporary path beside `path`; on success it is renamed to `path` in one step, on error it is removed.

    The file is synced to the disk before the rename, and its folder after it.

    Raises:
        IsADirectoryError: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder; name a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):  # not every library that writes the file names it in its error
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        faultpoint("file written")
        sync_file(temporary)
        faultpoint("file synced")
        os.replace(temporary, path)
        faultpoint("file renamed")
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove temporary files that killed writers of `path` left beside it; the caller must hold the lock."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write bytes completely or not at all."""
    with publish(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            if exits.no_space(error):
                raise no_space(path, len(content)) from None
            raise


def publish_text(path: Path, text: str) -> None:
    """Write UTF-8 text completely or not at all."""
    publish_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """Return what `publish_json` writes; ValueError for NaN, which JSON does not have."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def publish_json(path: Path, value: Any) -> None:
    """Write JSON completely or not at all; ValueError for NaN, which JSON does not have."""
    publish_text(path, json_text(value))


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError if it is not JSON, or a number is not finite (NaN, 1e999)."""
    return json.loads(text, parse_constant=_not_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read the object in a JSON file that we wrote.

    Raises:
        IntegrityError: The file is not JSON, has a number that is not finite, is not an object, or lacks one of `keys`.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); restore a copy or create it again") from None
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing or not isinstance(value, dict):
        lacks = f"no {', '.join(missing)} in it" if missing else "no JSON object"
        raise IntegrityError(f"{path} is damaged ({lacks}); restore a copy or create it again")
    return value


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_suffix(option: str, path: Path | None, *suffixes: str) -> None:
    """Raise ValueError if the path of an output has another suffix: it may be an input file given by mistake.

    Args:
        option: Name of the option, for the message.
        path: The path; None is accepted.
        suffixes: Allowed suffixes.
    """
    if path is not None and path.suffix not in suffixes:
        raise ValueError(f"{option} {path} must end in {suffixes[0]}")


def require_space(folder: Path, needed: int) -> None:
    """Raise OSError(ENOSPC), which names both sizes, if fewer than `needed` bytes are free in `folder`."""
    if shutil.disk_usage(folder).free < needed:
        raise no_space(folder, needed)


def no_space(path: Path, needed: int) -> OSError:
    """Return the error of a full disk, which names both sizes; `path` need not exist yet."""
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    return OSError(errno.ENOSPC, f"{exits.size(needed)} needed, {exits.size(free)} free", str(path))


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: a file `lock` that names our pid, and the folder itself, in case the file is deleted.

    Raises:
        LockedError: Another process holds the lock.
    """
    with lock(folder / LOCK):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LockedError(
                f"{folder} is in use by another process, although its lock file is gone; wait for it to end"
            ) from None
        except OSError:  # a network file system without locks of folders
            pass
        try:
            yield
        finally:
            os.close(descriptor)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which names our pid. The kernel releases it if we die, so it is never stale.

    Raises:
        LockedError: Another process holds the lock.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # an owner that ends may remove it with the lock
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise LockedError(f"{path} is held by process {owner}; wait for it to end") from None
        # The previous owner may have removed the name between our open and our lock.
        if _names(path, descriptor):
            break
        os.close(descriptor)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        # Another process's lock, where ours was deleted, stays.
        if _names(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Return whether a path is the name of an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
