"""HDF5 -> batches on the device: order a pure function of (seed, epoch), a batch one gather and one interpolation."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from pipeline import settings
from pipeline.data import BODIES
from pipeline.data.streams import STREAMS
from pipeline.settings import Choice, Range
from preprocessing.hdf5 import SkeletonFile, first_rows, open_file

Asked = TypeVar("Asked")
Made = TypeVar("Made")

Order = Literal["reshuffle", "once", "class", "subject"]
ORDERS: tuple[str, ...] = get_args(Order)


@dataclass(frozen=True)
class InputConfig:
    """Which part of the file is used, and how a clip becomes a tensor."""

    protocol: str = ""
    """Split protocol of the file; empty: the file's default."""
    frames: Annotated[int, Range(ge=2, why="a clip needs two frames")] = 64
    """Frames T that every clip is resampled to."""
    fit: Literal["train", "train+val"] = "train"
    """Split to train on: train, or train+val once all choices are made."""
    stream: Annotated[str, Choice(STREAMS, joined="+")] = "joint"
    """Input of the network: joint (coordinates), bone (each joint minus its parent), joint_motion, bone_motion
    (difference to the next frame), partner (each joint minus the other person's root), distance (from each joint to all
    of its body), partner_distance (to all of the other person's); all (the first four side by side), pair (all and
    partner); or several joined by +, as in all+distance."""
    order: Order = "reshuffle"
    """Order of training clips: reshuffle per epoch, once (one shuffle for all epochs), class or subject (sorted)."""

    def __post_init__(self) -> None:
        settings.check(self, "input.")


class Batch(NamedTuple):
    """One batch on the device."""

    x_NCTVM: Tensor  # metres, absent bodies zero
    present_NMT: Tensor  # bool
    label_N: Tensor  # int64
    index_N: Tensor  # position in the file


# Share of a GPU's free memory that the clips may take; the rest is the network's.
RESIDENT_SHARE = 0.5
# Threads that put batches together for a GPU whose memory does not hold the clips.
WORKERS = 4


class Clips:
    """All clips of one file. On the CPU they stay mapped: one copy in the page cache serves every rank and trial.

    On a GPU they are copied there once if they fit into half of its free memory; else batches are put together on the
    CPU from the mapped file, by `workers` threads ahead of the training (`ahead`), and copied one by one.
    """

    def __init__(self, file: SkeletonFile, device: torch.device) -> None:
        self.device = device
        self.classes = len(file.class_names)
        self.class_names = list(file.class_names)
        self.joint_names = list(file.joint_names)
        self.joints = int(file.joints_RV3.shape[1])
        self.bones = tuple((int(parent), int(child)) for parent, child in file.bones)
        self.names = file.clips["name"]
        self.home = device if fits(file.joints_RV3.nbytes, device) else torch.device("cpu")
        self.workers = 0 if self.home == device else min(WORKERS, len(os.sched_getaffinity(0)))
        self.rows_RV3 = mapped(file.joints_RV3).to(self.home)
        self.present_R = mapped(file.present_R).to(self.home)
        self.frames_N = torch.from_numpy(np.asarray(file.clips["frames"], dtype=np.int64)).to(self.home)
        self.label_N = torch.from_numpy(np.asarray(file.clips["label"], dtype=np.int64)).to(device)
        self.subject_N = torch.from_numpy(np.asarray(file.clips["subject"], dtype=np.int64))
        self.start_NM = torch.from_numpy(first_rows(file, BODIES)).to(self.home)

    def sorted_by(self, order: str) -> Tensor:
        """(N,) what a sorted order of clips sorts by."""
        return self.subject_N if order == "subject" else self.label_N

    def batch(self, index_N: Tensor, frames: int, window_N2: Tensor | None = None) -> Batch:
        """Clips `index_N` resampled to `frames` points, evenly spaced from the first frame to the last.

        `window_N2`: first and last place to take, as shares of the clip. Linear between two frames in which the body
        was tracked; at a presence border the nearer frame decides: no body is ever drawn half-way to the origin.
        """
        index_N = index_N.to(self.home)
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
        near_low_NMT = (share_NT < 0.5).unsqueeze(1)
        in_low_NMT = self.present_R[low_NMT] & exists_NM1
        in_high_NMT = self.present_R[high_NMT] & exists_NM1
        present_NMT = torch.where(near_low_NMT, in_low_NMT, in_high_NMT)
        both_NMT = in_low_NMT & in_high_NMT
        weight_NMT = torch.where(both_NMT, share_NT.unsqueeze(1), (~near_low_NMT).float())
        x_NMTVC = torch.lerp(self.rows_RV3[low_NMT], self.rows_RV3[high_NMT], weight_NMT[..., None, None])
        x_NMTVC = torch.where(present_NMT[..., None, None], x_NMTVC, 0.0)
        whole = Batch(
            x_NMTVC.permute(0, 4, 2, 3, 1).contiguous(), present_NMT, self.label_N[index_N.to(self.device)], index_N
        )
        return Batch(*(part.to(self.device, non_blocking=True) for part in whole))


