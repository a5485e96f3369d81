"""recalibrate: the population's statistics where torch's update_bn does not find them."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from pipeline.normdoctor import recalibrate
from pipeline.normdoctor.forms import PerCall
from pipeline.normdoctor.memory import NOTED
from pipeline.normdoctor.recalibration import _channels


def samples(count: int = 96, channels: int = 4) -> Tensor:
    """Rows (N, C) sorted by their first value, each channel on a scale of its own."""
    x = torch.randn(count, channels, generator=torch.Generator().manual_seed(0))
    return x[x[:, 0].argsort()] * torch.tensor([10.0, 1.0, 0.1, 3.0]) + torch.tensor([5.0, 0.0, -1.0, 100.0])


def network() -> nn.Sequential:
    """A norm of the input, and one behind a layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 2))


def layer_inputs(model: nn.Module, batches: list[Any], apply: Callable[[nn.Module, Any], Any]) -> dict[str, Tensor]:
    """All rows that each norm sees in training mode, dropout off, by torch alone."""
    model = copy.deepcopy(model).train()
    seen: dict[str, list[Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(lambda m, x, name=name: seen.setdefault(name, []).append(x[0].double()))
    with torch.no_grad():
        for batch in batches:
            apply(model, batch)
    return {name: torch.cat(parts) for name, parts in seen.items()}


def assert_population(model: nn.Module, rows: dict[str, Tensor], off: bool = False) -> None:
    """Running statistics are those of all rows; `off`: variances are not."""
    for name, x in rows.items():
        layer = model.get_submodule(name)
        close = torch.allclose(layer.running_var.double(), x.var(0, correction=0), rtol=1e-4)
        assert close != off, name
        if not off:
            torch.testing.assert_close(layer.running_mean.double(), x.mean(0), rtol=1e-4, atol=1e-5)


def plainly(model: nn.Module, batch: Any) -> Any:
    """Apply a model to a batch."""
    return model(batch)


@pytest.mark.parametrize("sizes", [16, [40, 40, 14, 2]])
def test_variances_hold_what_differs_between_batches(sizes: Any) -> None:
    """Sorted batches, and batches of uneven sizes. update_bn averages the batches' own variances."""
    batches = list(samples().split(sizes))
    model = network()
    rows = layer_inputs(model, batches, plainly)
    other = copy.deepcopy(model)
    assert recalibrate(model, batches) is model
    assert_population(model, rows)
    update_bn(batches, other)
    assert_population(other, rows, off=True)


def test_a_batch_of_one_counts_by_its_rows() -> None:
    """torch rejects it in training mode."""
    batches = list(samples()[:33].split(16))
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    recalibrate(model, batches)
    torch.testing.assert_close(model[0].running_mean, samples()[:33].mean(0))
    with pytest.raises(ValueError, match="more than 1 value"):
        update_bn(batches, model)


class Reused(nn.Module):
    """One layer that is called on both halves of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves, normalized."""
        return self.norm(x[:, :2]) + self.norm(x[:, 2:])


def test_a_reused_layer_has_one_set_over_its_calls_or_one_per_call() -> None:
    """The mixture holds what differs between the calls; a layer that is never reached stays."""
    batches = list(samples().split(16))
    model = Reused()
    model.unused.running_mean.fill_(7)
    rows = layer_inputs(model, batches, plainly)
    other, each = copy.deepcopy(model), copy.deepcopy(model)
    assert_population(recalibrate(model, batches), rows)
    update_bn(batches, other)
    assert_population(other, rows, off=True)
    assert model.unused.running_mean.tolist() == [7, 7]
    assert other.unused.running_mean.tolist() == [0, 0]  # update_bn resets what it cannot fill
    recalibrate(each, batches, per_call=True)
    assert isinstance(each.norm, PerCall)
    for call, part in enumerate((samples()[:, :2], samples()[:, 2:])):
        torch.testing.assert_close(each.norm[call].running_mean, part.mean(0))
        torch.testing.assert_close(each.norm[call].running_var, part.var(0, correction=0))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_modes_stay(training: bool) -> None:
    """update_bn draws dropout, so that the variance behind it is too large."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).train(training)
    batches = list(samples().split(16))
    rows = layer_inputs(model, batches, plainly)
    other = copy.deepcopy(model)
    assert_population(recalibrate(model, batches), rows)
    assert [module.training for module in model.modules()] == [training] * 3
    update_bn(batches, other)
    assert_population(other, rows, off=True)


def test_any_structure_of_batches() -> None:
    """Dicts, of which update_bn knows nothing; a function of the user's; a generator; a limit."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, image: Tensor) -> Tensor:
            return self.norm(image)

    batches = [{"image": x, "label": torch.zeros(16)} for x in samples().split(16)]
    for loader, more in [
        (batches, {}),
        (iter(batches), {"forward": lambda model, batch: model(batch["image"])}),
        ((x for x in [*batches, *batches]), {"batches": len(batches)}),
    ]:
        model = recalibrate(Named(), loader, **more)
        torch.testing.assert_close(model.norm.running_var, samples().var(0, correction=0))
    with pytest.raises((TypeError, AttributeError)):
        update_bn(batches, Named())


def test_rows_that_do_not_count_are_left_out() -> None:
    """As in `diagnose`."""
    real = torch.arange(96) % 3 > 0
    batches = list(zip(samples().split(16), real.split(16), strict=True))
    model = recalibrate(nn.Sequential(nn.BatchNorm1d(4)), batches, rows=lambda batch, x, call: batch[1])
    torch.testing.assert_close(model[0].running_mean, samples()[real].mean(0))


def test_a_copy_leaves_the_model_as_it_is() -> None:
    """In place by default, also inside wrappers; parameters never change."""
    batches = list(samples().split(16))
    model = network()
    state = copy.deepcopy(model.state_dict())
    new = recalibrate(model, batches, copy=True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not torch.equal(new[0].running_mean, model[0].running_mean)
    average = AveragedModel(model)
    assert recalibrate(average, batches) is average
    torch.testing.assert_close(average.module[0].running_mean, new[0].running_mean)
    compiled = torch.compile(model, backend="eager")
    assert recalibrate(compiled, batches) is compiled
    torch.testing.assert_close(model[3].running_var, new[3].running_var)
    assert all(torch.equal(p, state[name]) for name, p in model.named_parameters())


def test_a_cumulative_average_goes_on_from_the_batches_it_saw() -> None:
    """momentum None: the next batch counts as one more."""
    layer = nn.BatchNorm1d(4, momentum=None)
    recalibrate(nn.Sequential(layer), list(samples().split(16)))
    assert layer.num_batches_tracked == 6
    mean = layer.running_mean.clone()
    layer.train()(samples()[:16])
    torch.testing.assert_close(layer.running_mean, mean + (samples()[:16].mean(0) - mean) / 7)


def test_synchronized_norms_work_in_one_process_on_the_cpu() -> None:
    """Their class stays."""
    batches = list(samples().split(16))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    recalibrate(model, batches)
    assert isinstance(model[0], nn.SyncBatchNorm)
    assert_population(model, layer_inputs(network(), batches, plainly))


def test_nothing_changes_where_it_fails() -> None:
    """One line each."""
    model = network()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="The loader has no batch"):
        recalibrate(model, [])
    with pytest.raises(ValueError, match="The input of 0 is not finite"):
        recalibrate(model, [torch.full((4, 4), float("nan"))])
    with pytest.raises(ValueError, match="no call of the model works"):
        recalibrate(model, [torch.zeros(4, 7)])
    with pytest.raises(ValueError, match="per_call=True replaces layers"):
        recalibrate(AveragedModel(model), [samples()], per_call=True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


RANK = """
import copy, sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from pipeline.normdoctor import recalibrate
from tests.pipeline.normdoctor.test_recalibration import network, samples
rank, kind = int(sys.argv[1]), sys.argv[3]
dist.init_process_group("gloo", f"file://{sys.argv[2]}", rank=rank, world_size=2)
model = network()
whole = list(samples().split(24))  # of all ranks: rank 0 has 16 rows of each, rank 1 has 8, and 24 rows more at the end
mine = [part[:16] if rank == 0 else part[16:] for part in whole]
if kind == "sync":
    expected = recalibrate(copy.deepcopy(model), whole)
    ours = recalibrate(nn.SyncBatchNorm.convert_sync_batchnorm(model), mine)
else:
    mine += [samples()[:24] + 1] if rank == 1 else []
    every = [*(part[:16] for part in whole), *(part[16:] for part in whole), samples()[:24] + 1]
    expected = recalibrate(copy.deepcopy(model), every)
    if kind == "ddp":
        ours = recalibrate(DistributedDataParallel(model), mine).module
    else:
        ours = recalibrate(nn.SyncBatchNorm.convert_sync_batchnorm(model), mine)  # uneven: it ends
        expected[3] = ours[3]
for a, b in zip(expected.buffers(), ours.buffers(), strict=True):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
parts = [torch.zeros(6) for _ in range(2)]
dist.all_gather(parts, ours[3].running_var)
assert torch.equal(*parts)
dist.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "ddp", "uneven sync"])
def test_two_uneven_ranks_have_the_statistics_of_all_rows(kind: str, tmp_path: Path) -> None:
    """SyncBatchNorm: as one process with the whole batches. DDP: as one process with every rank's batches."""
    (tmp_path / "rank.py").write_text(RANK)
    home = str(Path(__file__).parents[3])
    environment = {"PYTHONPATH": home, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    commands = [
        [sys.executable, str(tmp_path / "rank.py"), str(rank), str(tmp_path / "store"), kind] for rank in range(2)
    ]
    ranks = [subprocess.Popen(command, **both, cwd=home) for command in commands]
    for rank in ranks:
        out, errors = rank.communicate(timeout=120)
        assert "equal" in out, errors


class Scaled(nn.BatchNorm1d):
    """A norm whose own forward pass the doctor must examine."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize, and double."""
        return 2 * super().forward(input)


def test_nothing_is_left_on_the_layers_or_on_their_copies() -> None:
    """What was noted of a layer belongs to its present class and buffers."""
    model = Reused()
    model.norm = Scaled(2)
    recalibrate(model, list(samples().split(16)), per_call=True)
    assert len(model.norm) == 2
    assert not any(NOTED in vars(module) for module in model.modules())


def test_the_number_of_channels_is_known_or_asked_for() -> None:
    """A rank may lack a layer's batches: a running mean, or num_features, tells it, and no other tensor does."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm2d(5, affine=False, track_running_stats=False))
    model[0].register_buffer("before", torch.zeros(7))
    assert [len(one) for one in _channels(model).values()] == [4, 5]
    del model[1].num_features
    with pytest.raises(ValueError, match="1 is a BatchNorm2d without running statistics or num_features"):
        _channels(model)
