"""Every model equals a forward written independently, from the formulas of its paper, on random weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.models.bodies import PERSONS
from pipeline.norms import NormConfig
from tests.pipeline.models.reference_cnn import cnn
from tests.pipeline.models.reference_graph import adaptive_graph, adjacency, graph_network, refined_graph
from tests.pipeline.models.reference_hcn import hcn
from tests.pipeline.models.reference_layers import Weights

FRAMES, JOINTS, CLASSES = 20, 9, 5
BONES = ((2, 0), (2, 1), (2, 3), (3, 4), (3, 5), (5, 6), (6, 7), (6, 8))  # the root is not joint 0

REFERENCES: dict[str, Callable[[Weights, Tensor, Tensor, str], Tensor]] = {
    "cnn": cnn,
    "hcn": hcn,
    "stgcn": lambda weights, *clips: graph_network(weights, adaptive_graph(adjacency(BONES, JOINTS)), *clips),
    "ctrgcn": lambda weights, *clips: graph_network(weights, refined_graph, *clips),
}


def clips(frames: int = FRAMES) -> tuple[Tensor, Tensor]:
    """Five clips in float64 with one or two bodies; one body is present from the fourth frame on, one has a gap."""
    present_NMT = torch.ones(5, 2, frames, dtype=torch.bool)
    present_NMT[0, 1] = present_NMT[3, 0] = False
    present_NMT[1, 1, :3] = present_NMT[2, 0, 8:11] = False
    x = torch.randn(5, 3, frames, JOINTS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x * present_NMT.movedim(1, 2)[:, None, :, None, :], present_NMT


def network(model: str, persons: str, frames: int = FRAMES, width: float = 0.25) -> torch.nn.Module:
    """A network in float64 without dropout; scales, shifts, statistics and what starts at zero are random too."""
    config = ModelConfig(model, dropout=0.0, width=width)
    net = build_model(config, NormConfig(persons=persons), frames, JOINTS, CLASSES, BONES).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and (tensor.dim() < 2 or not tensor.any()):
                moved = tensor + 0.2 * torch.randn(tensor.shape, generator=draw, dtype=tensor.dtype)
                tensor.copy_(moved.abs() if name.endswith("running_var") else moved)
    return net


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("persons", PERSONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_equals_its_reference(model: str, persons: str, training: bool) -> None:
    """Logits in float64; the reference takes the same state dict."""
    if model not in REFERENCES:
        pytest.skip(f"no reference forward for {model}")
    net, (x, present) = network(model, persons).train(training), clips()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    weights = Weights(state, training, persons == "per_person")
    expected = REFERENCES[model](weights, x, present, persons)
    logits = net(x, present)
    assert (logits.amax(0) - logits.amin(0)).min() > 1e-4, "the logits depend on the clip"
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-10)


def test_hcn_at_width_1_reads_places_in_the_order_of_its_reference() -> None:
    """Two frames and two columns are left in front of the linear layer; at width 0.25 it is one of each."""
    net, (x, present) = network("hcn", "masked", frames=32, width=1.0).eval(), clips(32)
    expected = hcn(Weights(net.state_dict(), False, False), x, present, "masked")
    torch.testing.assert_close(net(x, present), expected, rtol=1e-8, atol=1e-10)
