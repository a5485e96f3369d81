"""Write a trained run as a model to give away: weights, everything that predict needs, and a model card.

    python -m pipeline.share runs/stgcn --out stgcn
    python -m pipeline.predict stgcn CLIP.skeleton
    python -m pipeline.evaluate stgcn --data other.h5

The folder has `model.safetensors` (weights, which run no code when they are read), `model.json` (settings, metadata,
stages and figures; no path of this machine) and `README.md` (the card: data, protocol, figures, limits). Exit codes: 0
ok, 2 wrong settings, 6 damaged file. The only door to safetensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.options import Share, read_options
from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: read_options("pipeline.share"))  # before torch loads

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline import checkpoint, integrity, network
from pipeline.config import Config, as_dict, from_dict
from pipeline.run_folder import Metadata, Run
from preprocessing import exits, files
from preprocessing.provenance import record

WEIGHTS, FACTS, CARD = "model.safetensors", "model.json", "README.md"
FORMAT, UNSIGNED = "skelnorm-model/2", "skelnorm-model/1"
"""Format that is written; that of versions before 0.2, which has no checksum, is read as well."""


def share(run: Run, out: Path) -> None:
    """Write a run as a model folder.

    Args:
        run: A finished run.
        out: The folder.

    Raises:
        ValueError: The run is not finished, or the folder has other files.
    """
    run.require_finished()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty folder: choose another, or delete it.")
    weights = {name: tensor.contiguous().clone() for name, tensor in run.weights.items()}
    content = safetensors.torch.save(weights, metadata={"format": "pt", "by": FORMAT})
    summary = {key: value for key, value in run.summary.items() if key not in ("config", "confusion")}
    start = summary.get("init")
    if start:  # its path has no meaning elsewhere
        summary["init"] = start | {"run": Path(start["run"]).name}
    facts = {
        "format": FORMAT,
        "provenance": record(),
        "name": run.name,
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(content).hexdigest()},
        "config": as_dict(run.config) | {"data": run.config.data.name, "out": run.name, "init": None},
        "metadata": dataclasses.asdict(run.metadata),
        "summary": summary,
    }
    adopted = run.pointer.get("adopted")
    facts |= {"adopted": adopted} if adopted else {}
    files.publish_bytes(out / WEIGHTS, content)
    files.publish_text(out / CARD, card(facts))
    files.publish_json(out / FACTS, integrity.signed(facts))  # last: without it the folder is not a model


def is_model(folder: Path) -> bool:
    """Return whether a folder is a model that `share` wrote."""
    return (folder / FACTS).is_file()


def load(folder: Path, device: torch.device) -> tuple[Config, Metadata, nn.Module, dict[str, Any]]:
    """Return settings, metadata, network (in eval mode) and figures of a model folder.

    Raises:
        IntegrityError: A file is damaged, or weights and settings do not fit.
    """
    facts = _facts(folder)
    if facts["format"] == FORMAT:
        integrity.require_signed(folder / FACTS, facts, integrity.accept(folder))
    path = folder / WEIGHTS
    if not path.is_file() or files.sha256_file(path) != facts["weights"]["sha256"]:
        raise files.IntegrityError(f"{path} is missing or not the file that {FACTS} names. Restore a copy of both.")
    values = facts["config"]
    start = {"train": values["train"] | {"freeze": "none"}}  # of the training alone
    config, metadata = from_dict(values | start), Metadata.from_json(facts["metadata"])
    with torch.random.fork_rng(devices=[]):
        model = network.build(config, metadata, device)
    try:
        model.load_state_dict(safetensors.torch.load_file(path, device=str(device)))
    except RuntimeError as error:
        what = str(error).splitlines()[1].strip()
        raise files.IntegrityError(
            f"{folder}: weights and {FACTS} do not fit ({what}). Restore a copy of both."
        ) from None
    checkpoint.require_valid(model.state_dict(), folder)
    return config, metadata, model.eval(), facts["summary"]


class Start(NamedTuple):
    """A model folder as the start of a training: what `transfer.fill` takes of a run folder."""

    folder: Path
    config: Config
    metadata: Metadata
    weights: dict[str, Tensor]
    pointer: dict[str, Any]


def start(folder: Path) -> Start:
    """Return a model folder as the start of a training. Raises as `load` does."""
    config, metadata, model, _ = load(folder, torch.device("cpu"))
    pointer = {"epoch": config.train.epochs, "sha256": files.sha256_file(folder / WEIGHTS)}
    return Start(folder, config, metadata, model.state_dict(), pointer)


def _facts(folder: Path) -> dict[str, Any]:
    facts = files.read_json(folder / FACTS, "format", "weights", "config", "metadata", "summary")
    if facts["format"] not in (FORMAT, UNSIGNED) or (facts["format"] == UNSIGNED and "checksum" in facts):
        raise files.IntegrityError(
            f"{folder / FACTS} has format {facts['format']!r}: must be {FORMAT}. Share it again."
        )
    return facts


def adopt(folder: Path) -> list[str]:
    """Accept an edited model folder; return the names of the files that had changed (`pipeline.adopt`).

    Raises:
        IntegrityError: The weights are not those of the folder, or do not fit the settings.
    """
    facts = _facts(folder)
    if facts.get("checksum") == integrity.checksum(facts):
        return []
    before = (folder / FACTS).read_bytes()
    files.publish_json(folder / FACTS, integrity.signed(facts | {"format": FORMAT}))
    try:
        load(folder, torch.device("cpu"))
    except BaseException:
        files.publish_bytes(folder / FACTS, before)
        raise
    return [FACTS]


def card(facts: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    config, metadata, summary = facts["config"], facts["metadata"], facts["summary"]
    clips, four, by = summary["clips"], summary["accuracies"], facts["provenance"]
    rows = [
        f"| {split} | {clips[split]} | {_percent(summary[split]['top1'])} | {_percent(summary[split]['mean_class'])} |"
        for split in ("val", "test")
        if summary.get(split)
    ]
    stages = ", ".join(stage["stage"] for stage in metadata["recipe"]["stages"]) or "none"
    names = metadata["class_names"]
    calibration = summary.get("calibration", {})
    typical = metadata.get("typical") or {}
    length = (
        f"98 of 100 training clips have {typical['frames'][0]:.0f} to {typical['frames'][2]:.0f} frames."
        if typical
        else "The lengths of the training clips are not known."
    )
    return f"""# {facts["name"]}

