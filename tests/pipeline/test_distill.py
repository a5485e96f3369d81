"""distill.py and who may teach: the loss by hand, a student that is told what labels do not say, teachers refused."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import distill, train
from pipeline.config import from_dict
from pipeline.distill import DistillConfig
from pipeline.evaluate import predict
from pipeline.metrics import metrics
from tests.conftest import write_file
from tests.pipeline.conftest import SMALL

CPU = torch.device("cpu")


def student(data: Path, *runs: Path, **more: Any) -> Any:
    """Settings of a small network that learns from runs."""
    settings = SMALL | {"data": data, "out": "unused", "norm": {"kind": "bn"}} | more
    return from_dict(settings | {"distill": {"runs": [str(run) for run in runs]} | more.get("distill", {})})


def test_the_loss_by_hand() -> None:
    """Two classes, temperature 2: the divergence of (3/4, 1/4) from (1/2, 1/2), times four."""
    logits, said = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[0.5, 0.5]])
    apart = 4 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    labels = torch.tensor(1.5)
    for weight in (0.0, 0.25, 1.0):
        value = distill.loss(DistillConfig(weight=weight, temperature=2.0), logits, said, labels)
        assert value.item() == pytest.approx(weight * apart + (1 - weight) * 1.5, rel=1e-5)


def test_who_says_the_same_has_nothing_to_learn() -> None:
    """No loss and no gradient, at any temperature."""
    logits = torch.randn(5, 4, requires_grad=True)
    for temperature in (0.5, 1.0, 3.0):
        config = DistillConfig(temperature=temperature)
        value = distill.loss(config, logits, (logits.detach() / temperature).softmax(1), torch.zeros(()))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.item() == pytest.approx(0, abs=1e-5)
        assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize(("weight", "learns"), [(1.0, True), (0.0, False)])
def test_a_student_learns_from_its_teacher_what_its_labels_do_not_say(
    data_file: Path, runs: Path, weight: float, learns: bool
) -> None:
    """Training labels are shuffled; the teacher was trained on true ones. Without its answers the student guesses."""
    config = student(data_file, runs / "bn-masked", distill={"weight": weight})
    clips, splits, state = train.setup(config, CPU)
    true = clips.label_N.clone()
    clips.label_N[splits.train] = true[splits.train][torch.randperm(len(splits.train))]
    list(train.fit(config, clips, splits, state))
    top1 = metrics(predict(state.model, clips, splits.test, 16, 8).logits_NK, true[splits.test])["top1"]
    assert (top1 > 0.6) is learns


def test_teachers_are_as_they_were_and_answer_in_the_mean(data_file: Path, runs: Path) -> None:
    """Evaluated, never trained: weights and running statistics bit for bit those of their runs."""
    config = student(data_file, runs / "none", runs / "bn-masked")
    clips, splits, state = train.setup(config, CPU)
    taught_by = train.teachers(config, clips, splits)
    before = [{name: x.clone() for name, x in teacher.state_dict().items()} for teacher in taught_by]
    batch = clips.batch(splits.train[:8], 16)
    alone = [teacher(batch.x_NCTVM, batch.present_NMT).softmax(1) for teacher in taught_by]
    torch.testing.assert_close(distill.answers(taught_by, batch, 1.0), (alone[0] + alone[1]) / 2)
    train.objective(config, state.model(batch.x_NCTVM, batch.present_NMT), batch, taught_by).backward()
    for teacher, was in zip(taught_by, before, strict=True):
        assert all(torch.equal(x, was[name]) for name, x in teacher.state_dict().items())
        assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_that_cannot_judge_these_clips_is_refused(data_file: Path, runs: Path, tmp_path: Path) -> None:
    """By name, with the remedy."""
    other, unfinished = write_file(tmp_path / "other.h5", seed=1), tmp_path / "unfinished"
    shutil.copytree(runs / "none", unfinished)
    (unfinished / "summary.json").unlink()
    both = train_on(data_file, tmp_path / "both", "train+val")
    for config, words in (
        (student(data_file, tmp_path), "is not a run folder"),
        (student(data_file, unfinished), "is not finished"),
        (student(other, runs / "none"), "was trained on another data file"),
        (student(data_file, runs / "none", input={"frames": 8}), "sees 16 frames; set --input.frames 16"),
        (student(data_file, both), "has seen the val clips"),
    ):
        clips, splits, _ = train.setup(config, CPU)
        with pytest.raises(ValueError, match=words):
            train.teachers(config, clips, splits)
    allowed = student(data_file, both, runs / "none", input={"frames": 16, "fit": "train+val"})
    assert len(train.teachers(allowed, *train.setup(allowed, CPU)[:2])) == 2


def train_on(data: Path, out: Path, fit: str) -> Path:
    """A run of one epoch."""
    small = SMALL | {"input": {"frames": 16, "fit": fit}, "train": {"epochs": 1}}
    config = from_dict(small | {"data": data, "out": out})
    train.claim(config)
    train.run(config)
    return out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": 1.5}, "distill.weight 1.5 is outside"),
        ({"temperature": 0.0}, "distill.temperature 0.0 must be above 0"),
        ({"runs": "runs/0"}, "distill.runs 'runs/0' must be a list, each a text"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_dict({"data": "a.h5", "out": "run", "distill": settings})


def test_the_command_learns_on_two_ranks_and_needs_its_teachers_no_more(
    data_file: Path, runs: Path, tmp_path: Path
) -> None:
    """Folders given from where the user stands; the finished student answers without them."""
    shutil.copytree(runs / "bn-masked", tmp_path / "teacher")
    words = ["--data", data_file, "--out", "student", "--distill.runs", "teacher", "--nproc", "2"]
    words += ["--input.frames", "16", "--train.epochs", "2", "--train.batch-size", "8", "--wandb", "off"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.train", "default", *map(str, words)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "student" / "config.json").read_text())
    assert written["distill"]["runs"] == [str((tmp_path / "teacher").resolve())]
    shutil.rmtree(tmp_path / "teacher")
    train.load_run(tmp_path / "student", CPU)
