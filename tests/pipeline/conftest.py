"""Finished runs, trained once in this process, for every test that reads a run folder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():  # then our kernels are run by Triton's interpreter; the import of Triton reads this
    os.environ["TRITON_INTERPRET"] = "1"

from pipeline import integrity, train  # noqa: E402
from pipeline.config import from_dict  # noqa: E402
from pipeline.run_folder import Run  # noqa: E402
from preprocessing import files  # noqa: E402

SMALL: dict[str, Any] = {
    "wandb": "off",
    "input": {"frames": 16},
    "train": {"epochs": 6, "eval_every": 3, "batch_size": 8},
}


def trained_run(data: Path, out: Path, **norm: Any) -> Path:
    """A finished run folder of a small network with these norm settings."""
    config = from_dict({"data": data, "out": out, "norm": norm, **SMALL})
    Run.claim(config)
    train.run(config)
    return out


@pytest.fixture(scope="session")
def runs(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `none`, `bn-loop` (the question's momentum) and `bn-masked`."""
    folder = tmp_path_factory.mktemp("runs")
    trained_run(data_file, folder / "none", kind="none", persons="loop")
    trained_run(data_file, folder / "bn-loop", kind="bn", persons="loop", momentum=0.01)
    trained_run(data_file, folder / "bn-masked", kind="bn", persons="masked")
    return folder


def made_unfinished(folder: Path) -> Path:
    """Take the summary from a run folder, as a training does that is to continue."""
    integrity.replace(folder, integrity.SUMMARY, None)
    return folder


def made_old(folder: Path) -> Path:
    """Turn a run folder into one of a version that wrote no checksums."""
    pointer = json.loads((folder / "checkpoint.json").read_text())
    path = folder / "checkpoints" / pointer["file"]
    state = torch.load(path, weights_only=True)
    state.pop("written")
    torch.save(state, path)
    entry = {"file": pointer["file"], "sha256": files.sha256_file(path), "epoch": pointer["epoch"]}
    (folder / "checkpoint.json").write_text(json.dumps(entry))
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    plain = [{key: value for key, value in line.items() if key != "chain"} for line in lines]
    (folder / "ledger.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in plain))
    return folder


def exporter() -> Any:
    """Return onnx, or skip with the name of the missing package."""
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the optional extra onnx is not installed")
    return pytest.importorskip("onnx")
