"""models: every model in every persons mode with every norm, and each against facts of its paper."""

import copy
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.doctor import diagnose
from pipeline.models import MODELS, ModelConfig, build_model, compile_trunk
from pipeline.models.bodies import PERSONS, max_over_bodies, mean_over_bodies
from pipeline.models.cost import cost, describe
from pipeline.models.ctrgcn import RefinedGraphConv
from pipeline.models.graph import adjacency
from pipeline.models.plan import Plan
from pipeline.models.stgcn import AdaptiveGraphConv
from pipeline.normdoctor.collector import population
from pipeline.normdoctor.sites import batch_norms
from pipeline.norms import INPUTS, NORMS, PERSONS_MODES, NormConfig, norm_factory
from preprocessing import ntu

FRAMES, JOINTS, CLASSES = 16, 10, 5
BONES = tuple((v // 2, v) for v in range(1, JOINTS))  # a tree: 0-1, 1-2, 1-3, 2-4, ...
NTU_BONES = tuple((int(parent), int(child)) for parent, child in ntu.BONES)
GRAPHS = ("stgcn", "ctrgcn")
MIXED = [[True, False], [True, True], [False, True], [True, False]]


def clips(present: list[list[bool]]) -> tuple[Tensor, Tensor]:
    """Random clips (N, 3, 16, 10, 2), absent bodies zero."""
    present_NM = torch.tensor(present)
    x = torch.randn(len(present), 3, FRAMES, JOINTS, 2, generator=torch.Generator().manual_seed(0))
    x = x * present_NM[:, None, None, None, :]
    return x, present_NM.unsqueeze(2).expand(-1, -1, FRAMES)


def small(model: str = "cnn", seed: int = 0, dropout: float = 0.5, bones: Any = BONES, **norm: Any) -> nn.Module:
    """A narrow network, its weights drawn from a seed; what starts at zero is moved, so that it takes part."""
    torch.manual_seed(seed)
    config = ModelConfig(model, dropout=dropout, width=0.25)
    network = build_model(config, NormConfig(**norm), FRAMES, JOINTS, CLASSES, bones)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "alpha" in name or "learnt" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return network


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("persons", PERSONS)
def test_logits_are_finite_and_not_all_zero(model: str, kind: str, persons: str) -> None:
    """In training and in evaluation."""
    network = small(model, kind=kind, persons=persons)
    for mode in (True, False):
        logits = network.train(mode)(*clips(MIXED))
        assert logits.shape == (4, CLASSES)
        assert torch.isfinite(logits).all()
        assert logits.abs().sum() > 0


@pytest.mark.parametrize("model", MODELS)
def test_in_channels_last_every_norm_gets_that_order_forward_and_back(model: str) -> None:
    """Torch's kernels are several times slower where the input's order and the gradient's differ."""
    network = small(model, dropout=0.0).to(memory_format=torch.channels_last).train()
    orders: dict[str, list[bool]] = {}

    def note(name: str, x: Tensor) -> None:
        orders.setdefault(name, []).append(x.is_contiguous(memory_format=torch.channels_last))

    def watch(name: str, output: Tensor) -> None:
        note(name, output)
        output.register_hook(partial(note, name))

    for name, layer in batch_norms(network).items():
        layer.register_forward_hook(lambda _, inputs, y, name=name: watch(name, y) if y.dim() == 4 else None)
    network(*clips(MIXED)).logsumexp(1).sum().backward()
    assert orders
    assert {name: order for name, order in orders.items() if order != [True, True]} == {}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("norm_input", INPUTS)
def test_every_combination_learns_a_batch_by_heart(kind: str, norm_input: str) -> None:
    """Kinds x input norms, each in all persons modes: the loss falls, and a gradient reaches every weight."""
    x, present = clips(MIXED)
    for persons in PERSONS:
        network = small(dropout=0.0, kind=kind, persons=persons, input=norm_input, renorm_steps=0).train()
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x, present), torch.arange(4))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert min(losses[1:]) < losses[0], persons
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad), persons


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("persons", ["masked", "loop", "fold"])
def test_masked_in_the_maximum_an_absent_body_never_reaches_the_logits(kind: str, persons: str) -> None:
    """Rows of absent bodies filled with 1e9, through the whole network, in evaluation."""
    network = small(kind=kind, persons=persons, mask_max=True).eval()
    x, present = clips(MIXED)
    filled = torch.where(present.movedim(1, 2)[:, None, :, None, :], x, 1e9)
    torch.testing.assert_close(network(filled, present), network(x, present))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", NORMS)
