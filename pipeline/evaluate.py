"""Evaluate a trained run on another data file, or on another split of its own.

    python -m pipeline.evaluate runs/stgcn --data other.h5
    python -m pipeline.evaluate runs/stgcn --data ntu120.h5 --protocol xset --split test --html page.html
    python -m pipeline.evaluate runs/stgcn --data mine.h5 --split all --out figures.json

Joints and classes of the file are matched by name, in any order. Clips of classes that the network does not know are
left out. Channels, and stages that change coordinates, must be those of the training data.
A and B are the run's own (training clips, running and batch statistics); C and D are measured on the file. Where D is
far above C, the file's statistics differ from those that the network normalizes by.
The figures are also written as JSON to RUN/evaluations, or to --out. Exit codes: 0 ok, 2 wrong settings or data that do
not fit, 6 damaged file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.options import Evaluate, Split, read_options
from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: read_options("pipeline.evaluate"))  # before torch loads

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from pipeline.data.clips import Clips
from pipeline.evaluation import accuracies
from pipeline.evaluation.accuracies import Prediction
from pipeline.evaluation.calibration import calibration_error, reliability
from pipeline.evaluation.matching import Match, match
from pipeline.evaluation.metrics import confusion, metrics
from pipeline.normdoctor.evidence import gaps
from pipeline.normdoctor.sites import batch_norms
from pipeline.normdoctor.sources import batch_statistics
from pipeline.pages import evaluation as pages
from pipeline.predictor import Network, Predictor, load
from pipeline.run_folder import CONFIG, Run
from preprocessing import exits, files
from preprocessing.hdf5 import SkeletonFile, end_on_bus_error, open_file, skipped
from preprocessing.pages import Provenance

FOLDER = "evaluations"
SHIFT = 0.05  # D - C, a fraction, from which the difference is reported


def evaluate(
    predictor: Predictor, file: SkeletonFile, protocol: str = "", split: Split = "test", test_clips: int = 1
) -> dict[str, Any]:
    """Return the figures of a trained network on a data file.

    Args:
        predictor: A trained network, loaded by `pipeline.load`.
        file: The data file.
        protocol: Split protocol; empty: the run's, if the file has it, else the file's default.
        split: Part of the protocol, or all.
        test_clips: Crop windows per clip; more than one add the figures `several_clips`.

    Raises:
        ValueError: The file does not fit the network, the split has no clips that it knows, or the network was not
            trained on crop windows.
    """
    network = str(predictor.source)
    if len(predictor.networks) > 1:
        raise ValueError(f"{network} combines {len(predictor.networks)} runs: name one run folder to evaluate.")
    found = match(file, predictor.metadata, network)
    protocol = protocol or _protocol(predictor, file)
    index_N = _clips(found, protocol, split)
    one, clips = predictor.networks[0], Clips(found.file, predictor.device)
    several = _several(one, clips, index_N, test_clips)
    sources = [None, batch_statistics] if batch_norms(one.model) else [None]
    size = one.config.train.batch_size
    seen = accuracies.predict_each(one.model, clips, index_N, one.config.input.frames, size, sources)
    own = {name: value for name, value in predictor.accuracies.items() if name in "AB"}
    four = own | {"C": seen[0].top1, "D": seen[-1].top1}
    classes_C = torch.tensor([found.file.class_names.index(name) for name in known_classes(found)])
    return {
        "run": network,
        "data": str(file.path.resolve()),
        "data_sha256": file.content_sha256,
        "protocol": protocol,
        "split": split,
        "clips": len(index_N),
        "left_out": int((~found.known_N[_chosen(found.file, protocol, split)]).sum()),
        "shared_classes": found.shared,
        "class_names": list(found.file.class_names),
        "notes": found.notes,
        "metrics": metrics(seen[0].logits_NK, seen[0].label_N),
        **({"several_clips": several} if several else {}),
        "among_shared": among(seen[0], classes_C.to(seen[0].label_N.device)),
        "accuracies": four,
        "gap": gaps(four) if "B" in four and "A" in four else {},
        "calibration": _calibration(predictor, seen[0]),
        "confusion": confusion(seen[0].logits_NK, seen[0].label_N).tolist(),
    }


def _several(one: Network, clips: Clips, index_N: Tensor, count: int) -> dict[str, Any]:
    """Return the metrics of the mean probabilities over `count` crop windows per clip; empty for one."""
    if count == 1:
        return {}
    shortest = one.config.augment.crop
    if count < 1 or shortest == 1:
        why = "must be at least 1" if count < 1 else "the network was trained without crop windows (augment.crop is 1)"
        raise ValueError(f"--test-clips {count}: {why}. Leave it at 1.")
    windows = accuracies.crops(shortest, count)
    size = one.config.train.batch_size
    voted = accuracies.predict_crops(one.model, clips, index_N, one.config.input.frames, size, windows)
    return {"clips": count, **metrics(voted.logits_NK, voted.label_N)}


def known_classes(found: Match) -> list[str]:
    """Return the network's names of the classes that the file has clips of."""
    labels = np.unique(np.asarray(found.file.clips["label"])[found.known_N])
    return [found.file.class_names[k] for k in labels]


def among(prediction: Prediction, classes_C: Tensor) -> float:
    """Return the top-1 accuracy if only these classes may be chosen."""
    return (classes_C[prediction.logits_NK[:, classes_C].argmax(1)] == prediction.label_N).double().mean().item()


def _protocol(predictor: Predictor, file: SkeletonFile) -> str:
    own = predictor.networks[0].config.input.protocol
    return own if own in file.splits else file.default_protocol


