"""Combine several runs on the same clips: networks on joints, bones and their motion make different mistakes.

    python -m pipeline.ensemble runs/joint runs/bone
    python -m pipeline.ensemble runs/joint runs/bone runs/joint-motion --weights 1 1 0.5 --out runs/together.json
    python -m pipeline.predict runs/together.json CLIP.skeleton

The scores are weighted sums of log-probabilities. Without --weights they are chosen on the val clips, which no run may
have trained on (input.fit train); where one has, all weigh the same. The test clips take no part in the choice. The
file that is written can be used like a run folder by pipeline.predict.
Exit codes: 0 ok, 2 wrong settings, 6 damaged file.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.options import Ensemble, read_options
from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: read_options("pipeline.ensemble"))  # before torch loads

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from pipeline import distributed, integrity
from pipeline.evaluation import accuracies
from pipeline.evaluation.accuracies import Prediction
from pipeline.evaluation.calibration import calibrate, require_temperature
from pipeline.evaluation.metrics import metrics
from pipeline.run_folder import Run
from preprocessing import exits, files

FORMAT = "skelnorm-ensemble/1"
STEPS = 100
PULL = 1e-3  # towards equal weights, so that they stay finite where the val clips are all right


class Member(NamedTuple):
    """One trained run."""

    run: Run
    model: nn.Module

    def log_probabilities(self, index_N: Tensor) -> Tensor:
        """Return log-probabilities (N, K) of clips."""
        sizes = self.run.config.input.frames, self.run.config.train.batch_size
        return accuracies.predict(self.model, self.run.clips, index_N, *sizes).logits_NK.double().log_softmax(1)


def members(folders: Sequence[Path], device: torch.device) -> list[Member]:
    """Load the runs. ValueError names one that is not finished or has another data file or protocol."""
    if len(folders) < 2:
        raise ValueError("an ensemble needs two runs or more: python -m pipeline.ensemble RUN RUN")
    runs = [Run(folder, device) for folder in folders]
    for run in runs:
        run.require_finished()
    first = runs[0]
    for other in runs[1:]:
        if other.data_sha256 != first.data_sha256:
            raise ValueError(f"{other.folder} was trained on another data file than {first.folder}")
        if other.splits.protocol != first.splits.protocol:
            raise ValueError(
                f"{other.folder} was trained on protocol {other.splits.protocol}, {first.folder} on "
                f"{first.splits.protocol}; their test clips differ"
            )
    return [Member(run, run.network()) for run in runs]


def combine(scores_RNK: Tensor, weight_R: Tensor) -> Tensor:
    """Scores (N, K): weighted sums of the runs' log-probabilities."""
    return torch.einsum("r,rnk->nk", weight_R, scores_RNK)


def shares(weight_R: Tensor) -> Tensor:
    """Weights of sum 1, which make scores as sure as one run's. None is too large: they count as their ratios."""
    ratio_R = weight_R / weight_R.max()
    return ratio_R / ratio_R.sum()


def choose_weights(scores_RNK: Tensor, label_N: Tensor) -> Tensor:
    """Positive weights (R,) under which the labels of these clips are likeliest.

    The likelihood of the normalised sum has one maximum over weights (a multinomial regression), unlike accuracy, which
    is a staircase on few clips.
    """
    logarithm_R = torch.zeros(len(scores_RNK), dtype=scores_RNK.dtype, device=scores_RNK.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm_R], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(combine(scores_RNK, logarithm_R.exp()), label_N)
        value = value + PULL * logarithm_R.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return logarithm_R.detach().exp()


