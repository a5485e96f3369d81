"""augment.py: each change has its documented effect, spares absent bodies, and depends on (seed, epoch, clip) alone."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from pipeline.data.augment import AugmentConfig, Draw, augment, crop_windows, linear_maps, mirrored_joints, rotation

OFF = AugmentConfig()
ALL = AugmentConfig(0.5, 0.3, 0.5, 0.2, 0.1, 0.01, 0.1, 0.5, 0.5)
NAMES = ["spine", "left hand", "right hand", "head"]
STRONG: dict[str, Any] = {
    "rotate": 0.5, "yaw": 0.5, "scale": 0.3, "shear": 0.3, "noise": 0.1, "joint_drop": 0.5, "mirror": 1.0, "swap": 1.0,
}  # fmt: skip


def clips(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Random clips (N, 3, 6, 4, 2) in metres; the second body is absent in every other clip and in two frames."""
    x = torch.randn(count, 3, 6, 4, 2, generator=torch.Generator().manual_seed(1))
    present = torch.ones(count, 2, 6, dtype=torch.bool)
    present[::2, 1] = False
    present[:, 1, :2] = False
    return x * present.transpose(1, 2)[:, None, :, None, :], present


def changed(
    config: AugmentConfig, index: list[int], epoch: int = 1, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of these positions, changed."""
    x, present = clips()
    index_N = torch.tensor(index, dtype=torch.int64)
    return augment(config, Draw(seed, epoch, index_N), x[index_N], present[index_N], mirrored_joints(NAMES))


def test_switched_off_nothing_changes() -> None:
    """Bit for bit; the window is the whole clip."""
    x, present = clips()
    out, there = changed(OFF, list(range(8)))
    assert not OFF.on
    assert torch.equal(out, x)
    assert torch.equal(there, present)
    assert torch.equal(crop_windows(OFF, Draw(0, 1, torch.arange(3))), torch.tensor([[0.0, 1.0]] * 3))


@pytest.mark.parametrize("name", STRONG)
def test_each_change_changes_something_and_never_an_absent_body(name: str) -> None:
    """Rows of absent bodies stay zero."""
    config = replace(OFF, **{name: STRONG[name]})
    x, _ = clips()
    out, there = changed(config, list(range(8)))
    assert config.on
    assert not torch.equal(out, x)
    absent = ~there.transpose(1, 2)[:, None, :, None, :].expand_as(out)
    assert (out[absent] == 0).all()


def test_every_change_is_tried() -> None:
    """The table above has all of the registry, but for the crop window, which is drawn by itself."""
    assert {f.name for f in fields(AugmentConfig)} == {*STRONG, "crop"}


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("name", [*STRONG, "crop"])
def test_each_change_takes_a_part_of_any_size(name: str, count: int) -> None:
    """A rank may get no clip of a small batch. What it gets is what it would be in the whole batch."""
    config = replace(OFF, **{name: STRONG.get(name, 0.5)})
    whole, there = changed(config, list(range(8)))
    out, seen = changed(config, list(range(count)))
    assert out.shape == (count, 3, 6, 4, 2)
    assert torch.equal(out.nan_to_num(9.0), whole[:count].nan_to_num(9.0))
    assert torch.equal(seen, there[:count])
    draw = Draw(0, 1, torch.arange(count), torch.zeros(count, dtype=torch.int64))
    assert crop_windows(config, draw).shape == (count, 2)
    assert [len(part.index_N) for part in draw.split(2)] == [count - count // 2, count // 2]


@pytest.mark.parametrize("name", [f.name for f in fields(AugmentConfig)])
def test_every_setting_is_documented_and_off_by_default(name: str) -> None:
    """A default that changes nothing."""
    assert getattr(OFF, name) == (1.0 if name == "crop" else 0.0)


def test_a_clips_noise_does_not_depend_on_its_batch() -> None:
    """Alone, in another order, in another batch: the same bytes; so any number of ranks trains on the same clips."""
    whole, there = changed(ALL, list(range(8)))
    for part in ([3], [6, 1, 4], [7, 0]):
        out, seen = changed(ALL, part)
        assert torch.equal(out.nan_to_num(9.0), whole[part].nan_to_num(9.0))
        assert torch.equal(seen, there[part])
        window = crop_windows(ALL, Draw(0, 1, torch.tensor(part)))
        assert torch.equal(window, crop_windows(ALL, Draw(0, 1, torch.arange(8)))[part])


@pytest.mark.parametrize("other", [{"epoch": 2}, {"seed": 1}])
def test_another_epoch_or_seed_gives_other_noise(other: dict[str, int]) -> None:
    """Unlike loaders that seed their workers by worker number alone."""
    assert not torch.equal(changed(ALL, [0, 1])[0], changed(ALL, [0, 1], **other)[0])


def test_the_numbers_are_uniform_and_normal() -> None:
    """Mean, variance and range of 200,000; neighbouring clips and epochs are uncorrelated."""
    draw = Draw(0, 1, torch.arange(2000))
    u, z = draw.uniform(1, 100), draw.normal(1, 100)
    assert 0 <= u.min() < 0.001
    assert 0.999 < u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=0.005)
    assert u.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert z.std().item() == pytest.approx(1, abs=0.01)
    for other in (u.roll(1, 0), u.roll(1, 1), Draw(0, 2, torch.arange(2000)).uniform(1, 100), draw.uniform(2, 100)):
        assert abs(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]) < 0.01


def test_rotations_keep_lengths_and_yaw_keeps_the_vertical() -> None:
    """Orthogonal maps; y untouched by yaw."""
    draw = Draw(0, 1, torch.arange(50))
    maps = linear_maps(AugmentConfig(rotate=0.5, yaw=1.0), draw)
    torch.testing.assert_close(maps @ maps.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0)
    yaw = linear_maps(AugmentConfig(yaw=1.0), draw)
    torch.testing.assert_close(yaw[:, 1], torch.tensor([0.0, 1.0, 0.0]).expand(50, 3))
    turned = rotation(torch.tensor([torch.pi / 2]), 1)[0] @ torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(turned, torch.tensor([1.0, 0.0, 0.0]))


def test_windows_lie_inside_the_clip_and_have_the_asked_length() -> None:
    """From half of the clip to all of it."""
    first, last = crop_windows(AugmentConfig(crop=0.5), Draw(0, 1, torch.arange(1000))).T
    assert (first >= 0).all()
    assert (last <= 1 + 1e-6).all()
    assert 0.5 <= (last - first).min() < 0.51
    assert 0.99 < (last - first).max() <= 1


def test_mirroring_twice_is_nothing() -> None:
    """x changes its sign, left and right joints change places."""
    x, present = clips()
    config, draw, pairs = AugmentConfig(mirror=1.0), Draw(0, 1, torch.arange(8)), mirrored_joints(NAMES)
    once, _ = augment(config, draw, x, present, pairs)
    torch.testing.assert_close(once[:, 0, :, 1], -x[:, 0, :, 2])
    torch.testing.assert_close(once[:, 1, :, 0], x[:, 1, :, 0])
    assert torch.equal(augment(config, draw, once, present, pairs)[0], x)


def test_joints_without_sides_cannot_be_mirrored() -> None:
    """The remedy is in the message."""
    with pytest.raises(ValueError, match=r"needs joint names with 'left' and 'right'.*leave mirror at 0"):
        mirrored_joints(["joint 0", "joint 1"])


@pytest.mark.parametrize(
    ("field", "value"), [("crop", 0.0), ("crop", 1.5), ("mirror", 2.0), ("noise", -1.0), ("scale", 1.0)]
)
def test_a_wrong_setting_is_refused_by_name(field: str, value: float) -> None:
    """One line."""
    with pytest.raises(ValueError, match=f"augment.{field} {value}"):
        AugmentConfig(**{field: value})


def test_normal_numbers_are_those_of_box_and_muller() -> None:
    """By hand from the uniform ones; a uniform 0 gives a finite number, since 1 - u is never 0."""
    draw = Draw(3, 2, torch.arange(5))
    u, v = draw.uniform(7, 4).chunk(2, dim=1)
    radius = (-2 * torch.log1p(-u)).sqrt()
    expected = torch.cat([radius * (2 * torch.pi * v).cos(), radius * (2 * torch.pi * v).sin()], dim=1)
    torch.testing.assert_close(draw.normal(7, 3), expected[:, :3])

    class Zero(Draw):
        def uniform(self, purpose: int, count: int) -> torch.Tensor:
            return torch.zeros(len(self.index_N), count)

    assert torch.equal(Zero(3, 2, torch.arange(5)).normal(7, 2), torch.zeros(5, 2))


def test_the_uniform_numbers_are_those_of_splitmix64() -> None:
    """By Python's whole numbers: seed, epoch, purpose, clip and counter each enter."""
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31

    seed, epoch, purpose = 5, 3, 2
    base = mix(mix(mix(seed) ^ epoch) ^ purpose)
    expected = [[(mix(mix((n + 1) ^ base) ^ mix(c + 1)) >> 40) / (1 << 24) for c in range(3)] for n in (0, 9)]
    assert Draw(seed, epoch, torch.tensor([0, 9])).uniform(purpose, 3).tolist() == expected


def test_the_place_of_a_crop_does_not_depend_on_its_length() -> None:
    """Uniform in what is left of the clip, uncorrelated with the length."""
    first, last = crop_windows(AugmentConfig(crop=0.5), Draw(0, 1, torch.arange(5000))).T
    length = last - first
    place = first / (1 - length)
    assert abs(torch.corrcoef(torch.stack([length, place]))[0, 1]) < 0.05
    assert place.mean().item() == pytest.approx(0.5, abs=0.02)


def test_a_shear_leaves_the_diagonal_and_a_scale_is_one_factor() -> None:
    """Entries within their bounds, and of both signs."""
    draw = Draw(0, 1, torch.arange(200))
    shear = linear_maps(AugmentConfig(shear=0.2), draw) - torch.eye(3)
    assert shear.diagonal(dim1=1, dim2=2).abs().max() == 0
    assert 0.19 < shear.max() <= 0.2
    assert -0.2 <= shear.min() < -0.19
    size = linear_maps(AugmentConfig(scale=0.3), draw).diagonal(dim1=1, dim2=2)
    assert torch.equal(size, size[:, :1].expand(-1, 3))
    assert 0.7 <= size.min() < 0.72
    assert 1.28 < size.max() <= 1.3


def test_joints_are_dropped_with_the_probability_that_is_asked_for() -> None:
    """In all frames and bodies of a clip at once."""
    x, present = torch.ones(400, 3, 2, 10, 2), torch.ones(400, 2, 2, dtype=torch.bool)
    dropped, _ = augment(AugmentConfig(joint_drop=0.1), Draw(0, 1, torch.arange(400)), x, present, None)
    absent = dropped.isnan()  # so that bones and motion drop it as well
    assert torch.equal(dropped[~absent], x[~absent])
    kept_NV = (~absent[:, 0, 0, :, 0]).float()
    assert torch.equal(absent, (kept_NV == 0)[:, None, None, :, None].expand_as(dropped))
    assert 1 - kept_NV.mean().item() == pytest.approx(0.1, abs=0.01)


def test_a_clip_that_repeats_in_an_epoch_has_other_noise() -> None:
    """Its first occurrence has that of a clip that does not repeat."""
    plain = Draw(0, 1, torch.tensor([3, 3, 4])).uniform(1, 4)
    again = Draw(0, 1, torch.tensor([3, 3, 4]), torch.tensor([0, 1, 0]))
    assert torch.equal(again.uniform(1, 4)[[0, 2]], plain[[0, 2]])
    assert not torch.equal(again.uniform(1, 4)[1], plain[1])
    first, second = again.split(2)
    assert torch.equal(torch.cat([first.uniform(1, 4), second.uniform(1, 4)]), again.uniform(1, 4))
