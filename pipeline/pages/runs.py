"""Values of the page over several runs: what normalization did, why, and what fixes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pages import TERMS, render
from pipeline.pages.classes import class_section
from pipeline.pages.figures import move, percent, signed
from pipeline.pages.finished import COUNTS, FinishedRun, apart, patient, without_norm
from pipeline.pages.run_figures import arms_figure, curves_figure, recalibration_figure, waterfall_figure
from pipeline.pages.run_tables import runs_table, settings_table, study_table
from preprocessing.hdf5 import SkeletonFile
from preprocessing.pages import Box, Provenance
from preprocessing.pages.player import file_clip, player_data

SEEDS = (
    "Each run has one seed. Intervals are of the clips alone; skelnorm study measures how far seeds differ: it "
    "trains each arm with several seeds."
)


def headline(runs: list[FinishedRun]) -> str:
    """Return the main result in one sentence."""
    sick, plain = patient(runs), without_norm(runs)
    if sick.normalization_gap < COUNTS:
        return "Normalization costs no accuracy in these runs"
    if plain is None or plain is sick:
        return f"“{sick.name}”: running statistics cost {100 * sick.normalization_gap:.0f} points"
    train = 100 * (sick.train_top1 - plain.train_top1)
    evaluation = 100 * (sick.eval_top1 - plain.eval_top1)
    unseen = f"{sick.eval_split} accuracy {signed(evaluation, 0)} points"
    if sick.eval_split == plain.eval_split and not apart(sick, plain):
        unseen = f"no difference shown on {sick.eval_clips} {sick.eval_split} clips"
    return f"“{sick.name}” against “{plain.name}”: training accuracy {signed(train, 0)} points, {unseen}"


def setting(run: FinishedRun) -> str:
    """Return data, sizes and schedule of a run in one line."""
    config, clips = run.summary["config"], run.summary["clips"]
    return (
        f"{Path(config['data']).name}, {run.summary['protocol']}: {clips['train']} training, {clips['val']} held-out "
        f"and {clips['test']} test clips; network {config['model']['name']}, {config['train']['epochs']} epochs, batch "
        f"{config['train']['batch_size']}, {ranks(run.summary['ranks'])} on {run.summary['device']}, "
        f"seed {config['train']['seed']}"
    )


def ranks(count: int) -> str:
    """Return a number of ranks in words."""
    return f"{count} rank{'' if count == 1 else 's'}"


def answer(runs: list[FinishedRun]) -> list[Box]:
    """Return the three boxes: what happened, why, and what fixes it."""
    sick = patient(runs)
    causes = sick.doctor["causes"] if sick.doctor else []
    return [_what(runs), _why(sick, causes), _fix(runs, sick, causes)]


def _what(runs: list[FinishedRun]) -> Box:
    sick, plain = patient(runs), without_norm(runs)
    words = f"training → {sick.eval_split} accuracy of “{sick.name}”"
    if plain is not None and plain is not sick:
        words += f"; without norm (“{plain.name}”) {move(plain.summary['train']['top1'], plain.eval_top1)}"
        if plain.eval_split != sick.eval_split:
            words += f" on {plain.eval_split}, other clips"
    return Box("What happened", move(sick.summary["train"]["top1"], sick.eval_top1), words, "bad")


def _why(sick: FinishedRun, causes: list[dict[str, Any]]) -> Box:
    words = "lost on the same training clips by running statistics. "
    if causes:
        words += f"Cause: {causes[0]['check']}, {100 * causes[0]['recovered']:.0f} % of it. "
        if causes[0]["check"] == "reuse":
            words += (
                "One layer is called once per body, on real and on mostly absent bodies; evaluation uses one mixture "
                "of statistics for both."
            )
    else:
        words += sick.doctor["verdict"] if sick.doctor else "Run python -m pipeline.doctor to find the cause."
    return Box("Why", f"{100 * sick.normalization_gap:.1f} points", words, "bad")


def _fix(runs: list[FinishedRun], sick: FinishedRun, causes: list[dict[str, Any]]) -> Box:
    figure, words = "", ""
    if causes and sick.doctor:
        statistics = "separate statistics per call" if causes[0]["check"] == "reuse" else "new statistics"
        figure = move(causes[0]["before"], causes[0]["after"])
        words = f"on {sick.doctor['judged']} clips by {statistics}, nothing retrained. "
    best = max(runs, key=lambda run: run.eval_top1)
    low, high = best.eval_interval
    words += (
        f"Most accurate run: “{best.name}” ({best.origin}), {percent(best.eval_top1)} on {best.eval_clips} "
        f"{best.eval_split} clips (95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
    )
    return Box("What fixes it", figure, words, "good")


def best_tracked(file: SkeletonFile) -> int:
    """Return the clip whose bodies' shares of tracked frames have the largest sum, the first of several."""
    frames_N, first_N = file.clips["frames"], file.clips["first_body"]
    seen_R = np.concatenate([[0], np.cumsum(file.present_R)])
    seen_B = seen_R[file.body_start + frames_N[file.body_clip]] - seen_R[file.body_start]
    return int(np.argmax(np.add.reduceat(seen_B / frames_N[file.body_clip], first_N)))


def page(runs: list[FinishedRun], study: Path | None, file: SkeletonFile, provenance: Provenance) -> str:
    """Return the page over runs as text."""
    sick, best = patient(runs), best_tracked(file)
    classes = class_section(runs, file)
    example = player_data(file, [file_clip(file, best)])
    clip = example["clips"][0]
    return render(
        "runs.html",
        provenance,
        kind="report",
        title=headline(runs),
        subtitle=setting(sick),
        boxes=answer(runs),
        arms=arms_figure(runs),
        waterfall=waterfall_figure(sick.name, sick.summary["accuracies"], sick.summary["gap"], sick.eval_split),
        seeds=SEEDS,
        verdicts=[(run.name, run.doctor["verdict"]) for run in runs if run.doctor],
        recalibration=recalibration_figure(sick),
        curves=curves_figure(runs),
        table=runs_table(runs),
        settings=settings_table(runs),
        terms=TERMS,
        classes=classes,
        study=study_table(study) if study else None,
        example=example,
        example_caption=f"{clip['name']}, {clip['action']}, as the network gets it: centred, {clip['frames']} frames",
    )
