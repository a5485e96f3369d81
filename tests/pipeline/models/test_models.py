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
from pipeline.models.bodies import PERSONS, max_over_bodies, mean_over_bodies, present_rows
from pipeline.models.cost import cost, describe
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


CASES = [
    pytest.param(model, kind, list(PERSONS)[(i + j) % len(PERSONS)], id=f"{model}-{kind}")
    for i, model in enumerate(MODELS)
    for j, kind in enumerate(NORMS)
]


@pytest.mark.parametrize(("model", "kind", "persons"), CASES)
def test_logits_are_finite_and_depend_on_the_clip(model: str, kind: str, persons: str) -> None:
    """Every norm in every model; over the models each norm meets every persons mode. Bias alone gives equal rows.

    In float64: behind ten blocks with dynamic tanh, and in hcn, fresh networks tell clips apart by 1e-8 to 1e-11 only.
    """
    network = small(model, kind=kind, persons=persons, renorm_steps=0).double()
    x, present = clips(MIXED)
    for mode in (True, False):
        logits = network.train(mode)(x.double(), present)
        assert logits.shape == (4, CLASSES)
        assert torch.isfinite(logits).all()
        assert torch.pdist(logits).min() > 1e-12
    # Masked, in evaluation: clips without a body are equal, finite, and need no other clip in the batch.
    network = small(model, kind=kind, persons="masked").eval()
    lone, pair = network(*clips([[False, False]])), network(*clips([[False, False], [True, True], [False, False]]))
    assert torch.isfinite(lone).all()
    torch.testing.assert_close(pair[[0, 2]], lone.expand(2, -1))


def learn(network: nn.Module) -> float:
    """Loss on four clips of four classes after at most 400 steps; 1.39 is chance."""
    x, present = clips(MIXED)
    optimizer = torch.optim.Adam(network.train().parameters(), 3e-3)
    for _ in range(400):
        loss = nn.functional.cross_entropy(network(x, present), torch.arange(4))
        if loss < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    missing = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    return loss.item()


@pytest.mark.parametrize("kind", NORMS)
def test_a_small_batch_is_learnt_with_every_norm(kind: str) -> None:
    """The loss falls from 1.4 below 0.1."""
    assert learn(small(dropout=0.0, kind=kind, renorm_steps=0)) < 0.1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("persons", PERSONS)
def test_a_small_batch_is_learnt_by_every_model(model: str, persons: str) -> None:
    """In every persons mode."""
    assert learn(small(model, dropout=0.0, persons=persons)) < 0.1


@pytest.mark.parametrize("norm_input", INPUTS)
def test_a_small_batch_is_learnt_behind_every_input_norm(norm_input: str) -> None:
    """Masked or not."""
    assert learn(small(dropout=0.0, input=norm_input)) < 0.1


@pytest.mark.parametrize("model", MODELS)
def test_mask_max_keeps_an_absent_body_out_of_the_pool(model: str) -> None:
    """Absent bodies filled with 1e3: the same logits in evaluation. Negative control: without mask_max they differ."""
    x, present = clips(MIXED)
    filled = torch.where(present.movedim(1, 2)[:, None, :, None, :], x, 1e3)
    for persons in ("loop", "fold", "per_person"):
        network = small(model, persons=persons, mask_max=True).eval()
        torch.testing.assert_close(network(filled, present), network(x, present))
        network.mask_max = False
        assert not torch.allclose(network(filled, present), network(x, present), atol=1e-3)


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
def test_the_doctor_diagnoses_every_model(model: str) -> None:
    """Untrained statistics are recalibrated; the calls of the loop are counted."""
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


@pytest.mark.parametrize("model", MODELS)
def test_dropout_is_applied_in_front_of_the_last_layer(model: str) -> None:
    """With the configured probability; hcn drops whole channels as well."""
    network = small(model, dropout=0.9).train()
    outputs: list[Tensor] = []
    network.dropout.register_forward_hook(lambda _, inputs, y: outputs.append(y))
    classified: list[Tensor] = []
    network.classify.register_forward_hook(lambda _, inputs, y: classified.append(inputs[0]))
    network(*clips(MIXED * 8))
    assert classified[0] is outputs[0]
    drops = [(type(layer), layer.p) for layer in network.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)]
    assert drops == [(nn.Dropout2d, 0.9)] * (3 if model == "hcn" else 0) + [(nn.Dropout, 0.9)]


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
@pytest.mark.parametrize(("frames", "joints"), [(16, 8), (31, 15), (20, 20), (16, 5), (16, 2)])
@pytest.mark.parametrize("coordinates", [2, 3])
def test_any_number_of_frames_joints_and_coordinates(model: str, frames: int, joints: int, coordinates: int) -> None:
    """Odd ones too, and fewer joints than a network halves."""
    bones = tuple((v - 1, v) for v in range(1, joints))
    network = build_model(
        ModelConfig(model, width=0.25), NormConfig(), frames, joints, CLASSES, bones, coordinates=coordinates
    ).eval()
    x, present = torch.randn(2, coordinates, frames, joints, 2), torch.ones(2, 2, frames, dtype=torch.bool)
    assert network(x, present).shape == (2, CLASSES)


