"""models: every model in every persons mode with every norm."""

import pytest
import torch

from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.models.bodies import PERSONS
from pipeline.norms import NORMS, NormConfig


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
