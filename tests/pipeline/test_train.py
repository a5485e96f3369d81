"""train.py as a user runs it: commands, folders, kills and resumes, ranks, errors."""

import copy
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import adopt, checkpoint, integrity
from pipeline.config import from_dict, parse
from pipeline.data.augment import Draw
from pipeline.data.order import epoch_batches
from pipeline.data.streams import STREAMS
from pipeline.data.training import training_batch, training_steps
from pipeline.models import MODELS
from pipeline.models.bodies import PERSONS
from pipeline.norms import NORMS
from pipeline.run_folder import Run
from pipeline.tracking import ledger
from pipeline.train import main
from pipeline.training import Best, fit, setup
from preprocessing import files
from tests.conftest import Answer, write_file
from tests.pipeline.conftest import made_old

COMMAND = [sys.executable, "-m", "pipeline.train"]
QUICK = ["--train.epochs", "4", "--train.eval-every", "2", "--train.batch-size", "16", "--input.frames", "16"]


def words_of(data: Path, run: Path, *more: str, wandb: str = "off") -> list[str]:
    """The arguments of the command."""
    return ["default", "--data", str(data), "--out", str(run), "--wandb", wandb, *QUICK, *more]


def train(data: Path, run: Path, *more: str, wandb: str = "off") -> subprocess.CompletedProcess[str]:
    """One training command, to its end."""
    command = [*COMMAND, *words_of(data, run, *more, wandb=wandb)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The model's state in the newest checkpoint."""
    saved = checkpoint.load(run)
    assert saved is not None
    return saved[1]["model"]


@pytest.fixture(scope="module")
def finished(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = train(data_file, run)
    assert result.returncode == 0, result.stderr
    return run


def test_a_run_leaves_the_summary_of_the_contract(finished: Path) -> None:
    """Names and ranges of DESIGN section 9."""
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["accuracies"]) == set("ABCD")
    assert set(summary["gap"]) == {"normalization", "generalization"}
    assert set(summary["test"]) == set(summary["val"]) == {"top1", "top5", "mean_class", "loss"}
    assert summary["gap"]["normalization"] == summary["accuracies"]["B"] - summary["accuracies"]["A"]
    assert summary["accuracies"]["C"] == summary["test"]["top1"]
    assert summary["seconds"] > 0
    assert summary["clips_per_second"] > 0
    assert summary["graphs"] == {"steps": 20, "replayed": 0, "reason": "train.graphs is off"}


def test_the_ledger_has_one_line_an_epoch_and_four_accuracies_at_each_evaluation(finished: Path) -> None:
    """Epochs 2 and 4 were evaluated, on the held-out subjects."""
    lines = ledger.read(finished)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["epoch"] for line in lines if set(line.get("accuracies", {})) == set("ABCD")] == [2, 4]
    assert all(set(line["norm"]["norms.0.0"]) == {"mean_shift"} for line in lines if "accuracies" in line)