def test_a_clip_without_anybody_is_finite_and_so_is_a_batch_of_them(model: str, kind: str) -> None:
    """An empty slot pair yields zeros, not -inf; a call over no bodies at all is no error."""
    network = small(model, kind=kind, persons="masked")
    assert torch.isfinite(network(*clips([[False, False], [True, False], [True, True]]))).all()
    assert torch.isfinite(network.eval()(*clips([[False, False], [False, False]]))).all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["none", "bn", "ghost_bn", "gn", "nf"])
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_masked_never_looks_at_what_stands_for_an_absent_body(model: str, kind: str, mode: bool) -> None:
    """Padding of 1e3 instead of zeros: the same logits. Negative control: in loop they differ."""
    x, present = clips(MIXED)
    padded = torch.where(present.any(-1)[:, None, None, None, :], x, 1e3)
    same = {}
    for persons in ("masked", "loop"):
        network = small(model, dropout=0.0, kind=kind, persons=persons).train(mode)
        with torch.no_grad():
            same[persons] = torch.equal(network(x, present), network(padded, present))
    assert same == {"masked": True, "loop": False}


@pytest.mark.parametrize("model", MODELS)
def test_a_lone_body_counts_as_much_as_a_pair_of_the_same(model: str) -> None:
    """Masked pools over the bodies that are there, by maximum or mean: neither a twin nor an empty slot changes it."""
    network = small(model, persons="masked").eval()
    x, present = clips([[True, False]])
    twins = x[..., :1].expand(-1, -1, -1, -1, 2)
    torch.testing.assert_close(network(x, present), network(twins, torch.ones_like(present)))


