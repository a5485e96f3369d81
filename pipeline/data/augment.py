"""Changes of training clips, batched on the device. The noise is a pure function of (seed, epoch, clip).

It does not depend on the batch a clip is in, on the rank or on the device, so 1, 2 or 4 ranks train on the same clips.
Shapes: N clips, M bodies, T frames, V joints; x_NCTVM in metres about the origin of `centre`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.config import AugmentConfig

_MASK = (1 << 64) - 1


class Draw(NamedTuple):
    """Random numbers of clips: uniform in [0, 1), addressed by (seed, epoch, clip, purpose, counter)."""

    seed: int
    epoch: int
    index_N: Tensor  # int64, positions in the file
    repeat_N: Tensor | None = None  # how often the clip has occurred before in the epoch; None: never

    def split(self, parts: int) -> list[Draw]:
        """Return the clips in so many parts, whose sizes differ by at most one."""
        index = self.index_N.tensor_split(parts)
        repeat = [None] * parts if self.repeat_N is None else self.repeat_N.tensor_split(parts)
        return [self._replace(index_N=one, repeat_N=turn) for one, turn in zip(index, repeat, strict=True)]

    def uniform(self, purpose: int, count: int) -> Tensor:
        """Return (N, count) float32 in [0, 1); the draw of a clip does not depend on the rest of the batch."""
        base = _mix_int(_mix_int(_mix_int(self.seed) ^ self.epoch) ^ purpose)
        turn_N = self.index_N if self.repeat_N is None else self.index_N + (self.repeat_N << 40)
        key_N1 = _mix((turn_N + 1).unsqueeze(1) ^ base)
        counter = torch.arange(count, device=self.index_N.device)
        return (_mix(key_N1 ^ _mix(counter + 1)) >> 40 & 0xFFFFFF).float() / (1 << 24)

    def symmetric(self, purpose: int, count: int, largest: float) -> Tensor:
        """Return (N, count) float32, uniform in [-largest, largest)."""
        return largest * (2 * self.uniform(purpose, count) - 1)

    def normal(self, purpose: int, count: int) -> Tensor:
        """Return (N, count) float32, standard normal (Box & Muller 1958)."""
        half = -(-count // 2)
        u_NH, v_NH = self.uniform(purpose, 2 * half).chunk(2, dim=1)
        radius_NH = (-2 * (1 - u_NH).log()).sqrt()
        angle_NH = 2 * math.pi * v_NH
        return torch.cat([radius_NH * angle_NH.cos(), radius_NH * angle_NH.sin()], dim=1)[:, :count]


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_STEP, _FIRST, _SECOND = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele et al. 2014) on int64, which wraps as unsigned does."""
    x = x + _STEP
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _FIRST
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _SECOND
    return x ^ (x >> 31 & (1 << 33) - 1)


def _mix_int(value: int) -> int:
    return int(_mix(torch.tensor(_signed(value))))


# One purpose per random decision, so that switching one change on leaves the others as they were.
_CROP_LENGTH, _CROP_PLACE, _ROTATE, _YAW, _SCALE, _SHEAR, _NOISE, _DROP, _MIRROR, _SWAP = range(10)


def crop_windows(config: AugmentConfig, draw: Draw) -> Tensor:
    """Return the crop windows, (N, 2): first and last point as shares of the clip's length."""
    length_N1 = config.crop + (1 - config.crop) * draw.uniform(_CROP_LENGTH, 1)
    first_N1 = (1 - length_N1) * draw.uniform(_CROP_PLACE, 1)
    return torch.cat([first_N1, first_N1 + length_N1], dim=1)


def mirrored_joints(joint_names: list[str]) -> Tensor:
    """Return the index of each joint's mirror image, (V,). ValueError if names have no sides."""
    place = {name: v for v, name in enumerate(joint_names)}
    other = [name.replace("left", "\0").replace("right", "left").replace("\0", "right") for name in joint_names]
    if other == list(joint_names) or any(name not in place for name in other):
        raise ValueError(
            "augment.mirror needs joint names with 'left' and 'right'; this data file has "
            f"{', '.join(joint_names[:4])}, ...: give the array file joint_names, or leave mirror at 0"
        )
    return torch.tensor([place[name] for name in other])


