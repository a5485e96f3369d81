"""graphs.py: a step that never waits for the device, and whose record gives the same bits; on a CPU."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pipeline import graphs, optim, training
from pipeline.config import Config, from_dict
from pipeline.data.clips import Batch
from pipeline.data.training import training_steps
from pipeline.models import MODELS, build_model
from pipeline.models.bodies import PERSONS, present_places
from pipeline.norms import INPUTS, NORMS, BatchNorm
from pipeline.norms.input import InputBatchNorm, keep_shapes
from pipeline.step import TrainStep

CPU = torch.device("cpu")
aten = torch.ops.aten
# Operations whose result the host needs, or that copy from it: none of them can be captured.
WAITS = {
    aten._local_scalar_dense.default: "a number is read by the host",
    aten.nonzero.default: "the size of a result is read by the host",
    aten.masked_select.default: "the size of a result is read by the host",
    aten._unique2.default: "the size of a result is read by the host",
    aten.lift_fresh.default: "a tensor is made from a number of the host",
}


class WithoutWaits(TorchDispatchMode):
    """Rejects operations for which a GPU would wait for the host, or the host for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            raise AssertionError(f"{func}: {WAITS[func]}")
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            assert not any(x is not None and x.dtype == torch.bool for x in args[1]), f"{func}: a mask as an index"
        return func(*args, **(kwargs or {}))


def settings(**more: Any) -> Config:
    """Settings of a small network."""
    model = {"width": 0.25} | more.pop("model", {})
    values = {"data": "unused", "out": "unused", "input": {"frames": 16}, "model": model} | more
    return from_dict(values | {"train": {"graphs": "auto"} | more.get("train", {})})


def by_torch(model: nn.Module) -> nn.Module:
    """Keep the fused kernels of the CPU out, which are not torch operations: they give way to hooks."""
    for layer in model.modules():
        if isinstance(layer, BatchNorm) and not isinstance(layer, InputBatchNorm):
            layer.register_forward_hook(lambda module, given, y: y)
    return model


