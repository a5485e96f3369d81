"""predict.py: recordings in, class names out, by the recipe and the weights of the run, without its data file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import adopt, ensemble, predict, train
from pipeline.config import from_dict
from pipeline.evaluation import accuracies
from pipeline.run_folder import METADATA, Run
from preprocessing.hdf5 import open_file
from preprocessing.skeleton import SkeletonError, parse
from preprocessing.sources.tracks import array_tracks
from tests.pipeline.conftest import SMALL, exporter, made_old, made_unfinished


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic NTU recordings."""
    folder = tmp_path_factory.mktemp("predict") / "raw"
    result = subprocess.run(
        [sys.executable, "-m", "preprocessing.synthetic", str(folder), "--clips", "96"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def ntu_file(recordings: Path) -> Path:
    """Their data file, turned to face the camera: a recipe that is not the default."""
    out = recordings.parent / "clips.h5"
    command = [sys.executable, "-m", "preprocessing.build", str(recordings), "--out", str(out)]
    result = subprocess.run([*command, "--add", "yaw", "--allow-rejects"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def ntu_run(ntu_file: Path) -> Path:
    """A run on them; its data file is gone afterwards."""
    values: dict[str, Any] = {"data": ntu_file, "out": ntu_file.parent / "run", **SMALL}
    values |= {"model": {"name": "hcn", "width": 0.25}, "train": SMALL["train"] | {"self_test": False, "epochs": 2}}
    config = from_dict(values)
    Run.claim(config)
    train.run(config)
    return config.out


def paths(recordings: Path, ntu_file: Path) -> list[Path]:
    """The recordings that became clips, in the data file's order."""
    return [recordings / f"{name}.skeleton" for name in open_file(ntu_file).clips["name"]]


def test_a_recording_is_answered_as_the_evaluation_of_its_clip(recordings: Path, ntu_file: Path, ntu_run: Path) -> None:
    """From raw text to the same logits as from the data file: recipe, resampling and weights are those of the run."""
    run = Run(ntu_run, torch.device("cpu"))
    config, clips, model = run.config, run.clips, run.network()
    chosen = paths(recordings, ntu_file)[:12]
    predictor = predict.load(ntu_run)
    logits = accuracies.predict(model, clips, torch.arange(12), config.input.frames, 8).logits_NK
    predictor.temperature = 2.0  # the run's own, hardly trained, would make everything equally likely
    expected = (logits.double() / 2.0).log_softmax(1)

    def ensemble() -> torch.Tensor:
        return predictor.probabilities([predictor.clean(path) for path in chosen]).log()

    torch.testing.assert_close(ensemble(), expected, rtol=0, atol=1e-4)
    other = [stage for stage in predictor.stages if stage.name != "yaw"]
    predictor.stages = tuple(other)  # negative control: another recipe, other probabilities
    assert (ensemble() - expected).abs().max() > 1e-3


def test_the_answer_has_the_likeliest_classes_first(recordings: Path, ntu_file: Path, ntu_run: Path) -> None:
    """Five, with the file's class names; bytes, a path and a parsed clip get the same answer."""
    predictor, path = predict.load(ntu_run), paths(recordings, ntu_file)[0]
    answer = predictor(path)
    assert len(answer.classes) == 5
    assert set(answer.classes) <= set(open_file(ntu_file).class_names)
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
    assert sum(answer.probabilities) <= 1 + 1e-9
    assert predictor(path.read_bytes()) == predictor(parse(path.read_bytes(), "x")) == predictor(str(path)) == answer


def test_the_data_file_is_not_needed(recordings: Path, ntu_file: Path, ntu_run: Path, tmp_path: Path) -> None:
    """The run folder alone, moved elsewhere."""
    path = paths(recordings, ntu_file)[0]
    moved = tmp_path / "moved"
    shutil.copytree(ntu_run, moved)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"data": "/nowhere.h5"}))
    assert predict.load(moved)(path) == predict.load(ntu_run)(path)


def test_other_joints_are_refused(runs: Path, recordings: Path, ntu_run: Path) -> None:
    """A .skeleton for a run on ten joints; an array of ten joints for a run on the Kinect's."""
    path = next(recordings.glob("*.skeleton"))
    with pytest.raises(
        ValueError, match=r"was trained on other joints: 10 \(joint0, .*a .skeleton has the Kinect's 25"
    ):
        predict.load(runs / "bn-masked")(path)
    with pytest.raises(ValueError, match=r"has 10 joints; .* was trained on 25"):
        predict.load(ntu_run)(np.ones((20, 10, 3), np.float32))


def test_an_array_of_the_runs_own_joints_is_answered(runs: Path, data_file: Path) -> None:
    """(T, V, 3) and (T, 1, V, 3), as in an array file; a run whose joints have other names than the Kinect's."""
    predictor = predict.load(runs / "bn-masked")
    file = open_file(data_file)
    start, frames = int(file.body_start[0]), int(file.clips["frames"][0])
    joints = np.asarray(file.joints_RV3[start : start + frames])
    answer = predictor(joints)
    assert set(answer.classes) == set(file.class_names)
    assert predictor(joints[:, None]) == answer
    with pytest.raises(ValueError, match=r"must be \(T, V, 3\)"):
        predictor(joints[0])


def test_a_run_says_how_sure_it_may_be(runs: Path) -> None:
    """Temperature from its val clips; ECE on val and test in the summary."""
    summary = json.loads((runs / "bn-masked" / "summary.json").read_text())["calibration"]
    predictor = predict.load(runs / "bn-masked")
    assert predictor.calibrated
    assert predictor.temperature == summary["temperature"]
    assert set(summary) == {"temperature", "clips", "val", "test"}
    assert summary["val"]["ece_calibrated"] <= summary["val"]["ece"] + 0.05


@pytest.fixture
def together(runs: Path, tmp_path: Path) -> Path:
    """Two runs and, beside them, the file that asks both."""
    folders = [tmp_path / name for name in ("none", "bn-masked")]
    for folder in folders:
        shutil.copytree(runs / folder.name, folder)
    assert ensemble.main([*map(str, folders), "--out", str(tmp_path / "together.json")]) == 0
    return tmp_path / "together.json"


def test_several_runs_answer_together(together: Path, tmp_path: Path) -> None:
    """By the weighted mean of their log-probabilities, weights and temperature chosen on val; moved with them, too."""
    ensemble, scores = json.loads(together.read_text()), 0.0
    for weight, name in zip(ensemble["weights"], ("none", "bn-masked"), strict=True):
        run = Run(together.parent / name, torch.device("cpu"))
        config, clips, model = run.config, run.clips, run.network()
        logits = accuracies.predict(model, clips, torch.arange(6), config.input.frames, 8).logits_NK
        scores = scores + weight / sum(ensemble["weights"]) * logits.double().log_softmax(1)
    assert ensemble["weights"][0] != ensemble["weights"][1]
    assert ensemble["calibration"]["temperature"] != 1
    expected = (scores / ensemble["calibration"]["temperature"]).softmax(1)
    moved = tmp_path / "moved"
    shutil.copytree(together.parent, moved)
    file = open_file(config.data)
    arrays = [
        np.asarray(file.joints_RV3[start : start + frames])[:, None]
        for start, frames in zip(file.body_start, file.clips["frames"][file.body_clip], strict=True)
    ]
    alone = [clip for clip in range(6) if int(file.clips["bodies"][clip]) == 1]
    for path in (together, moved / "together.json"):
        predictor = predict.load(path)
        cleaned = [predictor.clean(arrays[int(file.clips["first_body"][clip])]) for clip in alone]
        torch.testing.assert_close(predictor.probabilities(cleaned), expected[alone], rtol=0, atol=1e-4)


def test_two_copies_of_a_run_say_what_it_says(
    recordings: Path, ntu_file: Path, ntu_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, from recordings."""
    shutil.copytree(ntu_run, tmp_path / "copy")
    both, clip = tmp_path / "both.json", str(paths(recordings, ntu_file)[0])
    assert ensemble.main([str(ntu_run), str(tmp_path / "copy"), "--out", str(both)]) == 0
    capsys.readouterr()
    printed = []
    for source in (ntu_run, both):
        assert predict.main([str(source), clip]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_they_become_one_file(together: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An ONNX file, from the command line; networks that see different numbers of frames have none in common."""
    onnx = together.with_suffix(".onnx")
    exporter()
    assert predict.main([str(together), "--onnx", str(onnx)]) == 0
    assert f"written: {onnx}; largest difference of a probability from torch's: " in capsys.readouterr().out
    settings = together.parent / "none" / "config.json"
    config = json.loads(settings.read_text())
    settings.write_text(json.dumps(config | {"input": config["input"] | {"frames": 17}}))
    adopt.adopt(settings.parent)
    assert predict.main([str(together), "--onnx", str(onnx)]) == 2
    assert f"the networks of {together} see 16 and 17 frames" in capsys.readouterr().err


def test_an_ensemble_of_other_weights_than_it_was_made_of_is_refused(
    together: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that learnt on; a run that is gone; a file that is none of ours."""
    folder = together.parent / "none"
    result = json.loads(together.read_text())
    together.write_text(json.dumps(result | {"checkpoints": ["0", *result["checkpoints"][1:]]}))
    assert predict.main([str(together), "x.skeleton"]) == 6
    assert f"{together} was edited: its checksum differs" in capsys.readouterr().err
    ensemble.adopt(together)
    assert predict.main([str(together), "x.skeleton"]) == 6
    assert f"{folder} was trained further, or replaced, after {together} was written" in capsys.readouterr().err
    shutil.rmtree(folder)
    assert predict.main([str(together), "x.skeleton"]) == 2
    assert f"{folder} is not a run folder" in capsys.readouterr().err
    together.write_text("{}")
    assert predict.main([str(together), "x.skeleton"]) == 6
    assert f"{together} is damaged (no folders, checkpoints, weights, calibration in it)" in capsys.readouterr().err


def test_a_run_without_metadata_says_how_to_get_one(runs: Path, tmp_path: Path) -> None:
    """As runs of earlier versions are; and an unknown stage in the recipe is named."""
    old = tmp_path / "old"
    shutil.copytree(runs / "none", old)
    kept = json.loads((made_old(old) / METADATA).read_text())
    (old / METADATA).unlink()
    with pytest.raises(ValueError, match="has no data.json; run its python -m pipeline.train command again"):
        predict.load(old)
    (old / METADATA).write_text(json.dumps(kept | {"recipe": {"name": "x", "stages": [{"stage": "iron"}]}}))
    with pytest.raises(ValueError, match="unknown stage 'iron'; known: "):
        predict.load(old)


def test_the_command_answers_and_a_damaged_recording_costs_only_itself(
    recordings: Path, ntu_file: Path, ntu_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The good one is answered, the bad one named with its line; exit 2."""
    good, bad = paths(recordings, ntu_file)[0], tmp_path / "S001C001P001R001A001.skeleton"
    bad.write_text("3\n1\n")
    assert predict.main([*map(str, (ntu_run, good, bad)), "--out", str(tmp_path / "answers.json")]) == 2
    printed = capsys.readouterr()
    assert "S001C001P001R001A001:3: truncated" in printed.err
    assert "%" in printed.out
    answers = json.loads((tmp_path / "answers.json").read_text())["answers"]
    assert list(answers) == [str(good)]
    assert answers[str(good)]["probabilities"] == pytest.approx(predict.load(ntu_run)(good).probabilities)


def test_of_more_bodies_than_a_network_sees_those_that_move_most_stay(runs: Path) -> None:
    """Also where the training data came without a rule; parsed clips need one."""
    predictor = predict.load(runs / "bn-masked")
    joints = np.random.default_rng(0).normal(size=(20, 3, 10, 3)).astype(np.float32)
    joints[:, 1] *= 0.1
    answer = predictor(joints)
    assert (answer.bodies, [(one.body, one.rule) for one in answer.decisions]) == (2, [(1, "people-motion")])
    assert answer.probabilities == predictor(joints[:, [0, 2]]).probabilities
    with pytest.raises(SkeletonError, match="clip: body-count: 3 bodies are left and a network sees 2"):
        predictor(array_tracks(joints, None))


def test_an_array_may_have_absent_joints_and_scores(runs: Path) -> None:
    """NaN, zero and score 0 mean the same; another width is rejected."""
    predictor = predict.load(runs / "bn-masked")
    joints = np.random.default_rng(0).normal(size=(20, 10, 3)).astype(np.float32)
    score = np.ones((20, 10, 1), np.float32)
    hole = np.zeros((20, 10), bool)
    hole[3:6, 4] = True
    score[hole] = 0
    scored = predictor(np.concatenate([joints, score], axis=2))
    for value in (0, np.nan):
        joints[hole] = value
        assert predictor(joints).probabilities == pytest.approx(scored.probabilities, abs=1e-6)
    with pytest.raises(ValueError, match=r"An array has shape \(20, 10, 2\): must be \(T, V, 3\) or \(T, M, V, 3\)"):
        predictor(joints[..., :2])


def test_a_run_that_is_not_finished_says_so(
    recordings: Path, ntu_file: Path, ntu_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is answered, by the weights it has."""
    half = tmp_path / "half"
    shutil.copytree(ntu_run, half)
    made_unfinished(half)
    assert predict.main([str(half), str(paths(recordings, ntu_file)[0])]) == 0
    assert f"{half} is not finished, so its probabilities are not calibrated" in capsys.readouterr().out


def test_answers_are_written_although_nobody_reads_on(
    recordings: Path, ntu_file: Path, ntu_run: Path, tmp_path: Path
) -> None:
    """`| head -1` closes the pipe."""
    out = tmp_path / "answers.json"
    command = [sys.executable, "-m", "pipeline.predict", str(ntu_run), str(paths(recordings, ntu_file)[0])]
    with subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None
        asked.stdout.close()
        asked.wait()
    assert json.loads(out.read_text())["answers"]


def test_a_damaged_run_is_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file and what is wrong in it; exit 6."""
    for name in ("config.json", "data.json", "checkpoint.json", "summary.json"):
        for content in ("", "[]", "{}") if name != "summary.json" else ("", "[]"):
            broken = tmp_path / "broken"
            shutil.copytree(runs / "none", broken)
            (broken / name).write_text(content)
            assert predict.main([str(broken), "x.skeleton"]) == 6
            assert f"error: {broken / name} " in capsys.readouterr().err
            shutil.rmtree(broken)


def test_settings_of_another_network_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that do not fit them; exit 6."""
    mixed = tmp_path / "mixed"
    made_old(shutil.copytree(runs / "none", mixed))
    config = json.loads((mixed / "config.json").read_text())
    config["model"]["width"] = 0.5
    (mixed / "config.json").write_text(json.dumps(config))
    assert predict.main([str(mixed), "x.skeleton"]) == 6
    assert "its weights do not fit the network of config.json (size mismatch" in capsys.readouterr().err


def test_a_mistake_gets_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No recordings; no run; a recording where a file to write belongs."""
    for arguments, words in (
        ([runs / "none"], "name recordings"),
        ([tmp_path, "x.skeleton"], "is not a run folder"),
        ([__file__, "x.skeleton"], "is not a run folder"),
        ([runs / "none", "--onnx", "x.skeleton"], "--onnx x.skeleton must end in .onnx"),
        ([runs / "none", "y.skeleton", "--out", "x.skeleton"], "--out x.skeleton must end in .json"),
    ):
        assert predict.main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1


def test_a_recording_without_anybody_is_refused(ntu_run: Path) -> None:
    """Two frames, no body."""
    with pytest.raises(SkeletonError, match="no-body"):
        predict.load(ntu_run)(b"2\n0\n0\n")


def test_real_recordings_are_answered(real_data: Path, ntu_run: Path) -> None:
    """Two people, one person, and a file that breaks off."""
    predictor = predict.load(ntu_run)
    for name, bodies in (("S017C003P020R002A050", 2), ("S001C001P001R001A001", 1)):
        answer = predictor(real_data / "ntu_raw" / f"{name}.skeleton")
        assert answer.bodies == bodies
        assert sum(answer.probabilities) > 0
    with pytest.raises(SkeletonError, match="truncated"):
        predictor(next((real_data / "ntu_raw_damaged").glob("*.skeleton")))
