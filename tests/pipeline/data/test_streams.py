"""streams.py: what each stream of a clip is, by hand and by what must not change it."""

import pytest
import torch
from torch import Tensor

from pipeline.data.streams import DISTANCES, STREAMS, Stream, motion, parents_of, parts_of
from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.norms import NormConfig

BONES = ((0, 1), (1, 2), (1, 3))
JOINTS, FRAMES = 4, 5


def clip() -> tuple[Tensor, Tensor]:
    """Two clips; body 1 of the first is tracked in frames 1 to 3, that of the second never."""
    present = torch.ones(2, 2, FRAMES, dtype=torch.bool)
    present[0, 1, [0, 4]] = False
    present[1, 1] = False
    x = torch.randn(2, 3, FRAMES, JOINTS, 2, generator=torch.Generator().manual_seed(0))
    return x * present.transpose(1, 2)[:, None, :, None, :], present


def test_the_bone_stream_is_each_joint_minus_its_parent() -> None:
    """By hand; the root's bone has no length."""
    x, present = clip()
    bone = Stream("bone", BONES, JOINTS)(x, present)
    assert torch.equal(bone[..., 0, :], torch.zeros_like(bone[..., 0, :]))
    for parent, child in BONES:
        assert torch.equal(bone[..., child, :], x[..., child, :] - x[..., parent, :])


def test_motion_is_the_step_to_the_next_frame() -> None:
    """Zero in the last frame."""
    x, present = clip()
    step = motion(x, present)
    assert torch.equal(step[:, :, :-1, :, 0], x[:, :, 1:, :, 0] - x[:, :, :-1, :, 0])
    assert step[:, :, -1].abs().sum() == 0


def test_a_body_that_comes_or_goes_does_not_leap_from_the_origin() -> None:
    """Tracked in frames 1 to 3: only the steps from 1 and 2 are motion."""
    x, present = clip()
    step = motion(x, present)[0, ..., 1]
    assert [bool(step[:, t].abs().sum() > 0) for t in range(FRAMES)] == [False, True, True, False, False]
    assert (x[0, :, 1, :, 1] - x[0, :, 0, :, 1]).abs().sum() > 0


@pytest.mark.parametrize("name", STREAMS)
def test_an_absent_body_stays_zero(name: str) -> None:
    """Wherever it is not tracked."""
    x, present = clip()
    y = Stream(name, BONES, JOINTS)(x, present)
    assert y.shape == (2, Stream(name, BONES, JOINTS).channels, FRAMES, JOINTS, 2)
    assert y[(~present).transpose(1, 2)[:, None, :, None, :].expand_as(y)].abs().sum() == 0
    assert y.abs().sum() > 0


@pytest.mark.parametrize("name", STREAMS)
def test_only_the_joints_depend_on_where_the_clip_takes_place(name: str) -> None:
    """Bodies moved by a metre: bones and motion are the same."""
    x, present = clip()
    moved = (x + 1) * present.transpose(1, 2)[:, None, :, None, :]
    stream = Stream(name, BONES, JOINTS)
    assert torch.allclose(stream(moved, present), stream(x, present), atol=1e-5) is (not {"joint"} & {*STREAMS[name]})


def turned(x_NCTVM: Tensor) -> tuple[Tensor, Tensor]:
    """A rotation, and the clips seen from another camera."""
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    return turn, torch.einsum("ij,njtvm->nitvm", turn, x_NCTVM)


@pytest.mark.parametrize("name", sorted(set(STREAMS) - set(DISTANCES)))
def test_a_stream_is_linear_so_turning_the_clip_turns_it(name: str) -> None:
    """A rotation before or after is the same."""
    x, present = clip()
    turn, elsewhere = turned(x)
    stream = Stream(name, BONES, JOINTS)
    after = torch.einsum("ij,nsjtvm->nsitvm", turn, stream(x, present).unflatten(1, (-1, 3)))
    torch.testing.assert_close(stream(elsewhere, present), after.flatten(1, 2))


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_the_same_from_every_camera(name: str) -> None:
    """And double in a body twice as large."""
    x, present = clip()
    stream = Stream(name, BONES, JOINTS)
    torch.testing.assert_close(stream(turned(x)[1], present), stream(x, present))
    torch.testing.assert_close(stream(2 * x, present), 2 * stream(x, present), atol=1e-5, rtol=1e-5)


