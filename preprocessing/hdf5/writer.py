"""Write a file. The rows are in the spool's file already; a child process adds the rest of the HDF5 structure to it."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from preprocessing import exits
from preprocessing.faults import faultpoint
from preprocessing.files import publish, require_space
from preprocessing.hdf5.reader import open_file
from preprocessing.hdf5.schema import Contents, attribute_values, small_arrays
from preprocessing.hdf5.spool import Spool


def write(
    path: Path, contents: Contents, spool: Spool, allowed: Callable[[str], None] = lambda content_sha256: None
) -> None:
    """Complete, re-read, hash and publish a file. The same contents and rows give the same bytes.

    The HDF5 library runs in a child process, because it may crash on a full disk. The child exits with this process.

    Args:
        path: The file; it is replaced in one step.
        contents: Everything but the frames.
        spool: The rows; they are moved into the file.
        allowed: Called with the content hash before `path` is replaced; what it raises keeps `path` as it is.

    Raises:
        OSError: The disk is full (ENOSPC), or the child failed (EIO).
        IntegrityError: The contents do not match each other or the rows.
        ValueError: The number of names differs from the number of joints or channels.
    """
    path = Path(path)
    spool.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path.parent, spool.rows + (1 << 20))
    if contents.joint_names and len(contents.joint_names) != spool.joints:
        raise ValueError(f"{len(contents.joint_names)} joint names for {spool.joints} joints")
    if len(contents.channels) != spool.channels:
        raise ValueError(f"{len(contents.channels)} names of channels for {spool.channels} channels")
    root = attribute_values(contents, spool.gaps) | {"digests": spool.digests()}
    root["tracked"] = spool.tracked.str if spool.gaps else ""
    (spool.folder / "root.json").write_text(json.dumps(root))
    for old in spool.folder.glob("*.npy"):
        old.unlink()
    for name, array in small_arrays(contents):
        # Via memory: on a full disk, NumPy's own writing raises an error that does not name the cause.
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        (spool.folder / (name.replace("/", "+") + ".npy")).write_bytes(buffer.getbuffer())
    home = str(Path(__file__).resolve().parents[2])
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([home, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    )
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "preprocessing.hdf5", str(spool.folder)],
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
        # On a full disk the library may crash, but it prints the reason before.
        full = code == exits.NO_SPACE or f"errno = {errno.ENOSPC}," in message
        reason = errno.ENOSPC if full else errno.EIO
        raise OSError(reason, f"writing failed (exit {code}): {last}", str(path))
    # The child has compared the checksums; what remains to check is that the numbers match each other.
    made = spool.folder / "joints"
    faultpoint("data completed")
    allowed(open_file(made, fast_start=True).content_sha256)
    with publish(path) as temporary:
        os.replace(made, temporary)
