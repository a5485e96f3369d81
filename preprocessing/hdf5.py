"""The file, schema `skelnorm/1`: write, open, verify. The only door to h5py.

Arrays are contiguous and uncompressed, so a reader maps them; every array carries the sha256 of its bytes.
Rows are appended to what becomes the file itself, behind a hole as large as HDF5 needs at its beginning. At the end the
hole and all that comes behind the rows are filled in, and the file gets its name: the frames are written once.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from preprocessing import exits
from preprocessing.files import IntegrityError, publish, require_space, sync_file

SCHEMA = "skelnorm/1"
CLIP_KEYS = (
    "name", "label", "setup", "camera", "subject", "replication", "frames", "first_body", "bodies",
)  # fmt: skip
BODY_KEYS = ("clip", "slot", "start")
PARTS = ("train", "val", "test")
SLOTS = 2
ROOT_KEYS = (
    "schema", "dataset", "recipe", "joint_names", "bones", "fps", "class_names", "default_protocol", "content_sha256",
)  # fmt: skip
SPOOLED = ("joints", "present")
BLOCK = 1 << 20
SYNC = 64 << 20


@dataclass(frozen=True)
class Contents:
    """All of a file but its frames. Arrays are sorted by clip name; bodies by (clip, slot)."""

    dataset: str
    recipe: dict[str, Any]
    joint_names: list[str]
    bones: np.ndarray  # (V-1, 2) int64, (parent, child)
    fps: float
    class_names: list[str]
    body_clip: np.ndarray  # (B_total,) int64
    body_slot: np.ndarray  # (B_total,) int64
    body_start: np.ndarray  # (B_total,) int64, first row
    clips: dict[str, np.ndarray]  # CLIP_KEYS -> (N,)
    splits: dict[str, dict[str, np.ndarray]]  # protocol -> train, val, test -> int64 positions
    default_protocol: str


@dataclass(frozen=True, eq=False)
class SkeletonFile:
    """An opened file. R rows, V joints, N clips; the frames are mapped, the rest is in memory."""

    path: Path
    dataset: str
    recipe: dict[str, Any]
    joint_names: list[str]
    bones: np.ndarray  # (V-1, 2) int64, (parent, child)
    fps: float
    class_names: list[str]
    content_sha256: str
    joints_RV3: np.ndarray  # float32 metres, mapped read-only
    present_R: np.ndarray  # bool; a row of an absent body is zero
    body_clip: np.ndarray
    body_slot: np.ndarray
    body_start: np.ndarray
    clips: dict[str, np.ndarray]
    splits: dict[str, dict[str, np.ndarray]]
    default_protocol: str


class Spool:
    """Frames on their way into a file, appended to plain files so that memory stays bounded.

    `folder` is where these files go, in a temporary folder of their own: beside the output, on the same file system,
    since `joints` becomes the output. With `keep` they go into `folder` itself and stay there for a later attempt; see
    `recover`.
    """

    def __init__(self, folder: Path, joints: int, keep: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder if keep else Path(tempfile.mkdtemp(prefix=".spool-", dir=folder))
        self.joints = joints
        self.rows = 0
        self.keep = keep
        self._files = {name: open(self.folder / name, "a+b") for name in SPOOLED}  # noqa: SIM115 - see close()
        self._digests = {name: hashlib.sha256() for name in SPOOLED}
        self._hole = _hole(joints)
        self._synced = 0
        self._sync = threading.Thread()
        if os.fstat(self._files["joints"].fileno()).st_size < self._hole:
            self._files["joints"].truncate(self._hole)
        self._files["joints"].seek(self._hole)
        self._files["present"].seek(0)

    def append(self, joints_TV3: np.ndarray, present_T: np.ndarray) -> int:
        """Append one body's rows (metres; rows of absent frames must be zero); the first row's number."""
        if joints_TV3.shape != (len(present_T), self.joints, 3):
            raise ValueError(
                f"rows of shape {joints_TV3.shape} do not fit {len(present_T)} frames of {self.joints} joints"
            )
        first = self.rows
        self.extend(
            np.ascontiguousarray(joints_TV3, np.float32).tobytes(), np.ascontiguousarray(present_T, bool).tobytes()
        )
        return first

    def extend(self, joints: bytes, present: bytes) -> None:
        """Append rows as bytes: (R, V, 3) float32 and (R,) bool."""
        self._take(joints, present)
        self._files["joints"].write(joints)
        self._files["present"].write(present)

    def recover(self, rows: int, crc: int) -> bool:
        """Take up the next `rows` rows that an earlier attempt left, if their CRC-32 (joints, then present) fits."""
        joints = self._files["joints"].read(rows * self.joints * 12)
        present = self._files["present"].read(rows)
        if len(present) != rows or zlib.crc32(present, zlib.crc32(joints)) != crc:
            return False
        self._take(joints, present)
        return True

    def cut(self) -> None:
        """Forget what was not recovered."""
        self._files["joints"].truncate(self._hole + self.rows * self.joints * 12)
        self._files["present"].truncate(self.rows)

    def _take(self, joints: bytes, present: bytes) -> None:
        self.rows += len(present)
        self._digests["joints"].update(joints)
        self._digests["present"].update(present)

    def digests(self) -> dict[str, str]:
        """Hex sha256 of the rows as they were given, by the array's name in the file."""
        return {f"frames/{name}": digest.hexdigest() for name, digest in self._digests.items()}

    def flush(self) -> None:
        """Hand everything to the operating system."""
        for file in self._files.values():
            file.flush()
        # Sent to the disk as they come, beside the work, so that the end need not wait for all of them.
        if self.rows - self._synced > SYNC // (self.joints * 12) and not self._sync.is_alive():
            self._synced = self.rows
            self._sync = threading.Thread(target=os.fdatasync, args=(self._files["joints"].fileno(),))
            self._sync.start()

    def close(self) -> None:
        """Close the files, and unless they are kept remove them."""
        if self._sync.is_alive():
            self._sync.join()
        for file in self._files.values():
            # On a full disk the last bytes cannot go out; then they are lost like all that follows them.
            with suppress(OSError):
                file.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write(path: Path, contents: Contents, spool: Spool) -> None:
    """Complete, re-read, hash and publish `path`; the spool's rows are then in it. Same contents give the same bytes.

    The HDF5 library runs in a child process: where it crashes on a full disk, only the child dies. The child ends with
    us, because it waits for the end of its input.
    """
    path = Path(path)
    spool.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path.parent, spool.rows + (1 << 20))
    (spool.folder / "root.json").write_text(json.dumps(_root(contents, spool) | {"digests": spool.digests()}))
    for old in spool.folder.glob("*.npy"):
        old.unlink()
    for name, array in _small_arrays(contents):
        # By way of memory: on a full disk NumPy's own writing raises an error that does not say so.
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        (spool.folder / (name.replace("/", "+") + ".npy")).write_bytes(buffer.getbuffer())
    home = str(Path(__file__).resolve().parent.parent)
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([home, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    )
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "preprocessing.hdf5", str(spool.folder)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stderr is not None
        message = child.stderr.read()
        code = child.wait()
    finally:
        child.kill()
        child.wait()
    if code:
        last = (message.strip().splitlines() or ["no message"])[-1]
        # On a full disk the library may crash, but it says why before.
        full = code == exits.NO_SPACE or f"errno = {errno.ENOSPC}," in message
        reason = errno.ENOSPC if full else errno.EIO
        raise OSError(reason, f"writing failed (exit {code}): {last}", str(path))
    # The child has hashed what the disk gave back; what is left is whether the numbers fit each other.
    made = spool.folder / "joints"
    open_file(made, fast_start=True)
    with publish(path) as temporary:
        os.replace(made, temporary)


def open_file(path: Path, fast_start: bool = False) -> SkeletonFile:
    """Open and check a file; `fast_start` skips the checksums. IntegrityError names the array and the remedy."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; make it with python -m preprocessing.build")
    try:
        with h5py.File(path, "r") as file:
            root = _read_root(file)
            where = _locate(file)
    except OSError as error:
        raise IntegrityError(f"{path} is no readable HDF5 file ({error}); build it again") from None
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; build it again") from None
    for fault in _faults(path, root, where, fast_start):
        raise IntegrityError(f"{path}: {fault}; build it again")
    arrays = {name: _map(path, place) for name, place in where.items()}
    return SkeletonFile(path=path, **_assemble(root, arrays))


def verify(path: Path) -> list[str]:
    """All faults of a file, one line each; an empty list for a good one."""
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            root = _read_root(file)
            where = _locate(file)
    except (OSError, IntegrityError) as error:
        return [str(error)]
    return list(_faults(path, root, where, fast_start=False))


@dataclass(frozen=True)
class _Place:
    """Where one array lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    sha256: str


def _map(path: Path, place: _Place) -> np.ndarray:
    if 0 in place.shape:
        return np.zeros(place.shape, place.dtype)
    return np.memmap(path, place.dtype, mode="r", offset=place.offset, shape=place.shape)


def _digest(path: Path, place: _Place) -> str:
    """Hex sha256 of one array, read in blocks: a map of the whole would count as memory in use."""
    digest = hashlib.sha256()
    left = math.prod(place.shape) * place.dtype.itemsize
    block = memoryview(bytearray(min(BLOCK, left)))
    with open(path, "rb", buffering=0) as file:
        file.seek(place.offset)
        while left and (got := file.readinto(block[: min(left, BLOCK)])):
            digest.update(block[:got])
            left -= got
    return digest.hexdigest()


def _content_digest(root: dict[str, Any], hashes: dict[str, str]) -> str:
    described = {key: root[key] for key in ROOT_KEYS if key != "content_sha256"}
    return hashlib.sha256(json.dumps([described, sorted(hashes.items())], sort_keys=True).encode()).hexdigest()


def _root(contents: Contents, spool: Spool) -> dict[str, Any]:
    if contents.joint_names and len(contents.joint_names) != spool.joints:
        raise ValueError(f"{len(contents.joint_names)} joint names for {spool.joints} joints")
    return {
        "schema": SCHEMA,
        "dataset": contents.dataset,
        "recipe": contents.recipe,
        "joint_names": list(contents.joint_names),
        "bones": np.asarray(contents.bones, np.int64).reshape(-1, 2).tolist(),
        "fps": float(contents.fps),
        "class_names": list(contents.class_names),
        "default_protocol": contents.default_protocol,
    }


def _small_arrays(contents: Contents) -> Iterator[tuple[str, np.ndarray]]:
    for key in BODY_KEYS:
        yield f"bodies/{key}", np.asarray(getattr(contents, f"body_{key}"), np.int64)
    for key in CLIP_KEYS:
        value = contents.clips[key]
        yield f"clips/{key}", np.char.encode(value, "utf-8") if key == "name" else np.asarray(value, np.int64)
    for protocol, parts in contents.splits.items():
        for part in PARTS:
            yield f"splits/{protocol}/{part}", np.asarray(parts[part], np.int64)


def _hole(joints: int) -> int:
    """Bytes in front of the rows in every file that this HDF5 library makes, asked of a file in memory."""
    with h5py.File("hole", "w", driver="core", backing_store=False) as file:
        _reserve(file, "frames/joints", (1, joints, 3), np.dtype(np.float32))
        return int(file["frames/joints"].id.get_offset())


def _complete(spool: Path) -> None:
    """The child's whole job: make an HDF5 file of the spool's `joints`, and hash what the disk gives back."""
    root = json.loads((spool / "root.json").read_text())
    rows = (spool / "present").stat().st_size
    small = {p.stem.replace("+", "/"): np.load(p, allow_pickle=False) for p in sorted(spool.glob("*.npy"))}
    hashes = root.pop("digests") | {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in small.items()}
    root["content_sha256"] = _content_digest(root, hashes)
    whole, shell = spool / "joints", spool / "shell.h5"
    with h5py.File(shell, "w") as file:
        # First of all, so that its place does not depend on anything.
        joints = _reserve(file, "frames/joints", (rows, len(root["joint_names"]), 3), np.dtype(np.float32))
        present = _reserve(file, "frames/present", (rows,), np.dtype(bool))
        for name, array in small.items():
            file.create_dataset(name, data=array, track_times=False)
        for name, sha256 in hashes.items():
            file[name].attrs["sha256"] = np.bytes_(sha256)
        for key in ROOT_KEYS:
            file.attrs[key] = _to_attribute(key, root[key])
    behind = joints + rows * len(root["joint_names"]) * 12
    if rows and (joints != _hole(len(root["joint_names"])) or whole.stat().st_size < behind):
        raise IntegrityError("the rows are not where the HDF5 library expects them")
    _copy(shell, whole, joints, 0, 0)
    _copy(shell, whole, shell.stat().st_size - behind, behind, behind)
    _copy(spool / "present", whole, rows, 0, present)
    sync_file(whole)
    shell.unlink()
    with h5py.File(whole, "r") as file:
        where = _locate(file)
    for name, place in where.items():
        if _digest(whole, place) != hashes[name]:
            raise IntegrityError(f"{name} read back differs from what was written; check the disk")


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """An array with its place in the file, and no byte written there yet; the place."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    group = file.require_group(name.rpartition("/")[0] or "/")
    kind = h5py.h5t.py_create(dtype, logical=True)
    made = h5py.h5d.create(group.id, name.rpartition("/")[2].encode(), kind, h5py.h5s.create_simple(shape), plist)
    return int(made.get_offset() or 0)


def _copy(source: Path, target: Path, count: int, at: int, to: int) -> None:
    """`count` bytes of a plain file from place `at` on, into their place `to` in another."""
    with open(source, "rb", buffering=0) as reader, open(target, "r+b", buffering=0) as writer:
        reader.seek(at)
        writer.seek(to)
        while count:
            block = memoryview(reader.read(min(BLOCK, count)))
            if not block:
                raise OSError(errno.EIO, "a temporary file has shrunk", str(source))
            count -= len(block)
            while block:
                block = block[writer.write(block) :]


def _die_with_parent() -> None:
    """End this process when the parent's end of our input closes: the spool is then another's."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(1)


def _orphaned() -> bool:
    """Whether our input is at its end already: the parent died before we were awake, and its folder is another's."""
    return bool(select.select([0], [], [], 0)[0])


def _to_attribute(key: str, value: Any) -> Any:
    # Fixed-length bytes instead of variable-length strings: those live in a heap whose bytes are not stable.
    if key == "recipe":
        return np.bytes_(json.dumps(value, sort_keys=True).encode())
    if key in ("joint_names", "class_names"):
        return np.array([text.encode() for text in value], dtype=np.bytes_)
    if key == "bones":
        return np.array(value, np.int64).reshape(-1, 2)
    return np.float64(value) if key == "fps" else np.bytes_(value.encode())


def _read_root(file: h5py.File) -> dict[str, Any]:
    schema = file.attrs.get("schema", b"")
    if not isinstance(schema, bytes) or schema.decode() != SCHEMA:
        raise IntegrityError(f"schema is {schema!r}, not {SCHEMA!r}")
    names = set(file.attrs)
    if names != set(ROOT_KEYS):
        raise IntegrityError(f"root attributes differ from the schema's: {', '.join(sorted(names ^ set(ROOT_KEYS)))}")
    root: dict[str, Any] = {}
    try:
        for key in ROOT_KEYS:
            value = file.attrs[key]
            if key == "recipe":
                root[key] = json.loads(value.decode())
            elif key in ("joint_names", "class_names"):
                root[key] = [text.decode() for text in value]
            elif key == "bones":
                root[key] = value.tolist()
            else:
                root[key] = float(value) if key == "fps" else value.decode()
    except (AttributeError, TypeError, ValueError) as error:
        raise IntegrityError(f"root attribute {key} is unreadable ({error})") from None
    return root


def _walk(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for key in sorted(group):
        name = prefix + key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise IntegrityError(f"{name} is a link out of its place")
        if name.count("/") > 2:
            raise IntegrityError(f"{name} is unexpected")
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _walk(item, name + "/")
        else:
            yield name, item


def _expected(name: str) -> np.dtype | None:
    """The type an array of this name must have; None where the schema knows no such array."""
    room, *rest = name.split("/")
    if name == "frames/joints":
        return np.dtype(np.float32)
    if name == "frames/present":
        return np.dtype(bool)
    known = (
        (room == "bodies" and len(rest) == 1 and rest[0] in BODY_KEYS)
        or (room == "clips" and len(rest) == 1 and rest[0] in CLIP_KEYS)
        or (room == "splits" and len(rest) == 2 and rest[1] in PARTS)
    )
    if not known:
        return None
    return np.dtype("S") if name == "clips/name" else np.dtype(np.int64)


def _locate(file: h5py.File) -> dict[str, _Place]:
    """Name -> place of every array; refuses what the schema does not know or what lies outside the file."""
    size = os.path.getsize(file.filename)
    where: dict[str, _Place] = {}
    for name, item in _walk(file):
        expected = _expected(name)
        if expected is None or not isinstance(item, h5py.Dataset):
            raise IntegrityError(f"{name} is unexpected")
        if item.external or item.is_virtual or item.chunks or item.id.get_create_plist().get_nfilters():
            raise IntegrityError(f"{name} is not stored plainly in this file")
        if item.dtype.kind != expected.kind or (expected.itemsize and item.dtype != expected):
            raise IntegrityError(f"{name} has type {item.dtype}, not {expected}")
        rank = 3 if name == "frames/joints" else 1
        if len(item.shape) != rank:
            raise IntegrityError(f"{name} has shape {item.shape}, not {rank} dimensions")
        offset = item.id.get_offset()
        stored = item.size * item.dtype.itemsize
        if stored and (offset is None or offset + stored > size):
            raise IntegrityError(f"{name} lies beyond the end of the file")
        sha256 = item.attrs.get("sha256", b"")
        if not isinstance(sha256, bytes):
            raise IntegrityError(f"{name} carries no checksum")
        where[name] = _Place(int(offset or 0), tuple(item.shape), item.dtype, bytes(sha256).decode("ascii", "replace"))
    needed = {"frames/joints", "frames/present"}
    needed |= {f"bodies/{key}" for key in BODY_KEYS} | {f"clips/{key}" for key in CLIP_KEYS}
    protocols = {name.split("/")[1] for name in where if name.startswith("splits/")}
    needed |= {f"splits/{protocol}/{part}" for protocol in protocols for part in PARTS}
    if missing := sorted(needed - set(where)):
        raise IntegrityError(f"{', '.join(missing)} is missing")
    return where


def _faults(path: Path, root: dict[str, Any], where: dict[str, _Place], fast_start: bool) -> Iterator[str]:
    """Faults of a readable file: checksums first, then whether its numbers fit each other."""
    if not fast_start:
        broken = [name for name, place in where.items() if _digest(path, place) != place.sha256]
        yield from (f"{name} does not match its sha256" for name in broken)
        hashes = {name: place.sha256 for name, place in where.items()}
        if _content_digest(root, hashes) != root["content_sha256"]:
            yield "content_sha256 does not match attributes and arrays"
        if broken:
            return
    small = {name: _map(path, place) for name, place in where.items() if not name.startswith("frames/")}
    rows, joints, axes = where["frames/joints"].shape
    if axes != 3 or joints != len(root["joint_names"]) or where["frames/present"].shape != (rows,):
        yield "frames/joints and frames/present do not fit each other or joint_names"
    if not _inside(np.array(root["bones"]).ravel(), joints):
        yield "bones is out of range"
    if not _inside(small["clips/label"], len(root["class_names"])):
        yield "clips/label is out of range"
    if root["default_protocol"] not in {name.split("/")[1] for name in where if name.startswith("splits/")}:
        yield f"default_protocol {root['default_protocol']!r} is not among the splits"
    yield from _body_faults(small, rows)
    yield from _split_faults(small, len(small["clips/name"]))


def _body_faults(small: dict[str, np.ndarray], rows: int) -> Iterator[str]:
    count = len(small["clips/name"])
    bodies = len(small["bodies/clip"])
    if any(len(small[f"clips/{key}"]) != count for key in CLIP_KEYS):
        yield "clips/* have different lengths"
        return
    if any(len(small[f"bodies/{key}"]) != bodies for key in BODY_KEYS):
        yield "bodies/* have different lengths"
        return
    clip, slot, start = (small[f"bodies/{key}"] for key in BODY_KEYS)
    frames, first, owned = (small[f"clips/{key}"] for key in ("frames", "first_body", "bodies"))
    if not _inside(clip, count) or not _inside(slot, SLOTS):
        yield "bodies/clip or bodies/slot is out of range"
    elif not _inside(start, rows + 1) or bool(np.any(start + frames[clip] > rows)) or bool(np.any(frames < 1)):
        yield "bodies/start or clips/frames leads beyond the rows"
    if bool(np.any(owned < 1)) or bool(np.any(first < 0)) or bool(np.any(first + owned > bodies)):
        yield "clips/first_body or clips/bodies is out of range"


def _split_faults(small: dict[str, np.ndarray], count: int) -> Iterator[str]:
    for protocol in sorted({name.split("/")[1] for name in small if name.startswith("splits/")}):
        together = np.concatenate([small[f"splits/{protocol}/{part}"] for part in PARTS])
        if not _inside(together, count):
            yield f"splits/{protocol} is out of range"
        elif len(np.unique(together)) != len(together):
            yield f"splits/{protocol} names a clip twice"


def _inside(values: np.ndarray, bound: int) -> bool:
    return not len(values) or bool(values.min() >= 0 and values.max() < bound)


def _assemble(root: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    keep = {field.name for field in fields(SkeletonFile)}
    built: dict[str, Any] = {key: value for key, value in root.items() if key in keep}
    built["bones"] = np.array(root["bones"], np.int64).reshape(-1, 2)
    built["joints_RV3"] = arrays["frames/joints"]
    built["present_R"] = arrays["frames/present"]
    for key in BODY_KEYS:
        built[f"body_{key}"] = np.array(arrays[f"bodies/{key}"])
    clips = {key: np.array(arrays[f"clips/{key}"]) for key in CLIP_KEYS}
    clips["name"] = np.char.decode(clips["name"], "utf-8")
    splits: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if name.startswith("splits/"):
            _, protocol, part = name.split("/")
            splits.setdefault(protocol, {})[part] = np.array(array)
    return built | {"clips": clips, "splits": splits}


def write_dense(path: Path, file: SkeletonFile, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Publish an HDF5 file with `x` of `shape` (N, C, T, V, M) float32, one block a clip, `y` (N,) and the splits."""
    with publish(path) as temporary:
        with h5py.File(temporary, "w") as out:
            offset = _reserve(out, "x", shape, np.dtype(np.float32))
            out.create_dataset("y", data=file.clips["label"], track_times=False)
            names = np.char.encode(file.clips["name"], "utf-8")
            out.create_dataset("name", data=names, track_times=False)
            for protocol, parts in file.splits.items():
                for part, index in parts.items():
                    out.create_dataset(f"splits/{protocol}/{part}", data=index, track_times=False)
            for key in ("dataset", "class_names", "joint_names"):
                out.attrs[key] = _to_attribute(key, getattr(file, key))
        with open(temporary, "r+b") as plain:
            # Plain writing, so that a full disk is an error like any other and never the HDF5 library's.
            plain.seek(offset)
            for block in blocks:
                plain.write(np.ascontiguousarray(block, np.float32).tobytes())


if __name__ == "__main__":
    if _orphaned():
        sys.exit(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        _complete(Path(sys.argv[1]))
    except (OSError, IntegrityError) as error:
        print(error, file=sys.stderr)
        sys.exit(exits.NO_SPACE if exits.no_space(error) else 1)