def test_the_distance_is_that_between_two_joints() -> None:
    """By hand: channel w at joint v; to the partner's joints in the frames in which both are tracked."""
    x, present = clip()
    own, other = (Stream(name, BONES, JOINTS)(x, present) for name in DISTANCES)
    for v in range(JOINTS):
        for w in range(JOINTS):
            expected = (x[..., v, :] - x[..., w, :]).norm(dim=1)
            torch.testing.assert_close(own[:, w, :, v], expected, atol=2e-6, rtol=1e-5)
            expected = (x[0, :, 1:4, v, 0] - x[0, :, 1:4, w, 1]).norm(dim=0)
            torch.testing.assert_close(other[0, w, 1:4, v, 0], expected)
            torch.testing.assert_close(other[0, v, 1:4, w, 1], expected)
    assert other[0, :, [0, 4]].abs().sum() == 0
    assert other[1].abs().sum() == 0


def test_no_distance_has_a_gradient_that_is_not_finite() -> None:
    """A joint's to itself, whose root has none."""
    x, present = clip()
    Stream("distance", BONES, JOINTS)(x.requires_grad_(), present).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("name", "count"), [("all", 4), ("pair", 5), ("all+distance", 5), ("pair+all+partner_distance", 6)]
)
def test_several_streams_are_side_by_side(name: str, count: int) -> None:
    """In the order of their names, each as it is alone, none twice."""
    x, present = clip()
    alone = [Stream(part, BONES, JOINTS)(x, present) for part in parts_of(name)]
    assert len(alone) == count
    assert torch.equal(Stream(name, BONES, JOINTS)(x, present), torch.cat(alone, dim=1))


def test_the_partner_stream_is_each_joint_minus_the_other_bodys_root() -> None:
    """By hand, in the frames in which both are tracked; a lone body has no partner, and zeros are not taken for one."""
    x, present = clip()
    partner = Stream("partner", BONES, JOINTS)(x, present)
    for t in (1, 2, 3):
        torch.testing.assert_close(partner[0, :, t, :, 0], x[0, :, t, :, 0] - x[0, :, t, :1, 1])
        torch.testing.assert_close(partner[0, :, t, :, 1], x[0, :, t, :, 1] - x[0, :, t, :1, 0])
    assert partner[0, :, [0, 4]].abs().sum() == 0
    assert partner[1].abs().sum() == 0
    assert x[0, :, [0, 4], :, 0].abs().sum() > 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("input_norm", ["none", "vc", "mvc"])
def test_every_network_takes_streams_side_by_side(name: str, input_norm: str) -> None:
    """Thirty-five channels, under every norm of the input; the coordinates of each matter."""
    bones = tuple((v - 1, v) for v in range(1, 10))
    norm = NormConfig(input=input_norm)
    network = build_model(ModelConfig(name, width=0.5), norm, 16, 10, 5, bones, "pair+distance+partner_distance").eval()
    x, present = torch.randn(2, 3, 16, 10, 2), torch.ones(2, 2, 16, dtype=torch.bool)
    logits = network(x, present)
    assert logits.shape == (2, 5)
    for channel in range(3):
        assert not torch.allclose(network(x.index_fill(1, torch.tensor([channel]), 0.0), present), logits)


def test_the_bones_motion_is_the_motions_bone() -> None:
    """The two commute where a body is tracked throughout."""
    x, _ = clip()
    everyone = torch.ones(2, 2, FRAMES, dtype=torch.bool)
    one = Stream("bone_motion", BONES, JOINTS)(x, everyone)
    torch.testing.assert_close(one, Stream("bone", BONES, JOINTS)(motion(x, everyone), everyone))


def test_a_stream_changes_what_a_network_sees_and_nothing_of_its_state() -> None:
    """The same weights in all that have three channels; the logits differ."""
    bones = tuple((v - 1, v) for v in range(1, 10))
    x, present = torch.randn(2, 3, 16, 10, 2), torch.ones(2, 2, 16, dtype=torch.bool)
    reference = build_model(ModelConfig(), NormConfig(), 16, 10, 5, bones).eval()
    for name in (name for name in STREAMS if Stream(name, BONES, JOINTS).channels == 3):
        network = build_model(ModelConfig(), NormConfig(), 16, 10, 5, bones, name).eval()
        network.load_state_dict(reference.state_dict())
        assert torch.allclose(network(x, present), reference(x, present)) is (name == "joint")