def test_a_killed_run_resumes_bitwise(data_file: Path, finished: Path, tmp_path: Path) -> None:
    """SIGKILL after the second epoch; the same command again ends with the undisturbed run's weights."""
    run = tmp_path / "killed"
    command = [*COMMAND, *words_of(data_file, run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / integrity.POINTER).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    entry = json.loads((run / integrity.POINTER).read_text())
    assert entry["epoch"] < 4
    assert train(data_file, run).returncode == 0
    assert [line["epoch"] for line in ledger.read(run)] == [1, 2, 3, 4]
    theirs = weights(finished)
    assert all(torch.equal(mine, theirs[name]) for name, mine in weights(run).items())


def difference_of_two_ranks(data_file: Path, folder: Path, *more: str) -> tuple[float, float]:
    """Largest difference between one and two ranks after one step over all clips: running statistics, gradients.

    Gradients in units of the largest one. Not the weights: Adam divides a gradient by its own size, so where it is
    zero but for rounding (a bias in front of BatchNorm) rounding alone decides the step. Adam's first moment after one
    step is a tenth of the gradient.
    """
    whole = ["--model.dropout", "0", "--train.epochs", "1", "--train.batch-size", "1000", "--train.no-self-test"]
    saved = []
    for ranks in ("1", "2"):
        result = train(data_file, folder / ranks, "--nproc", ranks, *whole, *more)
        assert result.returncode == 0, result.stderr
        saved.append((checkpoint.load(folder / ranks) or (0, {}))[1])
    buffers = [{n: x for n, x in state["model"].items() if "running" in n} for state in saved]
    gradients = [{n: x["exp_avg"] for n, x in state["optimizer"]["state"].items()} for state in saved]

    def worst(one: dict, two: dict) -> float:
        return max((one[name] - two[name]).abs().max().item() for name in one)

    return worst(*buffers), worst(*gradients) / max(x.abs().max().item() for x in gradients[0].values())


@pytest.mark.parametrize("persons", ["loop", "masked"])
def test_two_ranks_train_as_one(data_file: Path, tmp_path: Path, persons: str) -> None:
    """Running statistics and gradients are those of one rank, but for the order of sums."""
    statistics, gradients = difference_of_two_ranks(data_file, tmp_path, "--norm.persons", persons)
    assert statistics < 1e-5
    assert gradients < 1e-4


def test_without_sync_two_ranks_do_not_train_as_one(data_file: Path, tmp_path: Path) -> None:
    """Negative control of the test above."""
    statistics, gradients = difference_of_two_ranks(data_file, tmp_path, "--norm.no-sync")
    assert statistics > 1e-3
    assert gradients > 1e-2


def test_a_changed_checkpoint_is_refused(data_file: Path, finished: Path, tmp_path: Path, answer: Answer) -> None:
    """One flipped bit: exit 6 and the file's name, never a silent wrong number."""
    run = tmp_path / "flipped"
    shutil.copytree(finished, run)
    path = next((run / "checkpoints").glob("*.pt"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = answer(main, *words_of(data_file, run))
    assert result.returncode == 6
    assert "has changed since it was written" in result.stderr


def test_a_changed_data_file_is_refused(data_file: Path, tmp_path: Path, answer: Answer) -> None:
    """One flipped bit in the frames: exit 6."""
    damaged = tmp_path / "damaged.h5"
    content = bytearray(data_file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    result = answer(main, *words_of(damaged, tmp_path / "run"))
    assert result.returncode == 6
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--norm.kind", "batchnorm"], ["--norm.kind", "'batchnorm'", "'none', 'bn', 'sync_bn'"]),
        (["--norm.momentum", "0"], ["norm.momentum", "outside (0, 1]"]),
        (["--norm.persons", "both"], ["--norm.persons", "'both'", "'loop', 'fold', 'masked', 'per_person'"]),
        (["--input.protocol", "xview"], ["no protocol 'xview'", "xsub"]),
        (["--norm.momentm", "0.1"], ["norm.momentum"]),
        (["--train.epochs", "many"], ["epochs"]),
    ],
)
def test_a_users_mistake_gets_words_and_no_traceback(
    data_file: Path, tmp_path: Path, arguments: list[str], words: list[str], answer: Answer
) -> None:
    """Exit 2; the message names the setting and what is allowed."""
    result = answer(main, *words_of(data_file, tmp_path / "run", *arguments))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr + result.stdout for word in words), result.stderr


def test_another_runs_folder_is_not_overwritten(data_file: Path, finished: Path, answer: Answer) -> None:
    """Different settings are rejected, and the different one is named with both values."""
    result = answer(main, *words_of(data_file, finished, "--norm.kind", "gn"))
    assert result.returncode == 2
    assert "other settings (norm.kind bn there, gn here)" in result.stderr


def test_a_run_from_before_a_setting_existed_is_still_its_own(data_file: Path, runs: Path, tmp_path: Path) -> None:
    """Settings that its config.json lacks count as defaults, and it gets its data.json; other values are rejected."""
    run = tmp_path / "old"
    made_old(shutil.copytree(runs / "none", run))
    stored = json.loads((run / "config.json").read_text())
    del stored["input"]["stream"], stored["model"]["width"]
    (run / "config.json").write_text(json.dumps(stored))
    (run / "data.json").unlink()
    values = {key: value for key, value in stored.items() if key != "data_sha256"} | {"out": run}
    Run.claim(from_dict(values))
    assert json.loads((run / "data.json").read_text())["class_names"][0] == "swing 0"
    with pytest.raises(ValueError, match=r"other settings \(input.stream joint there, bone here\)"):
        Run.claim(from_dict(values | {"input": values["input"] | {"stream": "bone"}}))


def test_a_run_is_not_resumed_on_other_data_of_the_same_name(tmp_path: Path, answer: Answer) -> None:
    """The file's content counts, not its path."""
    words = words_of(write_file(tmp_path / "a.h5"), tmp_path / "run")
    Run.claim(parse(words))
    checkpoint.save(tmp_path / "run", 1, {})
    write_file(tmp_path / "a.h5", seed=1)
    result = answer(main, *words)
    assert result.returncode == 2
    assert "other settings (data)" in result.stderr


@pytest.mark.parametrize("registry", [MODELS, NORMS, PERSONS, STREAMS], ids=["models", "norms", "persons", "streams"])
def test_help_names_every_choice(registry: dict[str, object], answer: Answer) -> None:
    """The help lists the allowed values."""
    printed = re.split(r"[^A-Za-z0-9_]+", answer(main, "default", "--help").stdout)
    assert [name for name in registry if name not in printed] == []


def test_settings_that_were_refused_hold_no_folder(data_file: Path, tmp_path: Path, answer: Answer) -> None:
    """The corrected command may have the same --out."""
    run = tmp_path / "run"
    assert answer(main, *words_of(data_file, run, "--input.frames", "4")).returncode == 2
    Run.claim(parse(words_of(data_file, run)))
    assert json.loads((run / "config.json").read_text())["input"]["frames"] == 16


def test_a_run_has_one_owner_at_a_time(data_file: Path, tmp_path: Path, answer: Answer) -> None:
    """Two that write one ledger would each count the other's epochs."""
    run = tmp_path / "run"
    with files.lock(run / "lock"):
        result = answer(main, *words_of(data_file, run))
    assert result.returncode == 2
    assert f"is held by process {os.getpid()}; wait for it to end" in result.stderr
    assert not (run / "ledger.jsonl").exists()


def test_a_file_is_no_run_folder(data_file: Path, tmp_path: Path, answer: Answer) -> None:
    """Named, and left as it is."""
    (tmp_path / "run").write_text("mine")
    result = answer(main, *words_of(data_file, tmp_path / "run"))
    assert result.returncode == 2
    assert "run is a file; a run makes a folder" in result.stderr
    assert (tmp_path / "run").read_text() == "mine"


def test_what_a_kill_left_half_written_is_swept(data_file: Path, tmp_path: Path) -> None:
    """Beside the pointer and beside the checkpoints."""
    left = [tmp_path / "run" / ".checkpoint.json.7.tmp", tmp_path / "run" / "checkpoints" / ".epoch-0001.pt.7.tmp"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    Run.claim(parse(words_of(data_file, tmp_path / "run")))
    assert not any(path.exists() for path in left)


def test_parts_of_test_clips_are_asked_for_only_where_there_are_some(tmp_path: Path) -> None:
    """Without a test split there is no such figure, and the run ends all the same."""
    data = write_file(tmp_path / "a.h5", test_subjects=())
    result = train(data, tmp_path / "run", "--train.test-clips", "3", "--augment.crop", "0.5", "--train.epochs", "1")
    assert result.returncode == 0, result.stderr
    assert "test_3_clips" not in json.loads((tmp_path / "run" / "summary.json").read_text())


def test_a_finished_run_keeps_its_repair_and_does_without_its_ledger(finished: Path, tmp_path: Path) -> None:
    """The same command measures it again."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"fix": {"remedy": "joint"}}))
    (run / "ledger.jsonl").unlink()
    assert adopt.adopt(run) == ["summary.json", "ledger.jsonl"]
    config = json.loads((run / "config.json").read_text())
    words = [*COMMAND, *words_of(Path(config["data"]), run)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    again = json.loads((run / "summary.json").read_text())
    assert again["fix"] == {"remedy": "joint"}
    assert again["test"] == summary["test"]


def test_a_fault_of_the_user_is_told_without_a_traceback_by_two_ranks(data_file: Path, tmp_path: Path) -> None:
    """With one process's exit code."""
    result = train(data_file, tmp_path / "run", "--nproc", "2", "--input.frames", "4")
    assert result.returncode == 2
    assert "it needs 8, got input.frames 4" in result.stderr
    assert result.stderr.count("got input.frames 4") == 1
    assert "Traceback" not in result.stderr


def test_wandb_offline_records_every_epoch(data_file: Path, tmp_path: Path) -> None:
    """Read back from the run's own file, without network; the command is in it, without folders and host."""
    result = train(data_file, tmp_path / "run", "--train.epochs", "2", wandb="offline")
    assert result.returncode == 0, result.stderr
    files = list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1
    content = files[0].read_bytes()
    assert b"accuracies/A" in content
    assert b"python -m pipeline.train" in content
    assert b"--out run" in content
    # As a word: a short name occurs by chance in W&B's random IDs.
    assert not re.search(rb"(?<![\w-])" + re.escape(os.uname().nodename.encode()) + rb"(?![\w-])", content)


EVERYTHING = (
    "--optim.ema", "0.9", "--optim.schedule", "cosine", "--optim.warmup", "1", "--optim.clip-norm", "1",
    "--augment.crop", "0.6", "--augment.rotate", "0.3", "--augment.noise", "0.01", "--augment.swap", "0.5",
    "--train.accumulate", "2", "--train.choose", "best", "--train.eval-every", "1",
)  # fmt: skip


def test_a_run_with_everything_switched_on_resumes_bitwise(data_file: Path, tmp_path: Path) -> None:
    """Averages, schedule, augmentation and the best epoch so far: stopped after two of four epochs and resumed."""
    assert train(data_file, tmp_path / "whole", *EVERYTHING).returncode == 0
    run = tmp_path / "half"
    command = [*COMMAND, *words_of(data_file, run, *EVERYTHING)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / integrity.POINTER).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert json.loads((run / integrity.POINTER).read_text())["epoch"] < 4
    assert train(data_file, run, *EVERYTHING).returncode == 0
    (_, theirs), (_, mine) = (checkpoint.load(tmp_path / name) for name in ("whole", "half"))
    for part in ("model", "average"):
        assert mine[part].keys() == theirs[part].keys()
        assert all(torch.equal(x, theirs[part][name]) for name, x in mine[part].items())
    assert mine["best"]["epoch"] == theirs["best"]["epoch"]
    assert all(torch.equal(x, theirs["best"]["model"][name]) for name, x in mine["best"]["model"].items())


CROPS = ("--augment.crop", "0.5")
PARTS = ("nothing", "weights", "norm buffers", "optimizer", "average", "epoch")


@pytest.mark.parametrize("lost", PARTS)
def test_each_part_of_the_state_is_needed_to_resume_bitwise(data_file: Path, lost: str) -> None:
    """After two of four epochs; a lost part is as at the start of a run. With nothing lost: bitwise the same."""
    config = from_dict(
        {"data": data_file, "out": Path("unused"), "wandb": "off", "input": {"frames": 16}}
        | {"optim": {"ema": 0.9, "schedule": "cosine"}, "augment": {"noise": 0.01, "crop": 0.7}}
        | {"train": {"epochs": 4, "eval_every": 4, "batch_size": 16}}
    )
    cpu = torch.device("cpu")
    clips, splits, state = setup(config, cpu)
    saved = {}
    for record in fit(config, clips, splits, state):
        if record["epoch"] == 2:
            saved = copy.deepcopy(state.save())
    _, _, again = setup(config, cpu)
    fresh = copy.deepcopy(again.save())
    buffers = {name for name, _ in again.model.named_buffers()}
    if lost in ("weights", "norm buffers"):
        saved["model"] |= {n: x for n, x in fresh["model"].items() if (n in buffers) == (lost == "norm buffers")}
    elif lost in fresh:
        saved[lost] = fresh[lost]
    again.load(saved)
    list(fit(config, clips, splits, again, done=1 if lost == "epoch" else 2))
    ours, theirs = again.save(), state.save()
    same = all(torch.equal(x, theirs[part][n]) for part in ("model", "average") for n, x in ours[part].items())
    assert same is (lost == "nothing")


NORMS: dict[str, dict[str, Any]] = {
    "bn": {"kind": "bn", "persons": "masked"},
    "bn per call": {"kind": "bn", "persons": "loop", "momentum": 0.01},
    "no sync": {"kind": "bn", "sync": False},
    "gn": {"kind": "gn"},
    "ln": {"kind": "ln"},
    "none": {"kind": "none"},
}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_a_run_cut_after_any_epoch_resumes_bitwise(data_file: Path, norm: str, workers: int) -> None:
    """Weights, buffers, optimizer and average of each cut at 1 to 5 of 6 epochs; evaluation between or not."""
    config = from_dict(
        {"data": data_file, "out": Path("unused"), "wandb": "off", "input": {"frames": 16}, "norm": NORMS[norm]}
        | {"optim": {"ema": 0.9, "schedule": "cosine"}, "augment": {"noise": 0.01, "crop": 0.7}}
        | {"train": {"epochs": 6, "eval_every": 3 if workers else 1, "batch_size": 16}}
    )

    def new() -> tuple[Any, Any, Any]:
        clips, splits, state = setup(config, torch.device("cpu"))
        clips.workers = workers
        return clips, splits, state

    clips, splits, whole = new()
    saved = [copy.deepcopy(whole.save()) for _ in fit(config, clips, splits, whole)]
    for done in range(1, 6):
        clips, splits, again = new()
        again.load(copy.deepcopy(saved[done - 1]))
        list(fit(config, clips, splits, again, done=done))
        ours, theirs = again.save(), whole.save()
        for part in ("model", "average"):
            assert all(torch.equal(x, theirs[part][name]) for name, x in ours[part].items()), (done, part)
        moments = theirs["optimizer"]["state"]
        for number, values in ours["optimizer"]["state"].items():
            assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(moments[number][k])) for k, x in values.items())


