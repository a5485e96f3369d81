"""STREAMS, the inputs of a network: joints, bones, motion, the other person, distances. Made per batch on the device.

Shi et al. 2019 (2s-AGCN, arXiv 1805.07694) for bones, Shi et al. 2020 (MS-AAGCN, arXiv 1912.06971) for motion. Several
side by side let one network see what an ensemble of as many does (inputs fused early, as in Song et al. 2022,
EfficientGCN, arXiv 2106.15125). Distances between joints are the same from every camera: of one body as in Yang et al.
2019 (DD-Net, arXiv 1907.09658), of two as in Yun et al. 2012 (CVPR workshops, who recorded SBU).
Streams are made after augmentation, so what augments joints augments all of them.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn

from pipeline.data.config import DISTANCES, parts_of
from pipeline.data.config import STREAMS as STREAMS


class Stream(nn.Module):
    """x_NCTVM in metres -> the stream, in the same shape but for its `channels`; where a body is absent it stays zero.

    A joint that is absent is NaN in x_NCTVM. Whatever would be computed from it is absent as well, and all that is
    absent is zero in the stream: a bone with an absent end, the motion from or to an absent joint.
    `channels`: those of its parts, in the order of `parts_of`.

    Args:
        name: Name in STREAMS, or several joined by +.
        bones: (parent, child) of each bone.
        joints: Joints per body.
        coordinates: Coordinates per joint.
    """

    parent_V: Tensor

    def __init__(self, name: str, bones: tuple[tuple[int, int], ...], joints: int, coordinates: int = 3) -> None:
        super().__init__()
        self.parts = parts_of(name)
        self.channels = sum(joints if part in DISTANCES else coordinates for part in self.parts)
        needs_bones = any(part == "partner" or part.startswith("bone") for part in self.parts)
        parents = parents_of(bones, joints) if needs_bones else list(range(joints))
        self.root = next(joint for joint, parent in enumerate(parents) if joint == parent)
        # Not part of the state: it follows from the data file, and a joint stream's weights fit any of three channels.
        self.register_buffer("parent_V", torch.tensor(parents), persistent=False)

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """Return the stream of clips; present_NMT marks the frames in which a body was tracked."""
        places = {"joint": x_NCTVM}
        if any(name.startswith("bone") for name in self.parts):  # once for bones and their motion
            places["bone"] = x_NCTVM - x_NCTVM[..., self.parent_V, :]
        parts = []
        for name in self.parts:
            if name == "partner":
                parts.append(self.partner(x_NCTVM, present_NMT))
            elif name in DISTANCES:
                alone = name == "distance"
                both_NMT = present_NMT if alone else present_NMT & present_NMT.flip(1)
                parts.append(distances(x_NCTVM, x_NCTVM if alone else x_NCTVM.flip(-1), both_NMT))
            elif name.endswith("_motion"):
                parts.append(motion(places[name.removesuffix("_motion")], present_NMT))
            else:
                parts.append(places[name])
        return without_gaps(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])

    def partner(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """Return each joint relative to the other body's root; zero unless both bodies are tracked.

        Each body goes through the network by itself, so other streams than this one and `partner_distance` do not show
        how far the other body is.
        """
        both_NMT = present_NMT & present_NMT.flip(1)
        root_NCT1M = x_NCTVM[..., self.root, :].unsqueeze(3)
        return (x_NCTVM - root_NCT1M.flip(-1)) * both_NMT.transpose(1, 2)[:, None, :, None, :]


def without_gaps(x: Tensor) -> Tensor:
    """Return x with zero instead of NaN, which marks absent joints."""
    return torch.where(x.isnan(), 0.0, x)


def parents_of(bones: tuple[tuple[int, int], ...], joints: int) -> list[int]:
    """Return the parent of each joint; a root is its own parent, so that its bone has length 0.

    ValueError if the bones are missing, or do not form a tree of these joints.
    """
    if not bones:
        raise ValueError("this data file has no bones, which a bone stream needs: give the array file an entry bones")
    parents = list(range(joints))
    for parent, child in bones:
        if not (0 <= parent < joints and 0 <= child < joints) or parents[child] != child or parent == child:
            raise ValueError(f"bone ({parent}, {child}) makes no tree of {joints} joints: a joint has one parent")
        parents[child] = parent
    for joint in range(joints):
        seen = {joint}
        while parents[joint] != joint:
            joint = parents[joint]
            if joint in seen:
                raise ValueError(f"the bones go round in a circle by joint {joint}; a tree has a root")
            seen.add(joint)
    return parents


def motion(x_NCTVM: Tensor, present_NMT: Tensor, absent_N1TVM: Tensor | None = None) -> Tensor:
    """Return x[t + 1] - x[t], zero in the last frame and where the body is not tracked in both frames.

    Without the second rule a body that comes or goes would leap from or to the origin. The same holds for joints that
    are absent: NaN in x, or marked by `absent_N1TVM` where x has zeros already.
    """
    both_NMT = present_NMT[..., 1:] & present_NMT[..., :-1]
    step = (x_NCTVM[:, :, 1:] - x_NCTVM[:, :, :-1]) * both_NMT.transpose(1, 2)[:, None, :, None, :]
    if absent_N1TVM is not None:
        step = torch.where(absent_N1TVM[:, :, 1:] | absent_N1TVM[:, :, :-1], 0.0, step)
    return nn.functional.pad(step, (0, 0, 0, 0, 0, 1))


def distances(x_NCTVM: Tensor, other_NCTVM: Tensor, both_NMT: Tensor) -> Tensor:
    """Return (N, V, T, V, M): metres from each joint (the second V) to each of another body's, or its own, joints.

    Zero except where `both_NMT`. Summed coordinate by coordinate: torch.cdist has no ONNX, and a norm over a short
    dimension is twenty times slower on a CPU.
    """
    coordinates = zip(x_NCTVM.unbind(1), other_NCTVM.unbind(1), strict=True)
    square_NTVVM = reduce(
        torch.add, ((x_NTVM[:, :, None] - other_NTVM[:, :, :, None]).square() for x_NTVM, other_NTVM in coordinates)
    )
    # The root of zero has no gradient: a micrometre stands for no distance.
    each_NTVVM = square_NTVVM.clamp(min=1e-12).sqrt() * both_NMT.transpose(1, 2)[:, :, None, None]
    return each_NTVVM.transpose(1, 2)