@pytest.mark.parametrize(
    ("bones", "words"),
    [
        ((), "has no bones"),
        (((0, 1), (2, 1)), r"bone \(2, 1\) makes no tree"),
        (((0, 9),), r"bone \(0, 9\) makes no tree of 4 joints"),
        (((1, 1),), r"bone \(1, 1\) makes no tree"),
        (((0, 1), (1, 2), (2, 3), (3, 0)), "the bones go round in a circle by joint 0"),
        (((1, 2), (2, 3), (3, 1)), "the bones go round in a circle by joint 1"),
    ],
)
def test_bones_that_are_no_tree_are_refused(bones: tuple[tuple[int, int], ...], words: str) -> None:
    """One line that names the bone."""
    with pytest.raises(ValueError, match=words):
        parents_of(bones, JOINTS)


@pytest.mark.parametrize("name", ["bones", "joint+bones", "bones+"])
def test_an_unknown_stream_names_the_known_ones(name: str) -> None:
    """One line, of the part that is wrong."""
    with pytest.raises(ValueError, match=r"input.stream 'bones' is unknown; choose one of joint, bone.*all\+distance"):
        Stream(name, BONES, JOINTS)


@pytest.mark.parametrize("name", STREAMS)
def test_what_an_absent_joint_takes_part_in_is_zero_and_the_rest_is_unchanged(name: str) -> None:
    """Joint 1 is the parent of joints 2 and 3; absent in frame 2 of body 0 of the first clip."""
    x, present = clip()
    stream = Stream(name, BONES, JOINTS)
    whole, gappy = stream(x, present), x.clone()
    gappy[0, :, 2, 1, 0] = torch.nan
    made = stream(gappy, present)
    assert not made.isnan().any()
    changed = (made != whole).any(dim=1)
    frames = {2} if not {"joint_motion", "bone_motion"} & {*parts_of(name)} else {1, 2}
    assert {*changed.nonzero()[:, 1].tolist()} <= frames
    assert changed[0, 2, 1, 0]
    for part, at in zip(parts_of(name), range(0, 3 * len(parts_of(name)), 3), strict=True):
        if part in DISTANCES or name in DISTANCES:
            continue
        affected = {"joint": {1}, "joint_motion": {1}, "bone": {1, 2, 3}, "bone_motion": {1, 2, 3}, "partner": {1}}[
            part
        ]
        for joint in affected:
            assert not made[0, at : at + 3, 2, joint, 0].any()
        for joint in {*range(JOINTS)} - affected:
            assert torch.equal(made[0, at : at + 3, 2, joint, 0], whole[0, at : at + 3, 2, joint, 0])


def test_the_partner_of_a_body_without_a_root_is_unknown() -> None:
    x, present = clip()
    x[0, :, 2, 0, 0] = torch.nan
    made = Stream("partner", BONES, JOINTS)(x, present)
    assert not made[0, :, 2, :, 1].any()
    assert made[0, :, 3, :, 1].any()


@pytest.mark.parametrize("network", MODELS)
def test_networks_take_clips_with_absent_joints(network: str) -> None:
    """Finite logits, and gradients; the answer depends on the gap."""
    joints = 10
    bones = tuple((v, v + 1) for v in range(joints - 1))
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=network, width=0.125), NormConfig(), 16, joints, 4, bones, "all").eval()
    x = torch.randn(2, 3, 16, joints, 2)
    present = torch.ones(2, 2, 16, dtype=torch.bool)
    whole = model(x, present)
    x[0, :, 4:8, 3, 0] = torch.nan
    made = model(x, present)
    assert made.isfinite().all()
    assert not torch.equal(made[0], whole[0])
    assert torch.allclose(made[1], whole[1], atol=1e-5)
    made.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_motion_of_hcn_does_not_leap_to_an_absent_joint() -> None:
    x, present = clip()
    absent = torch.zeros(2, 1, FRAMES, JOINTS, 2, dtype=torch.bool)
    absent[0, 0, 2, 1, 0] = True
    step = motion(x.masked_fill(absent, 0.0), present, absent)
    assert not step[0, :, 1:3, 1, 0].any()
    assert torch.equal(step[1], motion(x, present)[1])


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_two_coordinates(name: str) -> None:
    x, present = clip()
    stream = Stream(name, BONES, JOINTS, coordinates=2)
    assert stream(x[:, :2], present).shape[1] == stream.channels
