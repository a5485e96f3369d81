"""On a GPU the same numbers as on the CPU, and every command; skipped where there is none."""

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pipeline import checkpoint, ensemble, graphs, predict, training
from pipeline.config import Config, from_dict
from pipeline.data import clips
from pipeline.data.augment import AugmentConfig, Draw, augment
from pipeline.evaluation import accuracies
from pipeline.kernels import availability
from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.models.bodies import PERSONS
from pipeline.norms import NORMS, NormConfig, norm_factory
from pipeline.run_folder import Run
from pipeline.tracking import ledger
from preprocessing.hdf5 import open_file

if not torch.cuda.is_available():
    pytest.skip("there is no GPU here", allow_module_level=True)

ROOT = Path(__file__).parents[2]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SEEDED = torch.Generator()
PRESENT_NMT = torch.tensor([[True, True], [True, False], [False, True]])[:, :, None].expand(-1, -1, 16)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Convolutions in float32 and sums in one order, so that two devices, and two runs, can be compared."""
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = True


def after_a_step(layer: torch.nn.Module, x: Tensor, *more: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Output, every gradient and every buffer after forward and backward on the device."""
    layer, x = layer.to(device).double().train(), x.detach().clone().to(device).requires_grad_()
    y = layer(x, *(part.to(device) for part in more))
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=device).view_as(y)).sum().backward()
    found = {"y": y.detach(), "x": x.grad} | {name: p.grad for name, p in layer.named_parameters()}
    return {name: part.cpu() for name, part in (found | dict(layer.named_buffers())).items() if part is not None}


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_computes_what_it_does_on_the_cpu(kind: str) -> None:
    """Output, gradients and running statistics in float64."""
    x = 0.3 + torch.randn(8, 4, 5, 3, generator=SEEDED.manual_seed(0), dtype=torch.float64)
    settings = NormConfig(kind=kind, groups=2, ghost=4)
    cpu, gpu = (after_a_step(norm_factory(settings)(4), x, device=device) for device in (CPU, GPU))
    torch.testing.assert_close(gpu, cpu)