def test_pools_over_bodies_by_hand() -> None:
    """Features (N=2, M=2, C=2): body 2 of the first clip is absent, the second clip is empty."""
    features = torch.tensor([[[1.0, -2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    present = torch.tensor([[True, False], [False, False]])
    assert max_over_bodies(features, None).tolist() == [[3, 4], [7, 8]]
    assert max_over_bodies(features, present).tolist() == [[1, -2], [0, 0]]
    assert mean_over_bodies(features, None).tolist() == [[2, 1], [6, 7]]
    assert mean_over_bodies(features, present).tolist() == [[1, -2], [0, 0]]


def test_rows_of_a_layer_are_bodies_where_their_number_says_so() -> None:
    """Three clips of two bodies: one slot per call, both slots, or neither: other rows, or a third call."""
    present = torch.tensor([[True, False], [True, True], [False, True]])
    slots = [present_rows(present, 3, call) for call in range(2)]
    assert [slot.tolist() for slot in slots if slot is not None] == [[True, True, False], [False, True, True]]
    both = present_rows(present, 6, 0)
    assert both is not None
    assert both.tolist() == [True, False, True, True, False, True]
    assert present_rows(present, 4, 0) is present_rows(present, 3, 2) is None


def test_the_adjacency_of_a_small_tree_by_hand() -> None:
    """0 - 1, and 1 to 2 and 3: joint 1's children send half each; a root has no parent, a leaf no children."""
    a_KVV = adjacency(((0, 1), (1, 2), (1, 3)), 4)
    assert torch.equal(a_KVV[0], torch.eye(4))
    assert a_KVV[1].tolist() == [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert a_KVV[2].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0.5, 0, 0]]


def test_a_graph_convolution_starts_with_weights_for_three_messages_per_joint() -> None:
    """Uniform within 1 / sqrt(16 channels x 3 subsets)."""
    torch.manual_seed(0)
    layer = AdaptiveGraphConv(plan(), adjacency(BONES, JOINTS), 16, 32)
    assert layer.convolution.weight.abs().max().item() == pytest.approx(48**-0.5, rel=0.01)


def plan(**changes: Any) -> Plan:
    """Sizes of the small clips."""
    values = {
        "norm": norm_factory(NormConfig()), "persons": "masked", "mask_max": False, "dropout": 0.0, "width": 0.25,
        "frames": FRAMES, "joints": JOINTS, "classes": CLASSES, "bones": BONES,
    }  # fmt: skip
    return Plan(**(values | changes))


@pytest.mark.parametrize(("width", "channels"), [(1.0, 64), (0.44, 32), (0.42, 24), (0.01, 8)])
def test_numbers_of_channels_are_the_nearest_multiples_of_eight(width: float, channels: int) -> None:
    """64 times the width: 28.2 and 26.9 lie on either side of 28."""
    assert plan(width=width).channels(64) == channels


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
        ("cnn", {"frames": 4}, "cnn halves frames 3 times: it needs 8, got input.frames 4"),
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
    """Zero weights in the trunk of the copy change the logits of the copy, and not those of the original."""
    network = small().eval()
    expected = network(*clips(MIXED))
    compile_trunk(network)
    copied = copy.deepcopy(network)
    nn.init.zeros_(copied.convolutions[0].weight)
    assert torch.equal(network(*clips(MIXED)), expected)
    assert not torch.allclose(copied(*clips(MIXED)), expected)


def test_a_trunk_is_compiled_once_for_any_number_of_bodies_and_not_for_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six bodies, three and twelve."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    network = small(persons="masked")
    compile_trunk(network)
    network.eval()(*clips(MIXED))
    assert graphs == []
    for present in (MIXED, MIXED[:2], MIXED * 2):
        network.train()(*clips(present))
    assert len(graphs) == 1