def _chosen(file: SkeletonFile, protocol: str, split: Split) -> np.ndarray:
    if split == "all":
        return np.arange(len(file.clips["label"]))
    if protocol not in file.splits:
        known = ", ".join(sorted(file.splits)) or "none"
        raise ValueError(f"--protocol {protocol!r} is unknown: {file.path} has {known}. Use one of them.")
    return np.asarray(file.splits[protocol].get(split, []), np.int64)


def _clips(found: Match, protocol: str, split: Split) -> Tensor:
    chosen_N = _chosen(found.file, protocol, split)
    index_N = chosen_N[found.known_N[chosen_N]]
    if not len(index_N):
        what = "no clips" if not len(chosen_N) else f"{len(chosen_N)} clips, none of a class that the network knows"
        parts = found.file.splits.get(protocol, {})
        sizes = ", ".join(f"{part} {len(parts[part])}" for part in parts)
        raise ValueError(
            f"--split {split} of {found.file.path} ({protocol}: {sizes}) has {what}. Choose another, or --split all."
        )
    return torch.from_numpy(index_N)


def _calibration(predictor: Predictor, seen: Prediction) -> dict[str, Any]:
    plain, calibrated = ((seen.logits_NK.double() / t).softmax(1) for t in (1.0, predictor.temperature))
    return {
        "temperature": predictor.temperature,
        "clips": predictor.calibration.get("clips", 0),
        "ece": calibration_error(plain, seen.label_N),
        "ece_calibrated": calibration_error(calibrated, seen.label_N),
        "bins": reliability(calibrated, seen.label_N),
    }


def trained_on(run: Run, file: SkeletonFile, protocol: str, split: Split) -> str:
    """Return a warning if clips of the split are training clips of the run; empty if none is, or it is not known."""
    try:
        data = Run(run.folder, fast_start=True).data
        fitted = run.splits.fit(run.config.input.fit).numpy()
    except (ValueError, OSError):
        return ""  # its data file is gone: nothing names its training clips
    if data.dataset != file.dataset:
        return ""
    both = np.intersect1d(data.clips["name"][fitted], file.clips["name"][_chosen(file, protocol, split)])
    return f"{len(both)} of these clips are training clips of {run.folder}." if len(both) else ""


def describe(result: dict[str, Any]) -> list[str]:
    """Return the figures as lines of text."""
    four, scores, calibration = result["accuracies"], result["metrics"], result["calibration"]
    lines = [
        f"{Path(result['data']).name}, {result['protocol']} {result['split']}: {result['clips']} clips of "
        f"{len(result['shared_classes'])} of the network's {len(result['class_names'])} classes",
        f"top-1 {100 * scores['top1']:.1f} %  top-5 {100 * scores['top5']:.1f} %  "
        f"mean class {100 * scores['mean_class']:.1f} %",
        "  ".join(f"{name} {100 * four[name]:.1f}" for name in "ABCD" if name in four) + " %",
    ]
    if several := result.get("several_clips"):
        lines.insert(2, f"with {several['clips']} crop windows per clip: top-1 {100 * several['top1']:.1f} %")
    if 1 < len(result["shared_classes"]) < len(result["class_names"]):
        lines[1] += f"  (among the file's classes only: {100 * result['among_shared']:.1f} %)"
    if result["gap"]:
        gap = result["gap"]
        lines[-1] += (
            f": normalization gap {100 * gap['normalization']:+.1f}, generalization "
            f"{100 * gap['generalization']:+.1f} points"
        )
    if four["D"] - four["C"] >= SHIFT:
        lines.append(
            f"Statistics of the file's own batches recover {100 * (four['D'] - four['C']):.1f} points: the running "
            "statistics belong to other data."
        )
    if calibration["clips"]:
        lines.append(
            f"confidence is off by {100 * calibration['ece_calibrated']:.1f} points (ECE at temperature "
            f"{calibration['temperature']:.2f}; {100 * calibration['ece']:.1f} without it)"
        )
    return lines + [f"note: {note}" for note in result["notes"]]


def main(arguments: list[str] | None = None) -> int:
    """Entry of `python -m pipeline.evaluate`; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options: Evaluate = read_options("pipeline.evaluate", arguments)
    try:
        files.require_suffix("--html", options.html, ".html")
        files.require_suffix("--out", options.out, ".json")
        if not options.data.is_file():
            raise ValueError(
                f"--data {options.data} is not a file: must be an HDF5 file. Build one with python -m "
                f"preprocessing.build SOURCE --out {options.data.with_suffix('.h5')}"
            )
        predictor = load(options.run)
        if options.fast_start:
            print(skipped(options.data), file=sys.stderr)
        file = open_file(options.data, fast_start=options.fast_start)
        end_on_bus_error(file.path)
        result = evaluate(predictor, file, options.protocol, options.split, options.test_clips)
        if (options.run / CONFIG).is_file() and (
            leak := trained_on(Run(options.run), file, result["protocol"], options.split)
        ):
            result["notes"].append(leak)
        out = options.out or _default_out(options, result)
        files.publish_json(out, result)
        if options.html is not None:
            page = pages.page(result, Provenance.of("pipeline.evaluate", arguments))
            files.publish_text(options.html, page)
    except BaseException as error:
        return exits.report(error)
    console = Console(emoji=False, highlight=False)
    for line in describe(result):
        console.print(escape(line), soft_wrap=True)
    for path in filter(None, (out, options.html)):
        print(f"written: {path}")
    return 0


def _default_out(options: Evaluate, result: dict[str, Any]) -> Path:
    folder = options.run if options.run.is_dir() else options.run.parent
    return folder / FOLDER / f"{options.data.stem}-{result['protocol']}-{result['split']}.json"


if __name__ == "__main__":
    sys.exit(startup.run(main))