@pytest.mark.parametrize("persons", PERSONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_computes_what_it_does_on_the_cpu(model: str, persons: str) -> None:
    """Logits, gradients and running statistics in float64, absent bodies among the present ones."""
    x = torch.randn(3, 3, 16, 10, 2, generator=SEEDED.manual_seed(0), dtype=torch.float64)
    x = x * PRESENT_NMT.movedim(1, 2)[:, None, :, None, :]
    found = []
    for device in (CPU, GPU):
        torch.manual_seed(0)
        bones = tuple((v // 2, v) for v in range(1, 10))
        network = build_model(ModelConfig(model, 0.0, 0.25), NormConfig(persons=persons), 16, 10, 4, bones)
        found.append(after_a_step(network, x, PRESENT_NMT, device=device))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_a_clip_is_changed_as_on_the_cpu() -> None:
    """The draws to the bit, the coordinates to rounding."""
    settings = AugmentConfig(rotate=0.3, yaw=1.0, scale=0.1, shear=0.1, noise=0.01, joint_drop=0.1, swap=0.5)
    x = torch.randn(3, 3, 16, 10, 2, generator=SEEDED.manual_seed(0))
    draws = [Draw(1, 2, torch.tensor([4, 7, 9], device=device)) for device in (CPU, GPU)]
    cpu, gpu = (augment(settings, draw, x.to(draw.index_N.device), PRESENT_NMT.to(draw.index_N.device), None)
                for draw in draws)  # fmt: skip
    assert torch.equal(draws[1].uniform(3, 5).cpu(), draws[0].uniform(3, 5))
    torch.testing.assert_close(gpu[0].cpu(), cpu[0])
    assert torch.equal(gpu[1].cpu(), cpu[1])


def test_clips_that_do_not_fit_into_the_gpu_are_brought_to_it(data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is that of clips which live there."""
    index_N = torch.tensor([3, 0, 7])
    there = clips.Clips(open_file(data_file), GPU)
    monkeypatch.setattr(clips, "RESIDENT_SHARE", 0.0)
    brought = clips.Clips(open_file(data_file), GPU)
    assert (there.home, brought.home, brought.workers > 0) == (GPU, CPU, True)
    batch = brought.batch(index_N, 16)
    assert batch.x_NCTVM.device == batch.present_NMT.device == batch.label_N.device == GPU
    for mine, theirs in zip(batch, there.batch(index_N, 16), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs.cpu())


def settings(data_file: Path, out: Path, **more: Any) -> dict[str, Any]:
    """A small run."""
    few = {"epochs": 4, "eval_every": 2, "batch_size": 16} | more.pop("train", {})
    return {"data": data_file, "out": out, "wandb": "off", "input": {"frames": 16}, "train": few} | more


def test_a_training_follows_the_one_on_the_cpu(data_file: Path) -> None:
    """Loss of each epoch, without dropout, to a thousandth."""
    config = from_dict(settings(data_file, Path("unused"), model={"dropout": 0.0}, optim={"name": "sgd", "lr": 1e-3}))
    losses = []
    for device in (CPU, GPU):
        clips, splits, state = training.setup(config, device)
        losses.append([record["train"]["loss"] for record in training.fit(config, clips, splits, state)])
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def waits(config: Config) -> int:
    """Count the waits for the device in a training."""
    clips, splits, state = training.setup(config, GPU)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            next(training.fit(config, clips, splits, state))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("augment", [{}, {"crop": 0.5, "yaw": 1.0, "noise": 0.01}])
def test_a_training_waits_for_the_gpu_once_an_epoch_not_once_a_batch(
    augment: dict[str, float], data_file: Path
) -> None:
    """Four times the batches make no more waits; with `masked` they do: which bodies are there decides what is run.

    Captured steps know it before, with one more wait per epoch.
    """
    few, many, masked, captured = (
        waits(from_dict(settings(data_file, Path("unused"), augment=augment, norm={"persons": persons},
                                 train={"batch_size": size, "eval_every": 4, "graphs": switch})))
        for persons, size, switch in (
            ("fold", 16, "off"), ("fold", 4, "off"), ("masked", 4, "off"), ("masked", 4, "auto")
        )
    )  # fmt: skip
    assert few == many < masked
    assert captured < masked


@pytest.mark.parametrize("way", [{}, {"precision": "bf16", "channels_last": True}])
@pytest.mark.parametrize("model", MODELS)
def test_captured_steps_have_the_bits_of_those_that_are_not(model: str, way: dict[str, Any], data_file: Path) -> None:
    """Losses, weights, moments and averages, with dropout, noise, a schedule and a masked norm of the coordinates."""
    found = []
    for switch in ("off", "auto"):
        config = from_dict(
            settings(
                data_file, Path("unused"), model={"name": model, "width": 0.25}, norm={"input": "vc_masked"},
                augment={"crop": 0.5, "noise": 0.01}, optim={"ema": 0.9, "clip_norm": 1.0, "schedule": "cosine"},
                train={"graphs": switch, "batch_size": 8, "deterministic": True} | way,
            )
        )  # fmt: skip
        clips, splits, state = training.setup(config, GPU)
        usage = graphs.Usage()
        losses = [record["train"]["loss"] for record in training.fit(config, clips, splits, state, usage=usage)]
        found.append((losses, copy.deepcopy(state.save())))
    assert usage.reason is None
    assert usage.replayed > 3
    pairs = zip(*map(tree_leaves, found), strict=True)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


BF16 = {"precision": "bf16", "channels_last": True}


@pytest.mark.parametrize(
    ("model", "way"), [(model, way) for model in MODELS for way in ({}, BF16)] + [("cnn", BF16 | {"compile": True})]
)
def test_every_model_learns_in_every_precision(model: str, way: dict[str, Any], data_file: Path) -> None:
    """The loss falls by a tenth at least, and evaluation works."""
    network = {"name": model, "width": 0.25, "dropout": 0.0}
    config = from_dict(
        settings(data_file, Path("unused"), model=network, optim={"lr": 3e-3}, train={"epochs": 8} | way)
    )
    clips, splits, state = training.setup(config, GPU)
    records = list(training.fit(config, clips, splits, state))
    assert records[-1]["train"]["loss"] < 0.9 * records[0]["train"]["loss"]
    assert 0 < records[-1]["accuracies"]["B"] <= 1


def test_kernels_of_our_own_train_as_those_of_torch_do(data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph network's losses in bfloat16, which drift apart; the kernels take what is large, and here everything."""
    network = {"name": "stgcn", "width": 0.25, "dropout": 0.0}
    config = from_dict(settings(data_file, Path("unused"), model=network, optim={"lr": 1e-3}, train=BF16))
    losses = []
    for least in (0, availability.MIN_ELEMENTS):
        monkeypatch.setattr(availability, "MIN_ELEMENTS", least)
        losses.append([record["train"]["loss"] for record in training.fit(config, *training.setup(config, GPU))])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02)
    assert losses[0] == pytest.approx(losses[1], rel=0.15)
    assert losses[0] != losses[1]


def command(*words: object, module: str = "pipeline.train", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of ours."""
    line = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(line, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, one rank of torchrun's: its process group is NCCL's."""
    out = tmp_path_factory.mktemp("gpu") / "run"
    words = ["default", "--data", data_file, "--out", out, "--input.frames", 16, "--train.epochs", 8, "--wandb", "off"]
    words += ["--norm.persons", "loop", "--norm.momentum", "0.01", "--train.batch-size", "16"]
    result = command(
        "--standalone", "--nproc-per-node", 1, "-m", "pipeline.train", *words, module="torch.distributed.run"
    )
    assert result.returncode == 0, result.stderr
    return out


def test_a_rank_of_torchrun_trains_on_the_gpu(run: Path) -> None:
    """The summary names the device."""
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["device"], summary["ranks"]) == ("cuda:0", 1)
    assert summary["train"]["top1"] > 0.5


def test_nccl_adds_and_gathers(tmp_path: Path) -> None:
    """Through the group that `join` makes, past the shortcut for a world of one."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from pipeline import distributed\n"
        "device = distributed.join()\n"
        "assert dist.get_backend() == 'nccl', dist.get_backend()\n"
        "x = torch.arange(5000.0, device=device)\n"
        "assert torch.equal(distributed.gathered(x)[0], x)\n"
        "dist.all_reduce(y := x.clone())\n"
        "assert torch.equal(x, y)\n"
        "distributed.leave()\n"
    )
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    result = command("--standalone", "--nproc-per-node", 1, script, module="torch.distributed.run", **path)
    assert result.returncode == 0, result.stderr


def test_a_run_resumes_where_it_stopped(data_file: Path, tmp_path: Path) -> None:
    """Stopped after two of four epochs: the losses of the other two are those of the undisturbed run."""
    whole, half = (from_dict(settings(data_file, tmp_path / name)) for name in ("whole", "half"))
    clips, splits, state = training.setup(half, GPU)
    epochs = training.fit(half, clips, splits, state)
    next(epochs), next(epochs)
    half.out.mkdir()
    checkpoint.save(half.out, 2, state.save())
    theirs = [record["train"]["loss"] for record in training.fit(whole, *training.setup(whole, GPU))]
    saved = checkpoint.load(half.out)
    assert saved is not None
    clips, splits, state = training.setup(half, GPU)
    state.load(saved[1])
    rest = [record["train"]["loss"] for record in training.fit(half, clips, splits, state, saved[0])]
    assert rest == pytest.approx(theirs[2:], rel=1e-4)


def test_a_deterministic_run_has_the_same_bits_again(data_file: Path, tmp_path: Path) -> None:
    """In processes of their own, as a user starts them."""
    losses = []
    for out in (tmp_path / "one", tmp_path / "other"):
        words = ["default", "--data", data_file, "--out", out, "--input.frames", 16, "--train.epochs", 4]
        result = command(*words, "--train.deterministic", "--wandb", "off")
        assert result.returncode == 0, result.stderr
        losses.append([line["train"]["loss"] for line in ledger.read(out)])
    assert losses[0] == losses[1]


def test_a_run_of_the_gpu_answers_the_same_on_the_cpu(run: Path) -> None:
    """A checkpoint is of no device: logits of both agree."""
    gpu, cpu = (Run(run, device) for device in (GPU, CPU))
    clips, splits, on_gpu, there, on_cpu = gpu.clips, gpu.splits, gpu.network(), cpu.clips, cpu.network()
    gpu, cpu = (
        accuracies.predict(model, clips, splits.test, 16, 8).logits_NK.cpu()
        for model, clips in ((on_gpu, clips), (on_cpu, there))
    )
    torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-3)


def test_the_doctor_finds_the_same_as_on_the_cpu(run: Path) -> None:
    """The question's run, one call per body and slow statistics: the same causes and remedies."""
    found = []
    for seen in ("0", ""):
        words = [run, "--split", "test", "--wandb", "off"]
        result = command(*words, module="pipeline.doctor", CUDA_VISIBLE_DEVICES=seen)
        assert result.returncode == 0, result.stderr
        answer = json.loads((run / "doctor.json").read_text())
        found.append([[entry["check"] for entry in answer[part]] for part in ("causes", "suspicions")])
    assert found[0] == found[1]
    assert found[0] != [[], []]


def test_predict_and_export_work_from_a_gpu_run(run: Path, tmp_path: Path) -> None:
    """The command that exports checks the file against torch, which computes on the GPU."""
    assert predict.load(run).device == GPU
    result = command(run, "--onnx", tmp_path / "run.onnx", module="pipeline.predict")
    assert result.returncode == 0, result.stderr


def test_runs_are_asked_together_on_the_gpu(run: Path) -> None:
    """A run with all the weight equals its summary."""
    result = ensemble.ensemble(ensemble.members([run, run], GPU), [0.0, 1.0])
    assert result["test"]["top1"] == json.loads((run / "summary.json").read_text())["test"]["top1"]
