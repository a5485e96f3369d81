"""models: every model in every persons mode with every norm."""

import pytest
import torch

from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.models.bodies import PERSONS
from pipeline.norms import INPUTS, NORMS, NormConfig


def clips(present: list[list[bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random clips (N, 3, 16, 10, 2), absent bodies zero."""
    present_NM = torch.tensor(present)
    x = torch.randn(len(present), 3, 16, 10, 2, generator=torch.Generator().manual_seed(0))
    x = x * present_NM[:, None, None, None, :]
    return x, present_NM.unsqueeze(2).expand(-1, -1, 16)


MIXED = [[True, False], [True, True], [False, True], [True, False]]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("persons", PERSONS)
def test_logits_are_finite_and_not_all_zero(model: str, kind: str, persons: str) -> None:
    """In training and in evaluation."""
    network = build_model(ModelConfig(model), NormConfig(kind=kind, persons=persons), 16, 10, 5)
    for mode in (True, False):
        logits = network.train(mode)(*clips(MIXED))
        assert logits.shape == (4, 5)
        assert torch.isfinite(logits).all()
        assert logits.abs().sum() > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("norm_input", INPUTS)
def test_every_combination_learns_a_batch_by_heart(model: str, kind: str, norm_input: str) -> None:
    """Kinds x input norms, each in all persons modes: the loss falls, and a gradient reaches every weight."""
    x, present = clips(MIXED)
    for persons in PERSONS:
        torch.manual_seed(0)
        norm = NormConfig(kind=kind, persons=persons, input=norm_input, renorm_steps=0)
        network = build_model(ModelConfig(model, dropout=0.0), norm, 16, 10, 5).train()
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(x, present), torch.arange(4))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert min(losses[1:]) < losses[0], persons
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad), persons


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize(("persons", "mask_max"), [("masked", False), ("masked", True), ("loop", True), ("fold", True)])
def test_what_stands_in_an_absent_body_never_reaches_the_logits(kind: str, persons: str, mask_max: bool) -> None:
    """Rows of absent bodies filled with 1e9, through the whole network, in evaluation."""
    torch.manual_seed(0)
    network = build_model(ModelConfig(), NormConfig(kind=kind, persons=persons, mask_max=mask_max), 16, 10, 5).eval()
    x, present = clips(MIXED)
    filled = torch.where(present.movedim(1, 2)[:, None, :, None, :], x, 1e9)
    torch.testing.assert_close(network(filled, present), network(x, present))


def test_without_the_mask_an_absent_body_would_reach_the_logits() -> None:
    """Negative control of the test above."""
    network = build_model(ModelConfig(), NormConfig(kind="gn", persons="loop"), 16, 10, 5).eval()
    x, present = clips(MIXED)
    filled = torch.where(present.movedim(1, 2)[:, None, :, None, :], x, 1e9)
    assert not torch.allclose(network(filled, present), network(x, present))


@pytest.mark.parametrize("persons", ["loop", "fold", "masked", "per_person"])
def test_without_norm_only_masking_changes_the_features(persons: str) -> None:
    """Loop, fold and per_person are the same function; masked keeps absent bodies out of the maximum."""
    torch.manual_seed(0)
    reference = build_model(ModelConfig(), NormConfig(kind="none", persons="loop"), 16, 10, 5).eval()
    network = build_model(ModelConfig(), NormConfig(kind="none", persons=persons), 16, 10, 5).eval()
    network.load_state_dict(reference.state_dict())
    x, present = clips(MIXED)
    everyone = torch.ones_like(present)
    torch.testing.assert_close(network(x, everyone), reference(x, everyone))
    assert torch.allclose(network(x, present), reference(x, present)) is (persons != "masked")


def test_a_masked_clip_with_nobody_in_it_is_finite() -> None:
    """An empty slot pair yields zeros, not -inf."""
    network = build_model(ModelConfig(), NormConfig(persons="masked"), 16, 10, 5)
    assert torch.isfinite(network(*clips([[False, False], [True, False], [True, True]]))).all()


def test_the_loop_calls_one_layer_twice_and_the_others_once() -> None:
    """num_batches_tracked counts the calls of one training step."""
    updates = {}
    for persons in PERSONS:
        network = build_model(ModelConfig(), NormConfig(persons=persons), 16, 10, 5)
        network.train()(*clips(MIXED))
        updates[persons] = {int(b) for n, b in network.named_buffers() if "norms" in n and n.endswith("tracked")}
    assert updates == {"loop": {2}, "fold": {1}, "masked": {1}, "per_person": {1}}


def test_per_person_shares_scale_and_shift_but_not_statistics() -> None:
    """Two sets of buffers, one set of parameters."""
    network = build_model(ModelConfig(), NormConfig(persons="per_person"), 16, 10, 5)
    slots = network.norms[0]
    assert slots[0].weight is slots[1].weight
    assert slots[0].running_mean is not slots[1].running_mean


def test_an_unknown_persons_mode_names_the_allowed_ones() -> None:
    """The remedy is in the message."""
    with pytest.raises(ValueError, match=r"norm.persons 'both' is unknown; choose one of loop, fold, masked"):
        build_model(ModelConfig(), NormConfig(persons="both"), 16, 10, 5)