def test_batches_that_threads_make_ahead_train_the_same_network(data_file: Path) -> None:
    """Clips that a GPU cannot hold give bitwise equal weights, with augmentation and two micro-batches per step."""
    config = from_dict(
        {"data": data_file, "out": Path("unused"), "wandb": "off", "input": {"frames": 16}}
        | {"augment": {"noise": 0.01, "crop": 0.7}, "train": {"epochs": 2, "batch_size": 16, "accumulate": 2}}
    )

    def trained(workers: int) -> list[torch.Tensor]:
        clips, splits, state = setup(config, torch.device("cpu"))
        clips.workers = workers
        list(fit(config, clips, splits, state))
        return list(state.model.state_dict().values())

    streamed, resident = trained(workers=3), trained(workers=0)
    assert all(torch.equal(a, b) for a, b in zip(streamed, resident, strict=True))


def test_the_best_epoch_so_far_is_part_of_the_state() -> None:
    """Resumed without it, a run would keep a later and worse epoch."""
    model = torch.nn.Linear(1, 1)
    worse = {"epoch": 3, "accuracies": {"C": 0.5}}
    assert Best(2, 0.9, {}).or_this("best", worse, model).epoch == 2
    assert Best(0, -1.0, {}).or_this("best", worse, model).epoch == 3
    assert Best(2, 0.9, {}).or_this("last", worse, model).epoch == 3