def step_of(config: Config, static: bool = True) -> TrainStep:
    """A step of a new network."""
    torch.manual_seed(0)
    bones = tuple((v // 2, v) for v in range(1, 10))
    model = by_torch(build_model(config.model, config.norm, 16, 10, 4, bones)).train()
    state = training.fresh_state(config, model)
    optim.rates_as_tensors(state.optimizer)
    if static:
        keep_shapes(model)
    return TrainStep(config, model, *state, None, CPU)


def batch_of(clips: int = 4) -> tuple[Batch, int]:
    """A batch with an absent body, and the number of those that are present."""
    generator = torch.Generator().manual_seed(0)
    present_NM = torch.ones(clips, 2, dtype=torch.bool)
    present_NM[1, 1] = present_NM[2, 0] = False
    x = torch.randn(clips, 3, 16, 10, 2, generator=generator) * present_NM[:, None, None, None]
    label_N = torch.arange(clips) % 4
    return Batch(x, present_NM[:, :, None].expand(-1, -1, 16), label_N, label_N), int(present_NM.sum())


def work_without_waits(config: Config, bodies_known: bool = True, static: bool = True) -> None:
    """Two steps, the second of which may not wait."""
    take, (batch, bodies) = step_of(config, static), batch_of()
    take([batch], 4)
    with WithoutWaits():
        take.work([batch], 4, bodies if bodies_known else None)


@pytest.mark.parametrize(
    ("model", "persons"),
    [(model, "masked") for model in MODELS]
    + [
        pytest.param(model, persons, marks=pytest.mark.slow)
        for model in MODELS
        for persons in PERSONS
        if persons != "masked"
    ],
)
def test_a_step_never_waits_for_the_device(model: str, persons: str) -> None:
    """Every network and every way to take its bodies; clipping and averages on."""
    settled = {"clip_norm": 1.0, "ema": 0.9, "label_smoothing": 0.1}
    work_without_waits(settings(model={"name": model}, norm={"persons": persons}, optim=settled))


@pytest.mark.parametrize("kind", NORMS)
def test_no_norm_waits_for_the_device(kind: str) -> None:
    """Every kind, in the network of the question."""
    work_without_waits(settings(norm={"kind": kind, "ghost": 2, "input": "vc"}, optim={"name": "sgd"}))


@pytest.mark.parametrize("name", [name for name in INPUTS if name.endswith("masked")])
def test_no_masked_norm_of_coordinates_waits_for_the_device(name: str) -> None:
    """It weights absent frames; a negative control leaves them out."""
    work_without_waits(settings(norm={"input": name}))
    with pytest.raises(AssertionError, match="read by the host"):
        work_without_waits(settings(norm={"input": name}), static=False)


@pytest.mark.parametrize(("norm", "known"), [({"kind": "frozen_bn", "freeze_after": 9}, True), ({}, False)])
def test_what_waits_is_found_and_has_a_reason(norm: dict[str, Any], known: bool) -> None:
    """Negative controls: a norm that `hindrance` names, and bodies that are not counted."""
    config = settings(norm=norm)
    with pytest.raises(AssertionError, match="read by the host"):
        work_without_waits(config, known)
    assert (graphs.hindrance(config, torch.device("cuda"), 1) is not None) == known


def test_places_of_a_known_number_of_bodies_are_those_that_are_found() -> None:
    """In the same order."""
    present_NM = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) < 0.6
    found = present_places(present_NM)
    known = present_places(present_NM, int(present_NM.sum()))
    assert all(torch.equal(a, b) for a, b in zip(found, known, strict=True))


@pytest.mark.parametrize("sample", ["each", "balanced"])
def test_bodies_are_counted_before_a_step(sample: str, data_file: Path) -> None:
    """As many as the batches turn out to have, with crop windows that lose some."""
    augment = {"crop": 0.3, "swap": 0.5, "joint_drop": 0.2, "mirror": 0.0}
    config = settings(data=data_file, augment=augment, train={"batch_size": 7}, input={"frames": 16, "sample": sample})
    clips, splits, _ = training.setup(config, CPU)
    counted, found = [], []
    for step in training_steps(config, clips, splits.train, 2, torch.zeros(()), counted=True):
        counted.append(step.bodies)
        found += [int(batch.present_NMT.any(-1).sum()) for batch in step.micro_batches]
    assert counted == found
    assert len(set(found)) > 1


class Tape(TorchDispatchMode):
    """Records each operation of some work, as a CUDA graph does: what Python computes is not done again.

    Recording a CUDA graph does nothing; here the state is put back.
    """

    def __init__(self, held: Callable[[], list[Tensor]]) -> None:
        super().__init__()
        self.held = held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x, given in zip(args, func._schema.arguments, strict=False):
            if given.alias_info is not None and given.alias_info.is_write:
                self.before += [(one, one.detach().clone()) for one in tree_leaves(x)]
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def run(self, work: graphs.Work) -> None:
        """Do work that is not recorded."""
        work()

    def record(self, work: graphs.Work) -> graphs.Work:
        """Return the recorded operations."""
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        # Batch norms change their buffers without saying so.
        self.before, random = [(x, x.detach().clone()) for x in self.held()], torch.get_rng_state()
        with self:
            work()
        with torch.no_grad():
            for x, old in reversed(self.before):
                x.copy_(old)
        torch.set_rng_state(random)
        calls = self.calls

        def replay() -> None:
            new: dict[int, Any] = {}
            mapped = lambda x: new.get(id(x), x) if isinstance(x, Tensor) else x  # noqa: E731
            with torch.no_grad():
                for func, args, kwargs, result in calls:
                    made = func(*tree_map(mapped, args), **tree_map(mapped, kwargs))
                    new |= {id(a): b for a, b in zip(tree_leaves(result), tree_leaves(made), strict=True)}

        return replay


FULL: dict[str, Any] = {
    "augment": {"crop": 0.5, "yaw": 1.0, "noise": 0.01, "swap": 0.5},
    "optim": {"schedule": "cosine", "ema": 0.9, "clip_norm": 1.0, "label_smoothing": 0.1, "lr": 0.01},
}
SGD: dict[str, Any] = {"optim": {"name": "sgd", "schedule": "cosine"}, "norm": {"kind": "nf"}}
GHOSTS: dict[str, Any] = {"norm": {"kind": "ghost_bn", "ghost": 4, "persons": "loop"}}
OTHERS = [SGD, GHOSTS, {"norm": {"kind": "batch_renorm"}, "train": {"channels_last": True}}]
Made = Callable[[training.State], graphs.Recorder] | None


def trained(data_file: Path, values: dict[str, Any], make: Made) -> tuple[list[Any], dict[str, Any], graphs.Usage]:
    """Losses, state and counts after three epochs, with a recorder or as they are."""
    few = {"epochs": 3, "eval_every": 3, "batch_size": 10, "seed": 1} | values.get("train", {})
    config = settings(data=data_file, **values | {"train": few})
    clips, splits, state = training.setup(config, CPU)
    by_torch(state.model)
    usage = graphs.Usage()
    recorder = None if make is None else make(state)
    records = list(training.fit(config, clips, splits, state, usage=usage, recorder=recorder))
    kept = ("train", "optim", "accuracies")
    return [{key: record.get(key) for key in kept} for record in records], copy.deepcopy(state.save()), usage


def same(mine: Any, theirs: Any) -> bool:
    """Return whether two states are equal to the bit."""
    pairs = zip(tree_leaves(mine), tree_leaves(theirs), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def direct(state: training.State) -> graphs.Recorder:
    """The recorder that calls the step again."""
    return graphs.DirectRecorder()


def tape(state: training.State) -> graphs.Recorder:
    """The recorder that knows operations alone."""
    return Tape(lambda: list(state.model.buffers()))


@pytest.mark.parametrize("make", [direct, tape])
@pytest.mark.parametrize("values", [FULL, *(pytest.param(values, marks=pytest.mark.slow) for values in OTHERS)])
def test_replayed_steps_have_the_bits_of_the_steps_themselves(
    values: dict[str, Any], make: Any, data_file: Path
) -> None:
    """Losses, rates, weights, buffers, moments and averages, with noise, dropout and a schedule."""
    plain, replayed = trained(data_file, values, None), trained(data_file, values, make)
    assert same(replayed[:2], plain[:2])
    assert replayed[2].steps == plain[2].steps > 10
    assert replayed[2].replayed > 3
    assert replayed[2].reason is None
    assert (plain[2].replayed, plain[2].reason) == (0, "the training runs on a CPU")


def test_a_run_with_a_masked_norm_of_coordinates_is_replayed_bit_for_bit(data_file: Path) -> None:
    """Equal to the run on the same device whose steps are not recorded."""
    masked, off = {"norm": {"input": "vc_masked"}}, {"train": {"graphs": "off"}}
    plain, replayed = trained(data_file, masked | off, direct), trained(data_file, masked, tape)
    assert same(replayed[:2], plain[:2])
    assert (plain[2].replayed, plain[2].reason) == (0, "train.graphs is off")
    assert replayed[2].replayed > 3


def test_a_rate_that_is_a_number_is_replayed_as_it_was(data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the tape: it notices what Python alone computes."""
    monkeypatch.setattr(optim, "rates_as_tensors", lambda optimizer: None)
    assert not same(trained(data_file, FULL, tape)[1], trained(data_file, FULL, None)[1])


class Unable(graphs.DirectRecorder):
    """A recorder of a GPU that cannot."""

    def record(self, work: graphs.Work) -> graphs.Work:
        """RuntimeError."""
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def test_steps_that_cannot_be_captured_are_taken_as_they_are(
    data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is printed once; the numbers are those of every other run."""
    plain, fallen = trained(data_file, FULL, None), trained(data_file, FULL, lambda state: Unable())
    assert same(fallen[:2], plain[:2])
    reason = "the step cannot be captured: operation not permitted when stream is capturing"
    assert (fallen[2].replayed, fallen[2].reason) == (0, reason)
    assert capsys.readouterr().err.count(reason) == 1


@pytest.mark.parametrize(
    ("values", "ranks", "reason"),
    [
        ({}, 1, None),
        ({"norm": {"kind": "frozen_bn"}}, 1, None),
        ({"train": {"graphs": "off"}}, 1, "train.graphs is off"),
        ({}, 2, "2 ranks exchange"),
        ({"train": {"accumulate": 2}}, 1, "train.accumulate 2"),
        ({"train": {"compile": True}}, 1, "train.compile"),
        ({"norm": {"kind": "frozen_bn", "freeze_after": 5}}, 1, "norm.freeze-after 5"),
    ],
)
def test_a_step_that_cannot_be_captured_has_a_reason(values: dict[str, Any], ranks: int, reason: str | None) -> None:
    """On a GPU; a CPU launches no kernels."""
    found = graphs.hindrance(settings(**values), torch.device("cuda"), ranks)
    assert found is None if reason is None else (found or "").startswith(reason)
    assert graphs.hindrance(settings(), CPU, 1) == "the training runs on a CPU"
