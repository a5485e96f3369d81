"""Convert a built file for other programs.

dense: HDF5 with x (N, 3, T, V, 2) float32 and y (N,), clips resampled to T frames, and the splits as index arrays
ctr:   npz with x_train, y_train, x_test, y_test as CTR-GCN saves them: (N, Tmax, 150) zero-padded and one-hot;
       val counts as train; build with --recipe ctr for the numbers of CTR-GCN
pyskl: pickle with split and annotations as pyskl and mmaction2 read them; val counts as train, test is NAME_val

Examples:
  python -m preprocessing.export ntu60.h5 --format dense --out dense.h5 --frames 64
  python -m preprocessing.export ntu60_ctr.h5 --format ctr --out NTU60_CS.npz
  python -m preprocessing.export ntu120_ctr.h5 --format ctr --protocol xset --out NTU120_CSet.npz
  python -m preprocessing.export poses.h5 --format pyskl --out poses.pkl

exit codes: 0 written, 2 usage, 6 FILE.h5 is damaged, 7 no space
"""

from __future__ import annotations

import sys

from preprocessing import startup
from preprocessing.options import Export, read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("preprocessing.export"))  # before NumPy and h5py load

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from rich.console import Console
from rich.progress import track

from preprocessing import exits, ntu
from preprocessing.export_pyskl import export_pyskl
from preprocessing.files import publish, require_space, require_suffix
from preprocessing.gaps import bridged_rows
from preprocessing.hdf5 import CHANNELS, SLOTS, SkeletonFile, clip_present, clip_rows, open_file, write_dense

SECOND = ("zeros", "copy")
SUFFIXES = {"dense": ".h5", "ctr": ".npz", "pyskl": ".pkl"}


def resample(joints_MTV3: np.ndarray, present_MT: np.ndarray, frames: int) -> np.ndarray:
    """Resample a clip to `frames` points, evenly spaced from the first frame to the last.

    Interpolation is linear between two frames in which the body was tracked. At a border of presence the nearer frame
    is taken, so that no body is pulled half-way to the origin. The same holds for a joint that is NaN because it is
    absent; it becomes zero where the nearer frame lacks it.

    Args:
        joints_MTV3: Joints, zero where a body is absent.
        present_MT: Frames in which each body was tracked.
        frames: Number of points.

    Returns:
        (M, frames, V, 3).
    """
    at_T = np.linspace(0, joints_MTV3.shape[1] - 1, frames)
    low_T = np.floor(at_T).astype(np.int64)
    high_T = np.minimum(low_T + 1, joints_MTV3.shape[1] - 1)
    share_T = (at_T - low_T).astype(np.float32)
    near_T = np.where(share_T < 0.5, low_T, high_T)
    both_MT = present_MT[:, low_T] & present_MT[:, high_T]
    share_T11 = share_T[:, None, None]
    between = joints_MTV3[:, low_T] * (1 - share_T11) + joints_MTV3[:, high_T] * share_T11
    near = joints_MTV3[:, near_T]
    between = np.where(both_MT[..., None, None] & ~np.isnan(between), between, near)
    return np.where(np.isnan(between), np.float32(0), between)


def dense_blocks(file: SkeletonFile, frames: int) -> Iterator[np.ndarray]:
    """Yield every clip as (C, frames, V, 2) float32; an empty slot is zero, and so is an absent joint."""
    if file.tracked_RV is not None:
        file = replace(file, joints_RV3=bridged_rows(file))
    for clip in range(len(file.clips["name"])):
        rows = resample(clip_rows(file, clip), clip_present(file, clip), frames)
        x_CTVM = np.zeros((file.joints_RV3.shape[2], frames, file.joints_RV3.shape[1], SLOTS), np.float32)
        x_CTVM[..., : len(rows)] = rows.transpose(3, 1, 2, 0)
        yield x_CTVM


def export_dense(file: SkeletonFile, out: Path, frames: int, console: Console) -> str:
    """Write x (N, 3, T, V, 2), y and the splits; return a summary."""
    clips, (joints, channels) = len(file.clips["name"]), file.joints_RV3.shape[1:]
    require_space(out.parent, clips * channels * frames * joints * SLOTS * 4)
    blocks = track(dense_blocks(file, frames), "export", total=clips, console=console, transient=True)
    write_dense(out, file, (clips, channels, frames, joints, SLOTS), blocks)
    return f"x {(clips, channels, frames, joints, SLOTS)}, y {(clips,)}"