def ahead(make: Callable[[Asked], Made], asked: Iterable[Asked], workers: int) -> Iterator[Made]:
    """make(one) for each one, in order; by `workers` threads, each two ahead at most. 0: when it is asked for."""
    if not workers:
        yield from map(make, asked)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for one in asked:
            waiting.append(pool.submit(make, one))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def mapped(array: np.ndarray) -> Tensor:
    """A tensor over the array's own memory, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def fits(needed: int, device: torch.device) -> bool:
    """Whether `needed` bytes may live on the device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return needed < RESIDENT_SHARE * free


class Splits(NamedTuple):
    """Index tensors of one protocol; `train` holds no clip of `val`."""

    protocol: str
    train: Tensor
    val: Tensor
    test: Tensor

    def fit(self, which: str) -> Tensor:
        """The clips that are trained on."""
        return torch.cat([self.train, self.val]).sort().values if which == "train+val" else self.train

    def held_out(self, fit: str) -> Tensor:
        """The clips that choices are made on; none when they are trained on."""
        return self.val if fit == "train" else self.val[:0]


def splits_of(file: SkeletonFile, config: InputConfig) -> Splits:
    """Return the clips of each split of the protocol. ValueError if file or protocol lack them."""
    protocol = config.protocol or file.default_protocol
    if protocol not in file.splits:
        raise ValueError(f"{file.path} has no protocol {protocol!r}; it has {', '.join(sorted(file.splits)) or 'none'}")
    parts = {
        name: torch.from_numpy(np.asarray(file.splits[protocol].get(name, []), dtype=np.int64))
        for name in ("train", "val", "test")
    }
    splits = Splits(protocol, **parts)
    if not len(splits.fit(config.fit)):
        raise ValueError(f"{file.path}: protocol {protocol!r} has no training clips (test: {len(splits.test)} clips)")
    return splits


def load(path: Path, config: InputConfig, device: torch.device, fast_start: bool = False) -> tuple[Clips, Splits]:
    """Open and check a file and move its clips to the device. ValueError says what file or protocol lack."""
    file = open_file(path, fast_start=fast_start)
    return Clips(file, device), splits_of(file, config)


def generator(*key: int) -> torch.Generator:
    """A random generator that is a pure function of its key."""
    seed = np.random.SeedSequence([abs(part) for part in key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def evenly(index_N: Tensor, most: int) -> Tensor:
    """At most so many of the clips, from the first to the last: files are sorted, so a part of them lacks classes."""
    count = min(len(index_N), most)
    return index_N[torch.arange(count) * len(index_N) // max(1, count)]


def epoch_batches(index_N: Tensor, key_N: Tensor, size: int, seed: int, epoch: int, order: str) -> list[Tensor]:
    """The epoch's clips in order, in batches of at most `size` whose sizes differ by one at most.

    So no clip is dropped and no batch is so small that its statistics mean nothing. Orders class and subject sort by
    `key_N`, one value a clip of the file (`Clips.sorted_by`). A pure function: the same on every rank, however many.
    """
    if order in ("class", "subject"):
        shuffled = index_N[key_N[index_N.to(key_N.device)].cpu().argsort(stable=True)]
    else:
        draw = generator(seed, 1, epoch if order == "reshuffle" else 0)
        shuffled = index_N[torch.randperm(len(index_N), generator=draw)]
    return list(shuffled.tensor_split(-(-len(shuffled) // size)))
