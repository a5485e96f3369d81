"""STREAMS: what of a clip a network sees: joints, bones, or their motion; computed on the device, batch by batch.

Shi et al. 2019 (2s-AGCN, arXiv 1805.07694) for bones, Shi et al. 2020 (MS-AAGCN, arXiv 1912.06971) for motion. `all` is
the four side by side, so that one network sees what an ensemble of four does (inputs fused early, as in Song et al.
2022, EfficientGCN, arXiv 2106.15125). The streams are linear, so augmentation of joints in front of them is
augmentation of what they give.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STREAMS = ("joint", "bone", "joint_motion", "bone_motion", "all")


class Stream(nn.Module):
    """x_NCTVM in metres -> the stream, in the same shape but for its `channels`; where a body is absent it stays zero.

    `channels`: 3; of `all` 12, in the order of STREAMS.
    """

    parent_V: Tensor

    def __init__(self, name: str, bones: tuple[tuple[int, int], ...], joints: int) -> None:
        super().__init__()
        if name not in STREAMS:
            raise ValueError(f"input.stream {name!r} is unknown; choose one of {', '.join(STREAMS)}")
        self.name = name
        self.channels = 12 if name == "all" else 3
        parents = list(range(joints)) if name.startswith("joint") else parents_of(bones, joints)
        # Not part of the state: it follows from the data file, and a joint stream's weights fit any of three channels.
        self.register_buffer("parent_V", torch.tensor(parents), persistent=False)

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """The stream of clips; present_NMT says in which frames a body was tracked."""
        if self.name == "all":
            still = torch.cat([x_NCTVM, self.bone(x_NCTVM)], dim=1)
            return torch.cat([still, motion(still, present_NMT)], dim=1)
        if self.name.startswith("bone"):
            x_NCTVM = self.bone(x_NCTVM)
        return motion(x_NCTVM, present_NMT) if self.name.endswith("motion") else x_NCTVM

    def bone(self, x_NCTVM: Tensor) -> Tensor:
        """Each joint relative to the one its bone hangs on."""
        return x_NCTVM - x_NCTVM[..., self.parent_V, :]


def parents_of(bones: tuple[tuple[int, int], ...], joints: int) -> list[int]:
    """For each joint the one its bone hangs on; a root is its own parent, so that its bone has no length.

    ValueError where the bones are missing, or no tree of these joints.
    """
    if not bones:
        raise ValueError("this data file has no bones, which a bone stream needs: give the array file an entry bones")
    parents = list(range(joints))
    for parent, child in bones:
        if not (0 <= parent < joints and 0 <= child < joints) or parents[child] != child or parent == child:
            raise ValueError(f"bone ({parent}, {child}) makes no tree of {joints} joints: a joint has one parent")
        parents[child] = parent
    return parents


def motion(x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
    """x[t + 1] - x[t], zero in the last frame and wherever the body is not tracked in both frames.

    Without the second rule a body that comes or goes would leap from or to the origin.
    """
    both_NMT = present_NMT[..., 1:] & present_NMT[..., :-1]
    step = (x_NCTVM[:, :, 1:] - x_NCTVM[:, :, :-1]) * both_NMT.transpose(1, 2)[:, None, :, None, :]
    return nn.functional.pad(step, (0, 0, 0, 0, 0, 1))