def augment(
    config: AugmentConfig, draw: Draw, x_NCTVM: Tensor, present_NMT: Tensor, mirror_V: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the changed clips and their presence; rows of absent bodies stay zero, absent joints NaN."""
    if config.mirror:
        assert mirror_V is not None
        flip_N = draw.uniform(_MIRROR, 1)[:, 0] < config.mirror
        other = x_NCTVM[..., mirror_V, :]  # a copy
        other[:, 0].neg_()
        x_NCTVM = torch.where(_over(flip_N, x_NCTVM), other, x_NCTVM)
    if config.swap:
        swap_N = draw.uniform(_SWAP, 1)[:, 0] < config.swap
        x_NCTVM = torch.where(_over(swap_N, x_NCTVM), x_NCTVM.flip(-1), x_NCTVM)
        present_NMT = torch.where(_over(swap_N, present_NMT), present_NMT.flip(1), present_NMT)
    if config.rotate or config.yaw or config.scale or config.shear:
        # Linear maps about the origin, where absent bodies stay. In two dimensions: the turned plane, seen from before.
        channels = x_NCTVM.shape[1]
        maps_NCC = linear_maps(config, draw)[:, :channels, :channels]
        x_NCTVM = torch.einsum("nij,njtvm->nitvm", maps_NCC, x_NCTVM)
    present_NTM = present_NMT.transpose(1, 2)
    if config.noise:
        count = math.prod(x_NCTVM.shape[1:])  # of a clip; a rank's part of a small batch has none
        noise = config.noise * draw.normal(_NOISE, count).reshape(x_NCTVM.shape)
        x_NCTVM = x_NCTVM + noise * present_NTM[:, None, :, None, :]
    if config.joint_drop:
        joints = x_NCTVM.shape[3]
        keep_NV = draw.uniform(_DROP, joints) >= config.joint_drop
        # NaN marks an absent joint, so that streams drop the bones and the motion at its place as well.
        dropped_N1TVM = (~keep_NV)[:, None, None, :, None] & present_NTM[:, None, :, None, :]
        x_NCTVM = x_NCTVM.masked_fill(dropped_N1TVM, torch.nan)
    return x_NCTVM, present_NMT


def linear_maps(config: AugmentConfig, draw: Draw) -> Tensor:
    """Return (N, 3, 3): shear, then rotation about x, y (with the further yaw) and z, then size."""
    count = len(draw.index_N)
    angle_N3 = draw.symmetric(_ROTATE, 3, config.rotate)
    angle_N3 = angle_N3 + torch.nn.functional.pad(draw.symmetric(_YAW, 1, config.yaw), (1, 1))
    maps_N33 = rotation(angle_N3[:, 2], 2) @ rotation(angle_N3[:, 1], 1) @ rotation(angle_N3[:, 0], 0)
    shear_N9 = draw.symmetric(_SHEAR, 9, config.shear).reshape(count, 3, 3)
    identity = torch.eye(3, device=maps_N33.device)
    size_N11 = 1 + draw.symmetric(_SCALE, 1, config.scale).unsqueeze(2)
    return size_N11 * maps_N33 @ (identity + shear_N9 * (1 - identity))


def rotation(angle_N: Tensor, axis: int) -> Tensor:
    """Return right-handed rotations (N, 3, 3) about a coordinate axis by angles in radians."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    result = torch.zeros(len(angle_N), 3, 3, device=angle_N.device)
    result[:, axis, axis] = 1
    result[:, a, a] = result[:, b, b] = angle_N.cos()
    result[:, b, a] = angle_N.sin()
    result[:, a, b] = -angle_N.sin()
    return result


def _over(flag_N: Tensor, x: Tensor) -> Tensor:
    return flag_N.reshape(-1, *[1] * (x.dim() - 1))
