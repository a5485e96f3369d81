"""diagnosis: verdicts on planted causes and on healthy models of all kinds; the model is not changed."""

import copy
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.normdoctor import diagnose
from pipeline.normdoctor.evidence import History
from tests.pipeline.normdoctor.planted import Small, data, in_class_order
from tests.pipeline.normdoctor.planted import trained as trained_small

ROOT = Path(__file__).parents[3]


class TwoViews(nn.Module):
    """A model that is not ours: one trunk called on two inputs of different distributions (or on both at once)."""

    def __init__(self, fold: bool, momentum: float = 0.1) -> None:
        super().__init__()
        self.fold = fold
        self.linear = nn.Linear(8, 32)
        self.norm = nn.BatchNorm1d(32, momentum=momentum)
        self.out = nn.Linear(32, 3)

    def forward(self, x_N28: Tensor) -> Tensor:
        """Logits (N, 3)."""
        if self.fold:
            both = torch.relu(self.norm(self.linear(x_N28.flatten(0, 1)))).unflatten(0, x_N28.shape[:2])
            return self.out(both.amax(1))
        views = [torch.relu(self.norm(self.linear(x_N28[:, view]))) for view in range(2)]
        return self.out(torch.stack(views).amax(0))


def batches(seed: int, shift: float, count: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Three classes; the second view is shifted and ten times smaller."""
    draw = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        y = torch.randint(3, (64,), generator=draw)
        first = torch.randn(64, 8, generator=draw) * 0.5
        first[torch.arange(64), y] += 0.8
        second = shift + 0.05 * torch.randn(64, 8, generator=draw)
        result.append((torch.stack([first, second], 1), y))
    return result


def trained(model: nn.Module, data: list[tuple[Tensor, Tensor]], steps: int = 300) -> nn.Module:
    """Adam on the batches in turn."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for step in range(steps):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


TRAIN, HELD_OUT = batches(0, 8.0), batches(1, 8.0)


@pytest.fixture(scope="module")
def looped() -> nn.Module:
    """The planted cause."""
    torch.manual_seed(0)
    return trained(TwoViews(fold=False), TRAIN)


def test_reuse_is_named_proven_and_explains_the_gap(looped: nn.Module) -> None:
    """Calls counted, gap recovered by statistics per call site, more than by one shared set."""
    diagnosis = diagnose(looped, TRAIN, HELD_OUT)
    assert [cause.check for cause in diagnosis.causes] == ["reuse"]
    assert diagnosis.calls == {"norm": 2}
    assert diagnosis.causes[0].recovered >= 0.8
    assert diagnosis.causes[0].after > diagnosis.causes[0].before + 0.1
    assert diagnosis.recalibration["per_call"]["A"] > diagnosis.recalibration["joint"]["A"] + 0.1
    assert diagnosis.unexplained < 0.2


def test_a_healthy_model_gets_no_cause() -> None:
    """The same data, folded: nothing is named."""
    torch.manual_seed(0)
    diagnosis = diagnose(trained(TwoViews(fold=True), TRAIN), TRAIN, HELD_OUT)
    assert diagnosis.causes == []
    assert "not to blame" in diagnosis.verdict


def test_a_reused_layer_on_one_distribution_is_not_blamed() -> None:
    """Reuse alone is harmless: the check needs different distributions, the cause a recovered gap."""
    same = [(x[:, :1].expand(-1, 2, -1).contiguous(), y) for x, y in TRAIN]
    torch.manual_seed(0)
    assert diagnose(trained(TwoViews(fold=False), same), same).causes == []


def test_stale_statistics_are_named_and_joint_recalibration_recovers() -> None:
    """Momentum 0.001 and 300 steps: the buffers still hold their initial values for the most part."""
    shifted = [(x + 5, y) for x, y in TRAIN]
    torch.manual_seed(0)
    diagnosis = diagnose(trained(TwoViews(fold=True, momentum=0.001), shifted), shifted)
    assert [cause.check for cause in diagnosis.causes] == ["stale"]
    assert diagnosis.causes[0].recovered >= 0.8


def test_untrained_buffers_are_named_before_staleness() -> None:
    """Buffers that were reset after training (a checkpoint that lost them)."""
    torch.manual_seed(0)
    model = trained(TwoViews(fold=True), [(x + 5, y) for x, y in TRAIN])
    model.norm.reset_running_stats()
    diagnosis = diagnose(model, [(x + 5, y) for x, y in TRAIN])
    assert [cause.check for cause in diagnosis.causes] == ["buffers"]


def test_the_model_its_mode_and_the_random_state_stay_as_they_were(looped: nn.Module) -> None:
    """Parameters, buffers, hooks, mode, RNG."""
    before, rng = copy.deepcopy(looped.state_dict()), torch.get_rng_state()
    diagnose(looped, TRAIN, HELD_OUT)
    assert all(torch.equal(value, before[name]) for name, value in looped.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not looped.training
    assert not looped.norm._forward_hooks


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, types and bytes of everything in the state, and of the modes."""
    digest = hashlib.sha256()
    for name, value in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update("".join(str(int(m.training)) for m in model.modules()).encode())
    return digest.hexdigest()


# --- models and loaders of all kinds ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fine() -> nn.Module:
    """A healthy network."""
    torch.manual_seed(0)
    return trained_small(Small(), data(0))


def test_nothing_of_the_model_changes_to_the_bit(fine: nn.Module) -> None:
    """Parameters, buffers and modes by hash, through every pass; the control changes one number."""
    before = fingerprint(fine)
    model = copy.deepcopy(fine).train()
    in_training = fingerprint(model)
    diagnose(model, data(0), data(1))
    assert fingerprint(model) == in_training != before
    diagnose(fine, data(0), data(1))
    assert fingerprint(fine) == before
    model = copy.deepcopy(fine)
    model.norm1.running_mean[0] += 1e-6
    assert fingerprint(model) != before


def wrapped(model: nn.Module, how: str) -> nn.Module:
    """The model inside something."""
    if how == "compiled":
        return torch.compile(model, backend="eager")
    if how == "compiled in place":
        model.compile(backend="eager")
        model.eval()(data(0)[0][0])  # before the doctor looks
        return model
    if how == "averaged":
        return AveragedModel(model, use_buffers=True)
    return nn.DataParallel(model)


@pytest.mark.parametrize("how", ["compiled", "compiled in place", "averaged", "data parallel"])
def test_a_wrapped_model_is_the_model_inside(fine: nn.Module, how: str) -> None:
    """Accuracies, calls and names of the bare one."""
    bare = diagnose(fine, data(0), data(1))
    inside = diagnose(wrapped(copy.deepcopy(fine), how), data(0), data(1))
    assert inside.accuracies == bare.accuracies
    assert inside.calls == bare.calls


def test_a_ddp_model_is_the_model_inside(tmp_path: Path) -> None:
    """In a world of one rank over gloo, in a process of its own."""
    script = (
        "import torch.distributed as dist\n"
        "from torch.nn.parallel import DistributedDataParallel as DDP\n"
        "from pipeline.normdoctor import diagnose\n"
        "from tests.pipeline.normdoctor.planted import Small, data, trained\n"
        f"dist.init_process_group('gloo', init_method='file://{tmp_path}/store', rank=0, world_size=1)\n"
        "model = trained(Small(), data(0), 50)\n"
        "bare, inside = diagnose(model, data(0)), diagnose(DDP(model), data(0))\n"
        "assert bare.accuracies == inside.accuracies and inside.calls == {'norm1': 1, 'norm2': 1}\n"
        "dist.destroy_process_group()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_an_average_without_buffers_is_named(fine: nn.Module) -> None:
    """AveragedModel's default: the buffers are those of the last network; with use_buffers there is nothing to say."""
    for use_buffers in (False, True):
        average = AveragedModel(fine, use_buffers=use_buffers)
        average.update_parameters(fine)
        assert ("averaging" in diagnose(average, data(0), data(1)).named) is not use_buffers


def test_lazy_layers_are_rejected() -> None:
    """They have no statistics yet; after a batch they have."""
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match="lazy layers have seen no batch yet"):
        diagnose(model, data(0))
    model(data(0)[0][0])
    assert diagnose(model, data(0)).calls == {"1": 1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_verdict_on_a_quantized_model_says_that_its_norms_are_folded() -> None:
    """Weights of 8 bits; what was folded in cannot be seen any more."""
    linear = torch.ao.nn.quantized.dynamic.Linear(8, 3)
    diagnosis = diagnose(nn.Sequential(linear), data(0))
    assert "quantized" in diagnosis.verdict
    assert diagnosis.causes == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_rejected(fine: nn.Module) -> None:
    """Its layers cannot be seen."""
    with pytest.raises(ValueError, match="TorchScript"):
        diagnose(torch.jit.trace(fine, data(0)[0][0]), data(0))


def test_activations_that_are_not_finite_are_named_with_their_layer(fine: nn.Module) -> None:
    """Weights that overflow."""
    model = copy.deepcopy(fine)
    with torch.no_grad():
        model.second.weight *= 1e38
        model.norm1.weight *= 1e8
    diagnosis = diagnose(model, data(0), data(1))
    assert "precision" in diagnosis.named
    assert "not finite, first at the input of norm2" in diagnosis.checks["precision"]


def test_dicts_are_taken_as_they_are(fine: nn.Module) -> None:
    """With forward and metric, and without: the same accuracies; what was found is said."""
    train = [{"image": x, "label": y} for x, y in data(0)]
    plain = diagnose(fine, train)
    diagnosis = diagnose(
        fine,
        train,
        forward=lambda model, batch: model(batch["image"]),
        metric=lambda output, batch: output.argmax(1) == batch["label"],
    )
    assert diagnosis.accuracies["A"] == plain.accuracies["A"] == diagnose(fine, data(0)).accuracies["A"]
    assert diagnosis.assumed == []
    assert str(plain).endswith(
        "\nAssumed: the model is called as model(batch['image']); the label is batch['label']; the metric is accuracy "
        "(share of right first choices)."
    )


def test_any_metric_that_is_better_higher(fine: nn.Module) -> None:
    """Minus the loss of each sample, or one score a batch: the lost buffers are found by both."""
    model = copy.deepcopy(fine)
    model.norm1.reset_running_stats()

    def minus_loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return -nn.functional.cross_entropy(output, batch[1], reduction="none")

    diagnosis = diagnose(model, data(0), data(1), metric=minus_loss)
    assert [cause.check for cause in diagnosis.causes] == ["buffers"]
    assert "points" not in diagnosis.verdict
    model.norm2.reset_running_stats()
    whole = diagnose(model, data(0, 60), data(1), metric=lambda o, b: (o.argmax(1) == b[1]).float().mean())
    assert [cause.check for cause in whole.causes] == ["buffers"]


def test_a_metric_of_another_shape_is_rejected(fine: nn.Module) -> None:
    """One line."""
    with pytest.raises(ValueError, match=r"metric gave \(32, 3\) for a batch of 32"):
        diagnose(fine, data(0), metric=lambda output, batch: output)


def test_a_model_without_running_statistics_depends_on_its_batch(fine: nn.Module) -> None:
    """track_running_stats off."""
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, track_running_stats=False))
    assert "depends on its batch" in diagnose(model, data(0)).verdict