def test_any_number_of_ranks_trains_on_the_same_clips_in_the_same_order(data_file: Path) -> None:
    """1, 2 and 4 ranks put together: the same clips a step, and the same bytes, noise and crops included."""
    config = from_dict({"data": data_file, "out": Path("unused"), "augment": {"noise": 0.01, "crop": 0.5, "yaw": 0.5}})
    clips, splits, _ = setup(config, torch.device("cpu"))
    (part_N, *_) = epoch_batches(splits.train, clips.label_N, 30, seed=0, epoch=3, order="reshuffle")
    whole = training_batch(config, clips, None, Draw(0, 3, part_N))
    for ranks in (2, 4):
        shares = [training_batch(config, clips, None, Draw(0, 3, own_N)) for own_N in part_N.tensor_split(ranks)]
        assert all(torch.equal(torch.cat(own), x) for own, x in zip(zip(*shares, strict=True), whole, strict=True))
    other = training_batch(config, clips, None, Draw(0, 4, part_N))
    assert not torch.equal(other.x_NCTVM, whole.x_NCTVM)  # another epoch has other noise


def test_any_number_of_ranks_trains_on_the_same_balanced_clips(data_file: Path) -> None:
    """1 and 2 ranks, with accumulation: the same steps; a clip that repeats has other noise each time."""
    sections: dict[str, Any] = {"augment": {"noise": 0.01}, "train": {"batch_size": 12, "accumulate": 2}}
    config = from_dict({"data": data_file, "out": Path("unused"), **sections, "input": {"sample": "balanced"}})
    clips, splits, _ = setup(config, torch.device("cpu"))
    rare = clips.label_N[splits.train] == 1
    train_N = torch.cat([splits.train[~rare], splits.train[rare][:2]])

    def batches(rank: int, ranks: int) -> list[Any]:
        steps = training_steps(config, clips, train_N, 1, torch.zeros(()), rank, ranks)
        return [batch for step in steps for batch in step.micro_batches]

    alone, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    for whole, *shares in zip(alone, first, second, strict=True):
        assert torch.equal(torch.cat([one.x_NCTVM for one in shares]), whole.x_NCTVM)
    index_N = torch.cat([batch.index_N for batch in alone])
    x_NCTVM = torch.cat([batch.x_NCTVM for batch in alone])
    assert len(index_N) == len(train_N)
    again = x_NCTVM[index_N == train_N[-1]]
    assert len(again) > 2
    assert len(again.flatten(1).unique(dim=0)) == len(again)


