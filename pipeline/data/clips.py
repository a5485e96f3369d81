"""HDF5 to batches on the device: a batch is one gather and one interpolation."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data import BODIES
from pipeline.data.config import InputConfig as InputConfig
from preprocessing.gaps import bridged_rows
from preprocessing.hdf5 import SkeletonFile, first_rows


class Batch(NamedTuple):
    """One batch on the device."""

    x_NCTVM: Tensor  # metres; absent bodies zero, absent joints of a present body NaN, which streams make zero
    present_NMT: Tensor  # bool
    label_N: Tensor  # int64
    index_N: Tensor  # position in the file


# Share of a GPU's free memory that the clips may take; the rest is the network's.
RESIDENT_SHARE = 0.5
# Prefetch threads for a GPU whose memory does not hold the clips.
WORKERS = 4


class Clips:
    """All clips of one file. On the CPU they stay memory-mapped: one copy in the page cache serves every rank.

    On a GPU they are copied there once if they fit into half of its free memory; else `workers` threads make batches on
    the CPU from the mapped file (`prefetch`) and copy them one by one. A file with absent joints is copied into memory
    as well, with short gaps bridged.
    """

    def __init__(self, file: SkeletonFile, device: torch.device) -> None:
        self.device, self.file = device, file
        self.classes = len(file.class_names)
        self.class_names = list(file.class_names)
        self.joint_names = list(file.joint_names)
        self.joints, self.channels = (int(size) for size in file.joints_RV3.shape[1:])
        self.bones = tuple((int(parent), int(child)) for parent, child in file.bones)
        self.names = file.clips["name"]
        self.home = device if fits(file.joints_RV3.nbytes, device) else torch.device("cpu")
        self.workers = 0 if self.home == device else min(WORKERS, len(os.sched_getaffinity(0)))
        self.gaps = file.tracked_RV is not None
        self.rows_RV3 = mapped(bridged_rows(file) if self.gaps else file.joints_RV3).to(self.home)
        self.present_R = mapped(file.present_R).to(self.home)
        self.frames_N = torch.from_numpy(np.asarray(file.clips["frames"], dtype=np.int64)).to(self.home)
        self.label_N = torch.from_numpy(np.asarray(file.clips["label"], dtype=np.int64)).to(device)
        self.subject_N = torch.from_numpy(np.asarray(file.clips["subject"], dtype=np.int64))
        self.start_NM = torch.from_numpy(first_rows(file, BODIES)).to(self.home)

    def sorted_by(self, order: str) -> Tensor:
        """Return the key of a sorted order, (N,): subjects for `subject`, else labels."""
        return self.subject_N if order == "subject" else self.label_N

    def batch(self, index_N: Tensor, frames: int, window_N2: Tensor | None = None) -> Batch:
        """Resample clips to `frames` points, evenly spaced from the first frame to the last.

        Linear between two frames in which the body was tracked; at a presence border the nearer frame decides: no body
        is ever drawn half-way to the origin. The same holds for each joint of a file with absent joints.

        Args:
            index_N: Positions of the clips in the file.
            frames: Number of points T.
            window_N2: Crop window: first and last point, as shares of the clip; None: the whole clip.
        """
        index_N = index_N.to(self.home)
        low_NMT, high_NMT, share_NT, in_low_NMT, in_high_NMT = self._neighbours(index_N, frames, window_N2)
        near_low_NMT = (share_NT < 0.5).unsqueeze(1)
        present_NMT = torch.where(near_low_NMT, in_low_NMT, in_high_NMT)
        both_NMT = in_low_NMT & in_high_NMT
        weight_NMT = torch.where(both_NMT, share_NT.unsqueeze(1), (~near_low_NMT).float())
        before_NMTVC, after_NMTVC = self.rows_RV3[low_NMT], self.rows_RV3[high_NMT]
        x_NMTVC = torch.lerp(before_NMTVC, after_NMTVC, weight_NMT[..., None, None])
        if self.gaps:
            # NaN only where the joint is absent in the nearer frame.
            near_NMTVC = torch.where(near_low_NMT[..., None, None], before_NMTVC, after_NMTVC)
            x_NMTVC = torch.where(x_NMTVC.isnan(), near_NMTVC, x_NMTVC)
        x_NMTVC = torch.where(present_NMT[..., None, None], x_NMTVC, 0.0)
        whole = Batch(
            x_NMTVC.permute(0, 4, 2, 3, 1).contiguous(), present_NMT, self.label_N[index_N.to(self.device)], index_N
        )
        return Batch(*(part.to(self.device, non_blocking=True) for part in whole))

    def present(self, index_N: Tensor, frames: int, window_N2: Tensor | None = None) -> Tensor:
        """Return present_NMT of `batch` alone, on the device of the frames; arguments as there."""
        _, _, share_NT, in_low_NMT, in_high_NMT = self._neighbours(index_N.to(self.home), frames, window_N2)
        return torch.where((share_NT < 0.5).unsqueeze(1), in_low_NMT, in_high_NMT)

    def _neighbours(
        self, index_N: Tensor, frames: int, window_N2: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the rows of the frames before and after each point, the share of the latter, and presence in both."""
        last_N1 = (self.frames_N[index_N] - 1).unsqueeze(1)
        share_T = torch.linspace(0, 1, frames, device=self.home)
        if window_N2 is not None:
            first_N1, end_N1 = window_N2.to(self.home).split(1, dim=1)
            share_T = first_N1 + share_T * (end_N1 - first_N1)
        at_NT = share_T * last_N1
        low_NT = at_NT.floor().long()
        share_NT = at_NT - low_NT
        start_NM1 = self.start_NM[index_N].unsqueeze(2)
        exists_NM1 = start_NM1 >= 0
        low_NMT = (start_NM1 + low_NT.unsqueeze(1)).clamp(min=0)
        high_NMT = (start_NM1 + torch.minimum(low_NT + 1, last_N1).unsqueeze(1)).clamp(min=0)
        in_low_NMT = self.present_R[low_NMT] & exists_NM1
        in_high_NMT = self.present_R[high_NMT] & exists_NM1
        return low_NMT, high_NMT, share_NT, in_low_NMT, in_high_NMT


def mapped(array: np.ndarray) -> Tensor:
    """Return a tensor over the memory of the array, which must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def fits(needed: int, device: torch.device) -> bool:
    """Return whether `needed` bytes may live on the device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return needed < RESIDENT_SHARE * free