def ensemble(runs: Sequence[Member], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Weight runs and evaluate them, each alone and all together.

    Returns the weights and their origin, accuracies on val and test, and the calibration of the mean (`calibrate`).
    """
    first, label_N = runs[0].run, runs[0].run.clips.label_N
    held_out = all(len(member.run.splits.held_out(member.run.config.input.fit)) for member in runs)
    val_N = first.splits.val if held_out else first.splits.val[:0]
    scores = {
        part: (torch.stack([member.log_probabilities(index_N) for member in runs]), label_N[index_N])
        for part, index_N in (("val", val_N), ("test", first.splits.test))
        if len(index_N)
    }
    if weights is not None:
        if not valid_weights(weights, len(runs)):
            raise ValueError(f"--weights needs {len(runs)} finite numbers, 0 or more and not all 0, one per run")
        weight_R, source = torch.tensor(weights, dtype=torch.float64, device=label_N.device), "given"
    elif held_out:
        weight_R, source = choose_weights(*scores["val"]), "val"
    else:
        weight_R, source = torch.ones(len(runs), dtype=torch.float64, device=label_N.device), "equal: no held-out clips"
    share_R = shares(weight_R)
    predicted = {part: Prediction(combine(scores_RNK, share_R), label) for part, (scores_RNK, label) in scores.items()}
    together = {part: metrics(*prediction) for part, prediction in predicted.items()}
    alone: list[dict[str, Any]] = [
        {"run": str(member.run.folder), "stream": member.run.config.input.stream} for member in runs
    ]
    for part, (scores_RNK, label) in scores.items():
        for entry, scores_NK in zip(alone, scores_RNK, strict=True):
            entry[part] = metrics(scores_NK, label)
    calibration = calibrate(predicted.get("val"), predicted.get("test"))
    return {"weights": weight_R.tolist(), "weights_from": source, "runs": alone, **together, "calibration": calibration}


def show(result: dict[str, Any], console: Console) -> None:
    """Print one line per run and one of all together; top-1 in %."""
    table = Table("run", "stream", "weight", "val", "test")
    for entry, weight in zip(result["runs"], result["weights"], strict=True):
        table.add_row(escape(entry["run"]), entry["stream"], f"{weight:.2f}", *_cells(entry))
    table.add_row("[bold]together[/bold]", "", "", *_cells(result))
    console.print(table)
    console.print(f"weights: {result['weights_from']}")


def publish(result: dict[str, Any], path: Path) -> None:
    """Write the figures and, for `pipeline.predict`, each run's path from that file and checkpoint sha256."""
    folders = [Path(entry["run"]) for entry in result["runs"]]
    where = [os.path.relpath(folder, path.parent) for folder in folders]
    hashes = [Run(folder).pointer["sha256"] for folder in folders]
    about = {"format": FORMAT, "folders": where, "checkpoints": hashes}
    files.publish_json(path, integrity.signed(result | about))


def read(path: Path) -> dict[str, Any]:
    """Return the content of a file that `publish` has written.

    Raises:
        IntegrityError: It was edited, or holds no usable weights or temperature.
    """
    result = files.read_json(path, "folders", "checkpoints", "weights", "calibration")
    if "checksum" in result or result.get("format") is not None:
        integrity.require_signed(path, result, f"Write it again, or accept it: skelnorm adopt {path}")
    _require_usable(path, result)
    return result


def adopt(path: Path) -> list[str]:
    """Accept an edited file; return its name if it had changed (`pipeline.adopt`)."""
    result = files.read_json(path, "folders", "checkpoints", "weights", "calibration")
    _require_usable(path, result)
    if result.get("checksum") == integrity.checksum(result):
        return []
    files.publish_json(path, integrity.signed(result | {"format": FORMAT}))
    return [path.name]


def _require_usable(path: Path, result: dict[str, Any]) -> None:
    weights, folders, hashes = (result[key] for key in ("weights", "folders", "checkpoints"))
    fine = all(isinstance(each, list) for each in (weights, folders, hashes)) and valid_weights(weights, len(folders))
    if not fine or len(folders) < 2 or len(hashes) != len(folders):
        raise files.IntegrityError(
            f"{path} is damaged: weights {weights} must be finite numbers, 0 or more and not all 0, one per run. Write "
            "it again with python -m pipeline.ensemble"
        )
    require_temperature(path, result["calibration"])


def valid_weights(weights: Sequence[Any], runs: int) -> bool:
    """Return whether these are finite numbers, 0 or more and not all 0, one per run."""
    numbers = all(isinstance(weight, int | float) and not isinstance(weight, bool) for weight in weights)
    return numbers and len(weights) == runs and all(0 <= weight < math.inf for weight in weights) and any(weights)


def _cells(entry: dict[str, Any]) -> list[str]:
    return [f"{100 * entry[part]['top1']:.1f}" if part in entry else "" for part in ("val", "test")]


def main(arguments: list[str] | None = None) -> int:
    """Entry of `python -m pipeline.ensemble`; returns the exit code."""
    options: Ensemble = read_options("pipeline.ensemble", arguments)
    try:
        files.require_suffix("--out", options.out, ".json")
        result = ensemble(members(options.runs, distributed.join()), options.weights or None)
        if options.out is not None:
            publish(result, options.out)
    except BaseException as error:
        return exits.report(error)
    show(result, Console())
    if options.out is not None:
        print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))