def test_class_sorted_evaluation_batches_do_not_spoil_d(fine: nn.Module) -> None:
    """The doctor shuffles them; as given they would read lower by much."""
    given, ordered = diagnose(fine, data(0), data(1)), diagnose(fine, data(0), in_class_order(data(1)))
    assert abs(ordered.accuracies["D"] - given.accuracies["D"]) < 0.03
    with torch.no_grad():
        as_it_is = copy.deepcopy(fine).train()
        right = torch.cat([as_it_is(x).argmax(1) == y for x, y in in_class_order(data(1))])
    assert right.double().mean().item() < given.accuracies["D"] - 0.2


def test_dropout_left_on_is_a_cause_without_any_batch_norm() -> None:
    """The verdict names it, rather than that statistics have no part in it."""
    torch.manual_seed(0)
    dropout = nn.Dropout(0.0)
    model = trained(nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), dropout, nn.Linear(32, 3)), TRAIN)
    dropout.p = 0.95
    diagnosis = diagnose(model.train(), TRAIN, HELD_OUT)
    assert [cause.check for cause in diagnosis.causes] == ["mode"]
    assert diagnosis.verdict.startswith(
        "The model has no batch norm, but a cause was found: the model was passed in training mode"
    )


def test_a_left_over_sample_does_not_matter_without_batch_norm() -> None:
    """A group norm takes each sample by itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.GroupNorm(4, 32), nn.ReLU(), nn.Linear(32, 3))
    x, y = TRAIN[0]
    assert diagnose(trained(model, TRAIN), [*TRAIN, (x[:1], y[:1])], HELD_OUT).named == []


class Unused(TwoViews):
    """A layer that forward never reaches."""

    def __init__(self) -> None:
        super().__init__(fold=True)
        self.unused = nn.BatchNorm1d(32)


def test_a_layer_that_is_never_called_is_not_suspected() -> None:
    """Its statistics are those it began with; nothing depends on them. Nor does it hinder where it is alone."""
    torch.manual_seed(0)
    assert diagnose(trained(Unused(), TRAIN), TRAIN, HELD_OUT).named == []
    alone = Unused()
    alone.norm = nn.Identity()  # type: ignore[assignment]
    diagnosis = diagnose(trained(alone, TRAIN), TRAIN, HELD_OUT, groups={"parity": lambda batch: batch[1] % 2})
    assert "buffers" not in diagnosis.named


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda model, batch: "nothing", "the model gives str, and no label fits that"),
        (
            lambda model, batch: model(batch[0])[:, 0],
            r"the model gives (64,) float32, and no label fits that: batch[0]",
        ),
        (
            lambda model, batch: model(batch[5]),
            "forward fails on a batch of tuple (0 (64, 2, 8), 1 (64,)) with IndexError",
        ),
        (lambda model, batch: model(batch[1]), "forward fails"),
    ],
)
def test_an_output_that_no_label_fits_is_rejected_with_the_remedy(looped: nn.Module, forward: Any, words: str) -> None:
    """ValueError, one line that names the argument."""
    with pytest.raises(ValueError, match="forward=, which takes|pass metric=|Pass metric=") as caught:
        diagnose(looped, TRAIN, HELD_OUT, forward=forward)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_in_the_metric_is_one_line_that_names_it(looped: nn.Module) -> None:
    """And its cause stays."""
    with pytest.raises(ValueError, match="metric fails on a batch of tuple .* KeyError: 'y'. Check metric=") as caught:
        diagnose(looped, TRAIN, metric=lambda output, batch: {}["y"])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_model_that_cannot_be_copied_is_rejected_with_the_reason(looped: nn.Module) -> None:
    """One that keeps an activation with its graph."""
    model = copy.deepcopy(looped)
    model.last = model(TRAIN[0][0])
    with pytest.raises(ValueError, match="the model cannot be copied, and a diagnosis works on a copy"):
        diagnose(model, TRAIN)


def test_updates_are_not_the_cause_of_statistics_that_have_not_settled() -> None:
    """Twice an optimizer step at momentum 0.001: with half the updates they would be slower yet."""
    shifted = [(x + 5, y) for x, y in TRAIN]
    torch.manual_seed(0)
    model = trained(TwoViews(fold=True, momentum=0.001), shifted)
    assert diagnose(model, shifted, history=History(steps=150)).causes[0].check == "stale"