@pytest.mark.parametrize("model", GRAPHS)
def test_without_masking_an_empty_slot_takes_part_in_the_mean(model: str) -> None:
    """Negative control of the test above, in the papers' way."""
    network = small(model, persons="fold").eval()
    x, present = clips([[True, False]])
    twins = x[..., :1].expand(-1, -1, -1, -1, 2)
    assert not torch.allclose(network(x, present), network(twins, torch.ones_like(present)), atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("persons", ["loop", "fold", "masked"])
def test_the_order_of_bodies_does_not_matter(model: str, persons: str) -> None:
    """Slots exchanged in evaluation: the same logits."""
    network = small(model, persons=persons).eval()
    x, present = clips(MIXED)
    torch.testing.assert_close(network(x.flip(-1), present.flip(1)), network(x, present))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("persons", PERSONS)
def test_without_norm_only_masking_changes_the_features(model: str, persons: str) -> None:
    """Loop, fold and per_person are the same function; masked keeps absent bodies out of the pool."""
    reference = small(model, kind="none", persons="loop").eval()
    network = small(model, seed=1, kind="none", persons=persons).eval()
    network.load_state_dict(reference.state_dict())
    x, present = clips(MIXED)
    everyone = torch.ones_like(present)
    torch.testing.assert_close(network(x, everyone), reference(x, everyone))
    assert torch.allclose(network(x, present), reference(x, present), atol=1e-6) is (persons != "masked")


@pytest.mark.parametrize("model", MODELS)
def test_the_loop_calls_each_layer_of_the_trunk_twice_and_the_others_once(model: str) -> None:
    """As the doctor counts it: every layer with batch statistics is found, and each of its calls."""
    sites = {}
    for persons in PERSONS:
        network = small(model, persons=persons).eval()
        table = population(lambda net, batch: net(*batch), network, [clips(MIXED)])
        calls = Counter(name for name, _ in table)
        assert set(calls) == set(batch_norms(network))
        sites[persons] = {count for name, count in calls.items() if "hidden" not in name}
    assert sites == {"loop": {2}, "fold": {1}, "masked": {1}, "per_person": {1}}


@pytest.mark.parametrize("model", MODELS)
def test_the_doctor_takes_every_model_as_it_is(model: str) -> None:
    """Statistics that were never trained are named and recalibrated; the calls of the loop are counted."""
    x, present = clips(MIXED * 4)
    label = torch.arange(len(x)) % CLASSES
    network = small(model, dropout=0.0, persons="loop").eval()
    diagnosis = diagnose(network, [(x, present, label)], forward=lambda net, batch: net(batch[0], batch[1]))
    assert {calls for name, calls in diagnosis.calls.items() if "hidden" not in name} == {2}
    assert {"joint", "per_call", "masked"} <= set(diagnosis.recalibration)


@pytest.mark.parametrize("model", MODELS)
def test_statistics_follow_the_batch_in_training_as_often_as_the_layer_is_called(model: str) -> None:
    """num_batches_tracked counts the calls of one training step."""
    updates = {}
    for persons in PERSONS:
        network = small(model, persons=persons).train()
        network(*clips(MIXED))
        layers = {name: layer for name, layer in batch_norms(network).items() if "hidden" not in name}
        updates[persons] = {int(layer.num_batches_tracked) for layer in layers.values()}  # type: ignore[arg-type]
    assert updates == {"loop": {2}, "fold": {1}, "masked": {1}, "per_person": {1}}


def test_per_person_shares_scale_and_shift_but_not_statistics() -> None:
    """Two sets of buffers, one set of parameters."""
    slots = small(persons="per_person").norms[0]
    assert slots[0].weight is slots[1].weight
    assert slots[0].running_mean is not slots[1].running_mean


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["none", "bn", "evonorm_s0", "bin"])
def test_the_gradient_reaches_every_parameter(model: str, kind: str) -> None:
    """Not one is left without; behind no norm a bias has one too (in front of BatchNorm its gradient is zero)."""
    network = small(model, dropout=0.0, kind=kind, persons="masked").train()
    x, present = clips(MIXED)
    nn.functional.cross_entropy(network(x, present), torch.tensor([0, 1, 2, 3])).backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert missing == []
    if kind == "none":
        dead = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
        assert dead == []


@pytest.mark.parametrize("model", MODELS)
def test_a_state_makes_another_network_the_same(model: str) -> None:
    """Of another seed, after a training step; before it, it differs."""
    one, two = small(model, persons="masked"), small(model, seed=1, persons="masked")
    one.train()(*clips(MIXED))
    x, present = clips(MIXED)
    assert not torch.allclose(one.eval()(x, present), two.eval()(x, present))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x, present), two(x, present))


@pytest.mark.parametrize("model", MODELS)
def test_a_small_batch_is_learnt_by_heart(model: str) -> None:
    """Four clips, four classes: the loss falls below a fifth of that of guessing."""
    network = small(model, dropout=0.0, persons="masked").train()
    x, present = clips(MIXED)
    label = torch.arange(4)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(x, present), label)
        if loss < 0.3:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("frames", "joints"), [(16, 8), (31, 15), (20, 20)])
def test_any_number_of_frames_and_joints(model: str, frames: int, joints: int) -> None:
    """Odd ones too."""
    bones = tuple((v - 1, v) for v in range(1, joints))
    network = build_model(ModelConfig(model, width=0.25), NormConfig(), frames, joints, CLASSES, bones).eval()
    x, present = torch.randn(2, 3, frames, joints, 2), torch.ones(2, 2, frames, dtype=torch.bool)
    assert network(x, present).shape == (2, CLASSES)


