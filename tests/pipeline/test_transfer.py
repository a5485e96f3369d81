"""transfer.py: weights of another run in a network for other classes and joints."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import network, optim, share, train, training, transfer
from pipeline.config import Config, from_dict
from pipeline.models import MODELS
from pipeline.norms import INPUTS
from pipeline.run_folder import Metadata, Run
from preprocessing.hdf5 import Contents, Spool, open_file, write
from tests.pipeline.conftest import SMALL

CPU = torch.device("cpu")
ORDER = [4, 3, 2, 1, 0, 9, 8, 7, 6, 5]  # joints of the other file
CLASSES = ["swing 3", "swing 0", "dance", "swing 1", "swing 2"]


def other_file(path: Path, data_file: Path, order: list[int] = ORDER) -> Path:
    """The small file with its joints in another order, its classes renumbered, and one class more."""
    file = open_file(data_file)
    with Spool(path.with_suffix(".spool"), len(order)) as spool:
        spool.append(np.asarray(file.joints_RV3)[:, order], np.asarray(file.present_R))
        fields = {field.name: getattr(file, field.name) for field in dataclasses.fields(Contents)}
        bones = [[order.index(a), order.index(b)] for a, b in file.bones if a in order and b in order]
        label = np.array([1, 3, 4, 0])[np.asarray(file.clips["label"])]
        changes: dict[str, Any] = {
            "joint_names": [f"part {v}" for v in order],
            "bones": np.array(bones),
            "class_names": CLASSES,
            "clips": file.clips | {"label": label},
        }
        write(path, Contents(**fields | changes), spool)
    return path


def source_run(folder: Path, data_file: Path, **sections: Any) -> Run:
    """A run of two epochs whose joints have names."""
    named = folder / "named.h5"
    if not named.exists():
        file = open_file(data_file)
        with Spool(folder / "named.spool", 10) as spool:
            spool.append(np.asarray(file.joints_RV3), np.asarray(file.present_R))
            fields = {field.name: getattr(file, field.name) for field in dataclasses.fields(Contents)}
            write(named, Contents(**fields | {"joint_names": [f"Part_{v}" for v in range(10)]}), spool)
    config = settings(named, folder / "source", **sections)
    Run.claim(config)
    train.run(config)
    return Run(config.out, CPU)


def settings(data: Path, out: Path, **sections: Any) -> Config:
    """Settings of a small run."""
    values = {"data": data, "out": out, **SMALL} | {"train": SMALL["train"] | {"epochs": 2, "self_test": False}}
    for name, given in sections.items():
        values[name] = values.get(name, {}) | given if isinstance(given, dict) else given
    return from_dict(values)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("input_norm", ["none", "vc_masked", "mvc"])
def test_layers_name_each_tensor_once(name: str, input_norm: str) -> None:
    """LAYERS of a model cover its state, in order, and the last one has the classes."""
    assert input_norm in INPUTS
    config = from_dict({"data": "x", "out": "y", "model": {"name": name}, "norm": {"input": input_norm}})
    model = network.build(config, transfer._Sized(["a"] * 10, ["b"] * 4, tuple((v, v + 1) for v in range(9))), CPU)
    layers: Any = model.LAYERS
    parts = [part for layer in layers for part in layer]
    assert len(parts) == len(set(parts))
    at = [optim.layer_of(model, key) for key in model.state_dict()]  # raises where none fits
    assert set(at) == set(range(len(layers)))
    assert layers[-1] == ("classify",)


@pytest.mark.parametrize("name", ["stgcn", "ctrgcn", "hcn", "cnn"])
def test_joints_and_classes_are_found_by_name(name: str, data_file: Path, tmp_path: Path) -> None:
    """A trained network, filled into one for shuffled joints and classes, answers each clip as before."""
    width = {"model": {"name": name, "width": 0.25}, "norm": {"input": "vc_masked"}}
    source = source_run(tmp_path, data_file, **width, input={"stream": "joint"})
    config = settings(other_file(tmp_path / "other.h5", data_file), tmp_path / "new", init=str(source.folder), **width)
    clips, _, state = training.setup(config, CPU)
    record = Run(config.out).start
    index_N = torch.arange(12)
    batch, theirs = clips.batch(index_N, 16), source.clips.batch(index_N, 16)
    with torch.no_grad():
        mine = state.model.eval()(batch.x_NCTVM, batch.present_NMT)
        expected = source.network()(theirs.x_NCTVM, theirs.present_NMT)
    known = [1, 3, 4, 0]
    if name == "cnn":  # its convolutions run over the joints as they stand, and its hidden layer by their places
        assert record["new"] == ["hidden.weight"]
        torch.testing.assert_close(state.model.classify.weight[known], source.weights["classify.weight"])
    else:
        torch.testing.assert_close(mine[:, known], expected, atol=1e-5, rtol=1e-4)
        assert record["new"] == []
        assert record["part"]["classify.weight"] == "4 of 5 classes"
    fresh = network.build(config, clips, CPU).classify.weight[2]
    assert not torch.equal(state.model.classify.weight[2], torch.zeros_like(fresh))  # the new class starts anew
    assert record["sha256"] == source.pointer["sha256"]
    assert record["parameters"]["filled"] <= record["parameters"]["all"]


def test_fewer_joints_take_what_they_share(data_file: Path, tmp_path: Path) -> None:
    """Eight of ten joints: rows of the adjacency and of the input norm by name; the convolutions whole."""
    some = {"model": {"name": "stgcn", "width": 0.25}, "norm": {"input": "vc_masked"}}
    source = source_run(tmp_path, data_file, **some)
    order = [7, 6, 5, 4, 3, 2, 1, 0]
    config = settings(
        other_file(tmp_path / "o.h5", data_file, order), tmp_path / "new", init=str(source.folder), **some
    )
    _, _, state = training.setup(config, CPU)
    record, mine = Run(config.out).start, state.model.state_dict()
    key = "input_norm.layers.0.running_mean"
    expected = source.weights[key].reshape(10, 3)[order].flatten()
    torch.testing.assert_close(mine[key], expected)
    assert key in record["taken"]
    assert "blocks.3.spatial.learnt_WP" in record["taken"]
    learnt = source.weights["blocks.3.spatial.learnt_WP"].reshape(10, 10, 3)[order][:, order].flatten(1)
    torch.testing.assert_close(mine["blocks.3.spatial.learnt_WP"], learnt)


def test_a_frozen_trunk_stays_and_the_rest_learns(data_file: Path, tmp_path: Path) -> None:
    """Weights and running statistics; a resumed run freezes the same ones."""
    some: dict[str, Any] = {"model": {"name": "cnn", "width": 0.25}}
    source = source_run(tmp_path, data_file, **some)
    other = other_file(tmp_path / "other.h5", data_file)
    config = settings(other, tmp_path / "new", init=str(source.folder), train={"freeze": "trunk"}, **some)
    Run.claim(config)
    train.run(config)
    after = Run(config.out, CPU).weights
    moved = {key for key, value in after.items() if not torch.equal(value, source.weights.get(key, torch.zeros(0)))}
    assert moved == {"classify.weight", "classify.bias", "hidden.weight"}
    assert Run(config.out).summary["init"]["run"] == str(source.folder)
    _, _, state = training.setup(config, CPU)  # resumes: init.json names what is new
    trained = {name for name, parameter in state.model.named_parameters() if parameter.requires_grad}
    assert trained == moved
    free = settings(other, tmp_path / "free", init=str(source.folder), **some)  # negative control
    Run.claim(free)
    train.run(free)
    assert not torch.equal(Run(free.out, CPU).weights["convolutions.0.weight"], source.weights["convolutions.0.weight"])


def test_what_cannot_start_from_it_is_rejected(data_file: Path, tmp_path: Path) -> None:
    """Another network, another width, no run, no init to freeze."""
    source = source_run(tmp_path, data_file, model={"width": 0.25})
    words = {"init": str(source.folder)}
    with pytest.raises(ValueError, match=r"is a cnn, and model.name is hcn. Choose --model.name cnn"):
        training.setup(settings(data_file, tmp_path / "a", **words, model={"name": "hcn"}), CPU)
    with pytest.raises(ValueError, match=r"Nothing of --init .* fits this network: it has model.width 0.25"):
        training.setup(settings(data_file, tmp_path / "b", **words, model={"width": 0.5}), CPU)
    with pytest.raises(ValueError, match="is not a run folder"):
        training.setup(settings(data_file, tmp_path / "c", init=str(tmp_path)), CPU)
    with pytest.raises(ValueError, match="train.freeze trunk would freeze untrained layers: add --init RUN"):
        settings(data_file, tmp_path / "d", train={"freeze": "trunk"})


def test_a_norm_with_frozen_parameters_is_not_put_to_sleep() -> None:
    """keep_frozen: only modules that have parameters, all of them frozen."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2)).train()
    for parameter in (*model[0].parameters(), *model[1].parameters()):
        parameter.requires_grad_(False)
    transfer.keep_frozen(model)
    assert [module.training for module in model] == [False, False, True, True]