def official_order(file: SkeletonFile, protocol: str, part: np.ndarray) -> np.ndarray:
    """Sort clips by the column that the protocol divides by (subject, camera or setup), then by name."""
    key = {"xsub": "subject", "xview": "camera", "xset": "setup"}.get(protocol, "subject")
    part = np.sort(part)
    return part[np.argsort(file.clips[key][part], kind="stable")]


def export_ctr(file: SkeletonFile, out: Path, protocol: str, second: str, console: Console) -> str:
    """Write x_train, y_train, x_test, y_test clip by clip, in bounded memory; return a summary."""
    parts = file.splits[protocol]
    longest = int(file.clips["frames"].max())
    classes = len(file.class_names)
    order = {
        "train": official_order(file, protocol, np.concatenate([parts["train"], parts["val"]])),
        "test": official_order(file, protocol, parts["test"]),
    }
    require_space(out.parent, len(file.clips["name"]) * longest * 600)
    with publish(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for part, clips in order.items():
            with _member(archive, f"x_{part}", (len(clips), longest, 150), np.dtype(np.float32)) as member:
                for clip in track(clips, part, console=console, transient=True):
                    member.write(_ctr_clip(clip_rows(file, int(clip)), longest, second).tobytes())
            with _member(archive, f"y_{part}", (len(clips), classes), np.dtype(np.float64)) as member:
                member.write(np.eye(classes)[file.clips["label"][clips]].tobytes())
    sizes = ", ".join(f"x_{part} {(len(clips), longest, 150)}" for part, clips in order.items())
    return f"{sizes}; protocol {protocol}, val counts as train, second half of a lone actor: {second}"


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype) -> IO[bytes]:
    """Open an array inside an npz for writing its bytes; a fixed date keeps the bytes of the file the same."""
    member = archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(member, header)
    return member


def _ctr_clip(joints_MTV3: np.ndarray, longest: int, second: str) -> np.ndarray:
    """Flatten one clip to (longest, 150) float32: body after body, joint after joint."""
    rows_TMD = np.zeros((longest, SLOTS, 75), np.float32)
    for slot, joints_TV3 in enumerate(joints_MTV3):
        rows_TMD[: len(joints_TV3), slot] = joints_TV3.reshape(-1, 75)
    if len(joints_MTV3) == 1 and second == "copy":
        rows_TMD[:, 1] = rows_TMD[:, 0]
    return rows_TMD.reshape(longest, SLOTS * 75)


def run(options: Export, console: Console) -> str:
    """Write the file that the options describe; ValueError for a mistake of the user."""
    file = open_file(options.file)
    require_suffix("--out", options.out, SUFFIXES[options.format])
    if options.out.exists() and options.out.samefile(options.file):
        raise ValueError(f"--out {options.out} is the input file; name another")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.format == "dense":
        if options.frames < 2:
            raise ValueError(f"--frames {options.frames} is too small: must be at least 2")
        return export_dense(file, options.out, options.frames, console)
    if options.format == "pyskl":
        return export_pyskl(file, options.out)
    if file.joints_RV3.shape[1] != len(ntu.JOINT_NAMES):
        raise ValueError(f"{options.file} has {file.joints_RV3.shape[1]} joints; format ctr is for 25, use dense")
    if file.joints_RV3.shape[2] != len(CHANNELS):
        raise ValueError(
            f"{options.file} has {file.joints_RV3.shape[2]} channels; format ctr is for x, y, z, use dense"
        )
    protocol = options.protocol or file.default_protocol
    if protocol not in file.splits:
        raise ValueError(f"--protocol {protocol!r} is unknown; {options.file} has {', '.join(file.splits)}")
    second = options.second or ("copy" if file.dataset == "ntu120" else "zeros")
    if second not in SECOND:
        raise ValueError(f"--second {second!r} is unknown; choose one of {', '.join(SECOND)}")
    return export_ctr(file, options.out, protocol, second, console)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = read_options("preprocessing.export", arguments)
    try:
        print(f"{options.out}: {run(options, Console(stderr=True))}")
        return 0
    except (OSError, ValueError, KeyboardInterrupt) as error:
        return exits.report(error)


if __name__ == "__main__":
    sys.exit(startup.run(main))