def test_pools_over_bodies_by_hand() -> None:
    """Features (N=2, M=2, C=2): body 2 of the first clip is absent, the second clip is empty."""
    features = torch.tensor([[[1.0, -2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    present = torch.tensor([[True, False], [False, False]])
    assert max_over_bodies(features, None).tolist() == [[3, 4], [7, 8]]
    assert max_over_bodies(features, present).tolist() == [[1, -2], [0, 0]]
    assert mean_over_bodies(features, None).tolist() == [[2, 1], [6, 7]]
    assert mean_over_bodies(features, present).tolist() == [[1, -2], [0, 0]]


def test_the_adjacency_of_a_small_tree_by_hand() -> None:
    """0 - 1, and 1 to 2 and 3: joint 1's children send half each; a root has no parent, a leaf no children."""
    a_KVV = adjacency(((0, 1), (1, 2), (1, 3)), 4)
    assert torch.equal(a_KVV[0], torch.eye(4))
    assert a_KVV[1].tolist() == [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert a_KVV[2].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0.5, 0, 0]]


def plan(**changes: Any) -> Plan:
    """Sizes of the small clips."""
    values = {
        "norm": norm_factory(NormConfig()), "persons": "masked", "mask_max": False, "dropout": 0.0, "width": 0.25,
        "frames": FRAMES, "joints": JOINTS, "classes": CLASSES, "bones": BONES,
    }  # fmt: skip
    return Plan(**(values | changes))


@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_the_adaptive_graph_is_its_formula(kind: str) -> None:
    """Joint by joint: sum over subsets k and joints v of W_k x[v] (A_k + B_k)[v, w]; a bias where it has an effect."""
    torch.manual_seed(0)
    layer = AdaptiveGraphConv(plan(norm=norm_factory(NormConfig(kind=kind))), adjacency(BONES, JOINTS), 6, 8)
    nn.init.normal_(layer.learnt_WP)
    x = torch.randn(2, 6, 3, JOINTS)
    assert (layer.convolution.bias is None) == (kind == "bn")
    y_KBOTV = layer.convolution(x).unflatten(1, (3, 8)).movedim(1, 0)
    a_KVW = adjacency(BONES, JOINTS) + layer.learnt_WP.reshape(JOINTS, JOINTS, 3).permute(2, 1, 0)
    expected = torch.zeros(2, 8, 3, JOINTS)
    for k in range(3):
        for v in range(JOINTS):
            for w in range(JOINTS):
                expected[..., w] += y_KBOTV[k, ..., v] * a_KVW[k, v, w]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_the_refined_graph_is_its_formula() -> None:
    """Pair of joints by pair of joints; features are averaged over time behind theta and phi, as the paper has it."""
    torch.manual_seed(0)
    layer = RefinedGraphConv(plan(), adjacency(BONES, JOINTS), 8, 4)
    nn.init.normal_(layer.alpha_K111)
    x = torch.randn(2, 8, 3, JOINTS)

    def pointwise(convolution: nn.Module, k: int, y: Tensor) -> Tensor:
        weight, bias = (p.chunk(3)[k] for p in (convolution.weight.flatten(1), convolution.bias))
        return torch.einsum("oi,bi...->bo...", weight, y) + bias.reshape(1, -1, *[1] * (y.dim() - 2))

    expected = torch.zeros(2, 4, 3, JOINTS)
    for k in range(3):
        theta, phi = (pointwise(convolution, k, x).mean(2) for convolution in (layer.theta, layer.phi))
        value = pointwise(layer.value, k, x)
        for v in range(JOINTS):
            for w in range(JOINTS):
                q = pointwise(layer.refine, k, torch.tanh(theta[..., v] - phi[..., w]))
                weight = layer.alpha_K111[k].reshape(()) * q + layer.shared_KVV[k, v, w]
                expected[..., w] += weight.unsqueeze(-1) * value[..., v]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", GRAPHS)
def test_a_graph_network_does_not_depend_on_the_numbering_of_joints(model: str) -> None:
    """Joints and bones renumbered together: the same logits. Negative control: joints alone change them."""
    order = torch.randperm(JOINTS, generator=torch.Generator().manual_seed(1))  # new joint i is the old order[i]
    place = order.argsort().tolist()
    renumbered = tuple((place[parent], place[child]) for parent, child in BONES)
    one, other = small(model, persons="masked"), small(model, persons="masked", bones=renumbered)
    own = {name: p for name, p in one.state_dict().items() if "_KVV" not in name}
    other.load_state_dict(own, strict=False)
    for network in (one, other):
        for name, parameter in network.named_parameters():
            if "learnt" in name:
                nn.init.zeros_(parameter)
    x, present = clips(MIXED)
    with torch.no_grad():
        torch.testing.assert_close(
            other.eval()(x[..., order, :], present), one.eval()(x, present), rtol=1e-4, atol=1e-5
        )
        assert not torch.allclose(one(x[..., order, :], present), one(x, present), atol=1e-3)


# Published, of NTU RGB+D with 60 classes: HCN 1.047 M (skelact), CTR-GCN 1.46 M, ST-GCN++ 1.4 M (pyskl).
@pytest.mark.parametrize(("model", "low", "high"), [("hcn", 1.04, 1.06), ("ctrgcn", 1.41, 1.51), ("stgcn", 1.1, 1.5)])
def test_a_network_at_width_1_has_about_as_many_parameters_as_published(model: str, low: float, high: float) -> None:
    """Millions."""
    network = build_model(ModelConfig(model), NormConfig(), 64, 25, 60, NTU_BONES)
    assert low < cost(network, 64, 25)["params"] / 1e6 < high


def test_the_cost_of_the_cnn_by_hand() -> None:
    """Two operations a weight and place; masked, a lone body costs half of the convolutions."""
    network = small(persons="masked")
    costs = cost(network, FRAMES, JOINTS)
    places = (FRAMES * JOINTS, FRAMES // 2 * (JOINTS // 2), FRAMES // 4 * (JOINTS // 4))
    one_body = sum(2 * 9 * a * b * n for a, b, n in zip((3, 8, 16), (8, 16, 32), places, strict=True))
    head = 2 * (32 * (FRAMES // 8) * (JOINTS // 8) * 128 + 128 * CLASSES)
    assert costs["flops"] == 2 * one_body + head
    assert costs["flops_one_body"] == one_body + head
    assert costs["params"] == sum(p.numel() for p in network.parameters())
    assert describe(costs).startswith("0.01")


def test_counting_leaves_the_network_as_it_was() -> None:
    """Mode and statistics."""
    network = small("stgcn").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cost(network, FRAMES, JOINTS)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("model", MODELS)
def test_a_wider_network_has_more_parameters(model: str) -> None:
    """All numbers of channels grow together."""
    narrow, wide = (
        build_model(ModelConfig(model, width=width), NormConfig(), FRAMES, JOINTS, CLASSES, BONES)
        for width in (0.5, 1.0)
    )
    ratio = cost(wide, FRAMES, JOINTS)["params"] / cost(narrow, FRAMES, JOINTS)["params"]
    assert 2.5 < ratio < 8.1  # the linear layer of hcn grows in its rows, its columns and their number


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("cnn", {"frames": 4}, "cnn halves frames and joints three times"),
        ("hcn", {"frames": 12}, "hcn halves frames 4 times: it needs 16, got input.frames 12"),
        ("stgcn", {"bones": ()}, "graph networks need bones"),
        ("ctrgcn", {"bones": ((0, 99),)}, r"invalid bone \(0, 99\): joints must be 0 to 9, and differ"),
    ],
)
def test_a_network_says_what_it_cannot_be_built_for(model: str, changes: dict[str, Any], words: str) -> None:
    """In one line."""
    with pytest.raises(ValueError, match=words):
        MODELS[model](plan(**changes))


def test_every_persons_mode_is_a_setting() -> None:
    """In the same order, which the help and the error message show."""
    assert tuple(PERSONS) == PERSONS_MODES


def test_a_copy_of_a_compiled_network_has_weights_of_its_own() -> None:
    """Its trunk's weights at zero change what the copy says, and nothing of the network it was made from."""
    network = small().eval()
    expected = network(*clips(MIXED))
    compile_trunk(network)
    copied = copy.deepcopy(network)
    nn.init.zeros_(copied.convolutions[0].weight)
    assert torch.equal(network(*clips(MIXED)), expected)
    assert not torch.allclose(copied(*clips(MIXED)), expected)