def test_metadata_of_files_with_other_stages_make_a_note(data_file: Path, tmp_path: Path) -> None:
    """Fine-tuning goes on; the difference is recorded."""
    source = source_run(tmp_path, data_file, model={"width": 0.25})
    config = settings(data_file, tmp_path / "new", model={"width": 0.25})
    mine = dataclasses.replace(Metadata.of(open_file(data_file)), recipe={"stages": [{"stage": "centre", "joint": 0}]})
    model = network.build(config, mine, CPU)
    assert transfer.fill(config, model, mine, source)["notes"] == [
        "clips after centre (joint joint0) here, after no stage there"
    ]


def test_a_model_folder_is_a_start_like_its_run(data_file: Path, tmp_path: Path) -> None:
    """The same weights are taken, and recorded with their hash."""
    run = source_run(tmp_path, data_file)
    share.share(run, tmp_path / "model")
    config = settings(tmp_path / "named.h5", tmp_path / "target", init=tmp_path / "model")
    mine = Metadata.of(open_file(tmp_path / "named.h5"))
    models = [network.build(config, mine, CPU) for _ in range(2)]
    records = [
        transfer.fill(config, model, mine, start)
        for model, start in zip(models, (run, share.start(tmp_path / "model")), strict=True)
    ]
    assert records[0]["taken"] == records[1]["taken"] == list(models[0].state_dict())
    assert records[1]["run"] == str(tmp_path / "model")
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name
    Run.claim(config)
    train.run(config)
    assert Run(config.out, CPU).start["sha256"] == records[1]["sha256"]
