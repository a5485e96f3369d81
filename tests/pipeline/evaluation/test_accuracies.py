"""accuracies.py: accuracy in a named statistics mode, population statistics, and recalibration of every norm."""

import contextlib
import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.data.clips import Clips
from pipeline.data.order import epoch_batches
from pipeline.evaluation.accuracies import crops, evaluation, predict, predict_crops, probe
from pipeline.evaluation.recalibration import recalibrate
from pipeline.models import ModelConfig, build_model
from pipeline.normdoctor.collector import population, union
from pipeline.normdoctor.evidence import gaps
from pipeline.normdoctor.sites import batch_norms, statistics
from pipeline.normdoctor.sources import batch_statistics, joint, per_call
from pipeline.norms import INPUTS, NORMS, NormConfig, norm_factory
from pipeline.tracking import ledger
from preprocessing.hdf5 import open_file

CPU = torch.device("cpu")
FRAMES, SIZE = 16, 16
BATCH_KINDS = [kind for kind in NORMS if batch_norms(nn.Sequential(norm_factory(NormConfig(kind=kind, groups=1))(2)))]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def clips(data_file: Path) -> Clips:
    """All clips on the CPU."""
    return Clips(open_file(data_file), CPU)


def network(clips: Clips, trained: int = 0, **norm: Any) -> nn.Module:
    """A network with these norm settings, after a few forward passes in training mode; in eval mode."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(), NormConfig(**norm), FRAMES, clips.joints, clips.classes)
    for step in range(trained):
        batch = clips.batch(torch.arange(SIZE) + step * SIZE, FRAMES)
        model.train()(batch.x_NCTVM, batch.present_NMT)
    return model.eval()


def forward(clips: Clips) -> Any:
    """Logits of clips by their index."""

    def apply(model: nn.Module, index_N: Tensor) -> Tensor:
        batch = clips.batch(index_N, FRAMES)
        return model(batch.x_NCTVM, batch.present_NMT)

    return apply


def batches(count: int = 60) -> list[Tensor]:
    """Uneven ones."""
    return list(torch.arange(count).split([13, 7, 25, count - 45]))


def rows_into(model: nn.Module, clips: Clips, name: str) -> Tensor:
    """Everything that reaches one layer, over all calls and batches, (B, C, ...)."""
    seen: list[Tensor] = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].double()))
    with torch.no_grad():
        for index_N in batches():
            forward(clips)(model, index_N)
    handle.remove()
    return torch.cat([x.transpose(0, 1).flatten(1) for x in seen], dim=1)


@pytest.mark.parametrize("persons", ["loop", "fold", "masked", "per_person"])
def test_population_statistics_are_those_of_all_rows_together(clips: Clips, persons: str) -> None:
    """The first layer, which no other norm feeds: the mean over uneven batches, and the whole variance."""
    model = network(clips, persons=persons)
    whole = union(population(forward(clips), model, batches()))
    for name in [name for name in whole if name.startswith("norms.0.")]:
        values = rows_into(model, clips, name)
        torch.testing.assert_close(whole[name].mean_C, values.mean(1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(whole[name].variance_C, values.var(1, correction=0), rtol=1e-9, atol=1e-9)


def test_the_mean_of_batch_variances_is_not_the_population_variance(clips: Clips) -> None:
    """Negative control: forgetting the variance of the means is seen by the tolerance above."""
    model = network(clips, persons="loop")
    table = population(forward(clips), model, batches())
    sites = [table["norms.0.0", call] for call in range(2)]
    without = (sites[0].variance_C + sites[1].variance_C) / 2
    assert ((union(table)["norms.0.0"].variance_C - without) / without).max() > 0.01


@pytest.mark.parametrize(
    ("kind", "persons"), [*((kind, "masked") for kind in (*BATCH_KINDS, "frozen_bn")), ("bn", "loop")]
)
def test_recalibration_writes_what_the_joint_statistics_say(clips: Clips, kind: str, persons: str) -> None:
    """Every kind with batch statistics takes part, input norms too; afterwards running is joint."""
    model = network(clips, 2, kind=kind, persons=persons, input="mvc_masked", freeze_after=99)
    order = epoch_batches(torch.arange(60), clips.label_N, SIZE, seed=0, epoch=0, order="once")
    table = population(forward(clips), model, order)
    expected = predict(model, clips, torch.arange(60), FRAMES, SIZE, joint(table)).logits_NK
    before = copy.deepcopy(model.state_dict())
    stale = predict(model, clips, torch.arange(60), FRAMES, SIZE).logits_NK
    reused = recalibrate(model, clips, torch.arange(60), FRAMES, SIZE)
    assert reused == ([f"norms.{place}.0" for place in range(3)] if persons == "loop" else [])
    running = predict(model, clips, torch.arange(60), FRAMES, SIZE).logits_NK
    torch.testing.assert_close(running, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(running, stale, rtol=1e-3, atol=1e-4)
    written = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    layers = batch_norms(model)
    assert written == {f"{name}.{buffer}" for name in layers for buffer in ("running_mean", "running_var")}
    assert len(layers) == 6


@pytest.mark.parametrize("training", [True, False])
def test_recalibration_leaves_all_else_alone(clips: Clips, training: bool) -> None:
    """Mode, random state, hooks; dropout is off, so twice gives the same."""
    model = network(clips, 1).train(training)
    rng = torch.get_rng_state()
    recalibrate(model, clips, torch.arange(60), FRAMES, SIZE)
    first = copy.deepcopy(model.state_dict())
    recalibrate(model, clips, torch.arange(60), FRAMES, SIZE)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(module.training is training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("norm", [{"kind": "gn"}, {"kind": "frozen_bn"}], ids=str)
def test_there_is_nothing_to_recalibrate_without_batch_statistics(clips: Clips, norm: dict[str, Any]) -> None:
    """Frozen statistics are what training used: they stay."""
    model = network(clips, **norm)
    before = copy.deepcopy(model.state_dict())
    assert recalibrate(model, clips, torch.arange(60), FRAMES, SIZE) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "persons"),
    [*((kind, "masked") for kind in BATCH_KINDS), *(("bn", persons) for persons in ("loop", "fold", "per_person"))],
)
def test_batch_statistics_in_evaluation_are_those_of_training(clips: Clips, kind: str, persons: str) -> None:
    """The same output as in training mode but for dropout, the input norm's included, and no buffer moves."""
    torch.manual_seed(0)
    settings = NormConfig(kind=kind, persons=persons, input="vc")
    model = build_model(ModelConfig(dropout=0), settings, FRAMES, clips.joints, clips.classes).eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad(), statistics(model, batch_statistics):
        by_batch = forward(clips)(model, torch.arange(SIZE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(by_batch, forward(clips)(model.train(), torch.arange(SIZE)), rtol=1e-3, atol=1e-4)


def test_statistics_a_call_fit_the_calls_and_a_joint_set_does_not(clips: Clips) -> None:
    """In the loop: by per-call population each call of the first layer has mean 0 and variance 1; jointly none has."""
    model = network(clips, persons="loop")
    table = population(forward(clips), model, batches())
    for source, fits in ((per_call(table), True), (joint(table), False)):
        means = []
        for call in range(2):
            mean, variance = source(("norms.0.0", call), torch.empty(0))
            own = table["norms.0.0", call]
            means.append(((own.mean_C - mean) / variance.clamp(min=1e-12).sqrt()).abs().max().item())
        assert (max(means) < 1e-9) is fits


@pytest.mark.parametrize(("kind", "same"), [("gn", True), ("frozen_bn", True), ("bn", False), ("bin", False)])
def test_without_batch_statistics_a_is_b(clips: Clips, kind: str, same: bool) -> None:
    """A norm that is one function in training and evaluation has no normalization gap."""
    model = network(clips, kind=kind, persons="loop")
    four = evaluation(model, clips, torch.arange(0, 96, 2), torch.arange(1, 96, 2), FRAMES, SIZE).accuracies
    assert (four["A"] == four["B"] and four["C"] == four["D"]) is same
    assert gaps(four) == {"normalization": four["B"] - four["A"], "generalization": four["B"] - four["D"]}


def test_the_mean_shift_tells_stale_statistics_from_true_ones(clips: Clips) -> None:
    """Initial statistics are far from the clips, recalibrated ones are not; a norm without statistics is absent."""
    train_N, none_N = torch.arange(0, 96, 2), torch.arange(0)
    model = network(clips, kind="bn", persons="fold")
    stale = evaluation(model, clips, train_N, none_N, FRAMES, SIZE).norms
    assert set(stale) == set(batch_norms(model))
    assert max(layer["mean_shift"] for layer in stale.values()) > 0.3
    recalibrate(model, clips, train_N, FRAMES, SIZE)
    fresh = evaluation(model, clips, train_N, none_N, FRAMES, SIZE).norms
    assert max(layer["mean_shift"] for layer in fresh.values()) < 1e-3
    assert evaluation(network(clips, kind="gn"), clips, train_N, none_N, FRAMES, SIZE).norms == {}


def test_the_mean_shift_is_that_of_the_worst_call(clips: Clips) -> None:
    """One set of statistics for two calls, an empty second body among them, fits neither; their mixture fits itself."""
    train_N = torch.arange(0, 96, 2)
    shifts = {}
    for persons in ("loop", "fold"):
        model = network(clips, kind="bn", persons=persons)
        recalibrate(model, clips, train_N, FRAMES, SIZE)
        found = evaluation(model, clips, train_N, train_N[:0], FRAMES, SIZE)
        shifts[persons] = found.norms["norms.2.0"]["mean_shift"]
    assert shifts["loop"] > 0.1 > 1e-3 > shifts["fold"]


def test_crops_are_spread_evenly_from_end_to_end() -> None:
    """Half-way between the shortest training crop and the whole clip."""
    windows = crops(0.5, 4)
    assert windows[0] == (0.0, 0.75)
    assert windows[-1] == (0.25, 1.0)
    assert {round(end - first, 9) for first, end in windows} == {0.75}


def test_the_mean_over_one_whole_window_is_the_clip_itself(clips: Clips) -> None:
    """And over several it is the mean of their probabilities, by hand."""
    model, index_N = network(clips, trained=2, kind="bn"), torch.arange(20)
    with torch.no_grad():
        model.classify.weight.mul_(100)  # type: ignore[union-attr,operator]  # else all probabilities are about equal
    alone = predict(model, clips, index_N, FRAMES, SIZE)
    whole = predict_crops(model, clips, index_N, FRAMES, SIZE, [(0.0, 1.0)])
    torch.testing.assert_close(whole.logits_NK, alone.logits_NK.log_softmax(1))
    each = [predict(model, clips, index_N, FRAMES, SIZE, window=w).logits_NK.softmax(1) for w in crops(0.5, 3)]
    several = predict_crops(model, clips, index_N, FRAMES, SIZE, crops(0.5, 3))
    torch.testing.assert_close(several.logits_NK.exp(), sum(each) / 3)
    assert not torch.allclose(several.logits_NK, whole.logits_NK)


def test_the_probe_is_spread_evenly_and_at_most_two_thousand() -> None:
    """All clips when there are few."""
    assert torch.equal(probe(torch.arange(240)), torch.arange(240))
    for clips in (2001, 3270, 3999, 40_091):
        many = probe(torch.arange(clips))
        assert len(many) == 2000
        assert set(many.diff().tolist()) <= {clips // 2000, clips // 2000 + 1}
        assert clips - int(many[-1]) <= clips // 2000 + 1  # to the end: files are sorted


# As a user gets it: norm.recalibrate.

COMMON = ["--input.frames", "16", "--train.batch-size", "16", "--wandb", "off", "--norm.momentum", "0.001"]


def train(data: Path, out: Path, *more: str) -> dict[str, Tensor]:
    """The model's state after one training command."""
    command = [
        sys.executable,
        "-m",
        "pipeline.train",
        "default",
        "--data",
        str(data),
        "--out",
        str(out),
        *COMMON,
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    saved = checkpoint.load(out)
    assert saved is not None
    return saved[1]["model"]


@pytest.mark.slow
def test_a_run_recalibrates_at_its_end_on_any_number_of_ranks(data_file: Path, tmp_path: Path) -> None:
    """Momentum 0.001 leaves the buffers near their start; `final` replaces them, on two ranks by the same figures."""
    once = ["--train.epochs", "2", "--train.eval-every", "2", "--model.dropout", "0", "--optim.lr", "1e-6"]
    states = {
        "never": train(data_file, tmp_path / "never", *once),
        "one": train(data_file, tmp_path / "one", *once, "--norm.recalibrate", "final"),
        "two": train(data_file, tmp_path / "two", *once, "--norm.recalibrate", "final", "--nproc", "2"),
    }
    for name, weight in states["never"].items():
        if "running" not in name:
            assert torch.equal(weight, states["one"][name]), name
            continue
        torch.testing.assert_close(states["one"][name], states["two"][name], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(weight, states["one"][name], rtol=0.05, atol=1e-3)
    lines = {run: ledger.read(tmp_path / run) for run in states}
    assert [line.get("reused") for line in lines["one"]] == [line.get("reused") for line in lines["two"]] == [None, []]
    assert not any("reused" in line for line in lines["never"])


def test_each_epoch_and_the_names_of_reused_layers_are_in_the_ledger(data_file: Path, tmp_path: Path) -> None:
    """The loop's layers are named: one joint set need not fit them."""
    train(data_file, tmp_path, "--train.epochs", "2", "--norm.recalibrate", "each", "--norm.persons", "loop")
    lines = ledger.read(tmp_path)
    assert [line["reused"] for line in lines] == [["norms.0.0", "norms.1.0", "norms.2.0"]] * 2


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_norm_is_measured(clips: Clips, name: str) -> None:
    """As many layers more as it has sets of statistics, each with rows."""
    model = network(clips, input=name)
    table = population(forward(clips), model, batches())
    sets = 0 if name == "none" else 2 if name.startswith("mvc") else 1
    measured = [moments for (layer, _), moments in table.items() if layer.startswith("input_norm")]
    assert len(measured) == sets
    assert all(moments.count > 0 for moments in measured)


@pytest.mark.parametrize("exact", [True, False])
def test_an_empty_body_does_not_blow_up_rounding(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels of an absent body have almost no variance.

    Per-call statistics counted behind torch's own channels_last kernel (negative control) shift logits by whole units.
    """
    torch.manual_seed(0)
    model = build_model(ModelConfig(dropout=0), NormConfig(persons="loop"), 64, 25, 5).eval()
    model = model.to(memory_format=torch.channels_last)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and name.startswith(("convolutions", "norms")):
            nn.init.uniform_(parameter, *((-1, 1) if name.startswith("convolutions") else (-0.003, 0.003)))
    x_NCTVM, present_NMT = torch.randn(64, 3, 64, 25, 2), torch.ones(64, 2, 64, dtype=torch.bool)
    x_NCTVM[..., 1], present_NMT[:, 1] = 0, False
    if not exact:
        monkeypatch.setattr("pipeline.normdoctor.collector.by_moments_alone", lambda layer: False)
    table = population(lambda net, batch: net(*batch), model, [(x_NCTVM, present_NMT)])
    twin = copy.deepcopy(model).double()
    with torch.no_grad(), statistics(model, per_call(table)):
        ours = model(x_NCTVM, present_NMT)
    with torch.no_grad(), statistics(twin, batch_statistics):
        theirs = twin(x_NCTVM.double(), present_NMT)
    assert bool((ours - theirs).abs().max() < 0.02) is exact


@pytest.mark.parametrize("rests", [True, False])
def test_statistics_reach_the_layers_of_a_compiled_network(
    clips: Clips, rests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code is not compiled anew for another source of statistics: it runs eagerly meanwhile.

    Negative control: without the stance the layers' replaced forward is traced, source and counters included.
    """
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(inputs)
        return graph.forward

    model, index_N = network(clips, trained=3), torch.arange(3 * SIZE)
    expected = predict(model, clips, index_N, FRAMES, SIZE, batch_statistics).logits_NK
    model.compile(backend=backend)
    with torch.no_grad():
        model(*clips.batch(index_N[:SIZE], FRAMES)[:2])
    compiled = len(graphs)
    assert compiled
    if not rests:
        monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: contextlib.nullcontext())
    seen = predict(model, clips, index_N, FRAMES, SIZE, batch_statistics).logits_NK
    assert torch.allclose(seen, expected)
    assert (len(graphs) == compiled) is rests