def test_several_clips_at_test_time_are_a_second_labelled_figure(
    data_file: Path, tmp_path: Path, answer: Answer
) -> None:
    """Never in place of the figure of one clip."""
    result = train(
        data_file, tmp_path / "run", "--train.epochs", "2", "--augment.crop", "0.5", "--train.test-clips", "3"
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["test_3_clips"]) == set(summary["test"]) == {"top1", "top5", "mean_class", "loss"}
    assert "(3 clips " in result.stdout
    rejected = answer(main, *words_of(data_file, tmp_path / "other", "--train.test-clips", "10"))
    assert rejected.returncode == 2
    assert "set augment.crop below 1" in rejected.stderr


@pytest.mark.parametrize("asked", [True, False])
def test_torch_is_asked_for_one_order_by_a_run_that_wants_it_alone(
    asked: bool, data_file: Path, tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before cuBLAS starts; a later run in the same process is not bound by it. What it is worth: test_gpu.py."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.use_deterministic_algorithms(not asked)
    try:
        option = "--train.deterministic" if asked else "--train.no-deterministic"
        result = answer(main, *words_of(data_file, tmp_path / "run", "--train.epochs", "1", option))
        assert result.returncode == 0, result.stderr
        assert torch.are_deterministic_algorithms_enabled() == asked
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == asked
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_two_nodes_on_loopback_train_as_one(data_file: Path, tmp_path: Path) -> None:
    """Two torchrun agents of one rank each, as on two machines: gradients and statistics of one process."""
    whole = ["--model.dropout", "0", "--train.epochs", "1", "--train.batch-size", "1000", "--train.no-self-test"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
    command = [*COMMAND[1:], *words_of(data_file, tmp_path / "two", *whole)]
    loopback = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(__file__).parents[2])}
    nodes = [subprocess.Popen([*agent, *command], env=loopback) for _ in range(2)]
    assert [node.wait(timeout=240) for node in nodes] == [0, 0]
    assert train(data_file, tmp_path / "one", *whole).returncode == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((one[n] - two[n]).abs().max().item() for n in one if "running" in n) < 1e-5
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["ranks"] == 2


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_clips(data_file: Path, tmp_path: Path) -> None:
    """Exit 5; the batch's clips stand in nonfinite.json."""
    result = train(data_file, tmp_path / "run", "--norm.kind", "none", "--optim.lr", "1e30")
    assert result.returncode == 5, result.stderr
    assert "the loss is not finite on clips clip" in result.stderr
    named = json.loads((tmp_path / "run" / "nonfinite.json").read_text())["clips"]
    assert 1 <= len(named) <= 16
    assert "Traceback" not in result.stderr