Skeleton-based action recognition: {config["model"]["name"]}, {len(names)} classes,
{len(metadata["joint_names"])} joints of {metadata["channels"]} coordinates, clips resampled to
{config["input"]["frames"]} frames.

    python -m pipeline.predict THIS_FOLDER RECORDING

## Training data

{metadata["dataset"]} (content sha256 {metadata["content_sha256"][:16]}), protocol {summary["protocol"]},
{clips["train"]} training clips, {config["train"]["epochs"]} epochs, seed {config["train"]["seed"]}. Stages: {stages}.
The terms of the data set may restrict the use of this model.

Classes: {", ".join(names)}.

Joints: {", ".join(metadata["joint_names"])}.

## Figures

| split | clips | top-1 | mean class |
|---|---|---|---|
{chr(10).join(rows)}

Accuracies {", ".join(f"{name} {_percent(four[name])}" for name in "ABCD" if name in four)}: training clips by running
(A) and batch statistics (B), evaluation clips by running (C) and batch statistics (D). Temperature
{calibration.get("temperature", 1.0):.2f}, chosen on {calibration.get("clips", 0)} val clips.

## Limits

* It knows these classes alone: any other action gets one of their names, or a low probability.
* Joints are matched by name; recordings must be cleaned by the same stages, which predict does.
* {length} Longer recordings need a timeline (`--window`).
* Accuracy on other people, cameras and sensors is not known: measure it with `python -m pipeline.evaluate`.

Made by skelnorm {by.get("skelnorm", "")} {by.get("commit", "")}.
"""


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def main(arguments: list[str] | None = None) -> int:
    """Entry of `python -m pipeline.share`; returns the exit code."""
    options: Share = read_options("pipeline.share", arguments)
    try:
        share(Run(options.run, torch.device("cpu")), options.out)
    except BaseException as error:
        return exits.report(error)
    print(f"written: {options.out}")
    print(f"next: python -m pipeline.predict {options.out} RECORDING")
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))