def test_a_run_remembers_its_data_from_wherever_it_is_looked_at(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named relative to one folder, found from another."""
    monkeypatch.chdir(data_file.parent)
    config = parse(["default", "--data", data_file.name, "--out", str(tmp_path / "run")])
    monkeypatch.chdir(tmp_path)
    assert config.data.samefile(data_file)


@pytest.mark.parametrize("model", [pytest.param(m, marks=[pytest.mark.slow] if "gcn" in m else []) for m in MODELS])
def test_a_compiled_training_is_the_training(model: str, data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and all four accuracies are equal; the trunk is compiled once for any number of bodies.

    Without the generation of machine code, which takes minutes on a CPU (on a GPU: test_gpu.py).
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    counted = torch._dynamo.utils.counters
    records = {}
    for compiled in (False, True):
        few = {"epochs": 2, "eval_every": 1, "batch_size": 16, "compile": compiled}
        narrow = {"name": model, "width": 0.25, "dropout": 0.0}
        values = {"data": data_file, "out": "unused", "model": narrow, "input": {"frames": 16}, "train": few}
        config = from_dict(values)
        counted.clear()
        records[compiled] = list(fit(config, *setup(config, torch.device("cpu"))))
    assert counted["stats"]["unique_graphs"] == 1
    assert sum(counted["graph_break"].values()) == 0
    for plain, fast in zip(records[False], records[True], strict=True):
        assert fast["train"]["loss"] == pytest.approx(plain["train"]["loss"], rel=1e-3)
        assert fast["accuracies"] == pytest.approx(plain["accuracies"], abs=0.02)
    assert records[True][-1]["accuracies"]["A"] != records[True][-1]["accuracies"]["B"]


def test_a_run_that_averages_is_judged_by_the_average_before_its_first_evaluation(
    data_file: Path, tmp_path: Path
) -> None:
    """As it will be after it."""
    values = {"data": data_file, "out": tmp_path, "wandb": "off", "optim": {"ema": 0.9}}
    values |= {"input": {"frames": 16}, "train": {"epochs": 2, "eval_every": 2, "batch_size": 16}}
    config = from_dict(values)
    clips, splits, state = setup(config, torch.device("cpu"))
    next(fit(config, clips, splits, state))
    checkpoint.save(tmp_path, 1, state.save() | {"best": Best(0, -1.0, {})._asdict()})
    found = Run(tmp_path).weights
    assert found.keys() == state.eval_model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in state.eval_model.state_dict().items())
    assert any(not torch.equal(found[name], value) for name, value in state.model.state_dict().items())


def test_every_step_is_in_training_mode_and_every_evaluation_is_not(data_file: Path) -> None:
    """After an evaluation too: with dropout or batch statistics off a network would train as another one."""
    values = {"data": data_file, "out": "unused", "input": {"frames": 16}}
    config = from_dict(values | {"train": {"epochs": 2, "eval_every": 1, "batch_size": 32}})
    clips, splits, state = setup(config, torch.device("cpu"))
    modes = []
    state.model.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    list(fit(config, clips, splits, state))
    steps = 2 * -(-len(splits.train) // 32)
    assert modes.count((True, True)) == steps
    assert set(modes) == {(True, True), (False, False)}


def test_two_steps_are_those_by_hand(data_file: Path) -> None:
    """Rate in the middle of the step, the mean loss with label smoothing, accumulation of sums over the whole batch."""
    few = {"epochs": 1, "batch_size": 50, "accumulate": 3, "eval_every": 1}
    values = {"data": data_file, "out": "unused", "input": {"frames": 16}, "train": few, "norm": {"kind": "gn"}}
    values |= {"optim": {"name": "sgd", "lr": 0.1, "schedule": "cosine", "label_smoothing": 0.2}}
    config = from_dict(values | {"model": {"dropout": 0.0, "width": 0.25}})
    clips, splits, state = setup(config, torch.device("cpu"))
    model = copy.deepcopy(state.model)
    (record,) = fit(config, clips, splits, state)
    batches = epoch_batches(splits.train, clips.label_N, 50, 0, 1, "reshuffle")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    losses, right = 0.0, 0
    for step, index_N in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * (step + 0.5) / len(batches)))
        batch = clips.batch(index_N, 16)
        logits = model(batch.x_NCTVM, batch.present_NMT)
        loss = torch.nn.functional.cross_entropy(logits, batch.label_N, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses, right = losses + loss.item() * len(index_N), right + int((logits.argmax(1) == batch.label_N).sum())
    assert len(batches) > 1
    assert record["train"]["loss"] == pytest.approx(losses / len(splits.train), rel=1e-5)
    assert record["train"]["top1"] == pytest.approx(right / len(splits.train))
    for mine, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
