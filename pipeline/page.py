"""One self-contained page (no network) over several runs: what normalization did, why, and what fixes it.

    python -m pipeline.page runs/none runs/bn-loop runs/bn-masked --study studies/norms --out report.html

A run's doctor.json, when it is there, gives the why. The page reads run folders only; it computes nothing anew.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import plotly.graph_objects as go
import tyro
from plotly.offline import get_plotlyjs

from pipeline import run_folder
from preprocessing import exits, files
from preprocessing.hdf5 import SkeletonFile

LEGEND = (
    "A train clips, running statistics; B the same clips, statistics of their own batch; C evaluation clips, running; "
    "D evaluation clips, batch statistics. Normalization gap B − A, generalization gap B − D. All in %."
)
WORST = 10  # pairs of classes that are shown
PLAYED = 3  # of them with a moving clip of each class
COLOURS = ("#7f8c8d", "#c0392b", "#2471a3", "#1e8449", "#8e44ad", "#d35400")


@dataclass(frozen=True)
class Run:
    """What a run folder says."""

    name: str
    summary: dict[str, Any]
    lines: list[dict[str, Any]]
    doctor: dict[str, Any] | None

    @property
    def norm(self) -> dict[str, Any]:
        """Its norm settings."""
        norm: dict[str, Any] = self.summary["config"]["norm"]
        return norm

    @property
    def eval_top1(self) -> float:
        """Accuracy on unseen clips (fraction)."""
        value: float = self.summary[self.summary["eval"]]["top1"]
        return value


def read_run(folder: Path) -> Run:
    """A finished run. ValueError when it is not one."""
    run = run_folder.Run(folder)
    summary = run.summary
    if "train" not in summary:
        raise ValueError(f"{folder} has lost its ledger.jsonl, whose epochs a page draws; put it back")
    if not summary.get(summary["eval"]):
        raise ValueError(f"{folder} was judged on no clips: its data has neither val nor test, and a page shows them")
    return Run(run.name, summary, run.ledger, run.doctor)


def told_apart(runs: list[Run], folders: Sequence[Path]) -> list[Run]:
    """The runs, by the names of their parents too where two have one name."""
    if len({run.name for run in runs}) == len(runs):
        return runs
    return [
        replace(run, name=f"{folder.resolve().parent.name}/{run.name}")
        for run, folder in zip(runs, folders, strict=True)
    ]


def patient(runs: list[Run]) -> Run:
    """The run with the largest normalization gap: what the page is about."""
    return max(runs, key=lambda run: run.summary["gap"]["normalization"])


def baseline(runs: list[Run]) -> Run | None:
    """The run without norm."""
    return next((run for run in runs if run.norm["kind"] == "none"), None)


def answer(runs: list[Run]) -> str:
    """The three boxes: what happened, why, what fixes it."""
    sick, plain = patient(runs), baseline(runs)
    healthy = max(runs, key=lambda run: run.eval_top1)
    what = f"<b class=figure>{_pct(sick.summary['train']['top1'])} → {_pct(sick.eval_top1)}</b>"
    what += f"training → {sick.summary['eval']} accuracy of <b>{html.escape(sick.name)}</b>"
    if plain is not None and plain is not sick:
        what += f"; without norm {_pct(plain.summary['train']['top1'])} → {_pct(plain.eval_top1)}"
        if plain.summary["eval"] != sick.summary["eval"]:
            what += f" on <b>{plain.summary['eval']}</b>, other clips"
    cause = sick.doctor["causes"][0] if sick.doctor and sick.doctor["causes"] else None
    judged = f"on {sick.doctor['judged']} clips" if sick.doctor else ""
    gap = 100 * sick.summary["gap"]["normalization"]
    why = f"<b class=figure>{gap:.1f} points</b> lost on the <em>same training clips</em> by running statistics. "
    if cause:
        why += f"Cause: <b>{cause['check']}</b>, {100 * cause['recovered']:.0f} % of it. "
    else:
        why += html.escape(sick.doctor["verdict"]) if sick.doctor else "Run python -m pipeline.doctor for the cause."
    if cause and cause["check"] == "reuse":
        why += (
            "One layer is called once a body, on real and on mostly empty bodies; evaluation uses one mixture for both."
        )
    fix = ""
    if cause:
        fix += f"<b class=figure>{_pct(cause['before'])} → {_pct(cause['after'])}</b> {judged} by separate "
        fix += "statistics a call, nothing retrained. " if cause["check"] == "reuse" else "new statistics. "
    fix += f"Best arm trained from the start: <b>{html.escape(healthy.name)}</b>, {_pct(healthy.eval_top1)}."
    return (
        f"<div class=answer><div class=bad><h3>What happened</h3>{what}</div><div class=bad><h3>Why</h3>{why}</div>"
        f"<div class=good><h3>What fixes it</h3>{fix}</div></div>"
    )


def headline(runs: list[Run]) -> str:
    """One sentence a person reads first."""
    sick, plain = patient(runs), baseline(runs)
    if 100 * sick.summary["gap"]["normalization"] < 2:
        return "Normalization costs no accuracy in these runs"
    if plain is None or plain is sick:
        return f"{sick.name}: running statistics cost {100 * sick.summary['gap']['normalization']:.0f} points"
    train = 100 * (sick.summary["train"]["top1"] - plain.summary["train"]["top1"])
    evaluation = 100 * (sick.eval_top1 - plain.eval_top1)
    return f"{sick.name}: training accuracy {train:+.0f} points, evaluation accuracy {evaluation:+.0f} points"


def arms_figure(runs: list[Run]) -> go.Figure:
    """Training and evaluation accuracy of each run."""
    names = [run.name for run in runs]
    pairs = (
        ("training", "#aab7b8", [run.summary["train"]["top1"] for run in runs]),
        (f"{runs[0].summary['eval']} (unseen)", "#2471a3", [run.eval_top1 for run in runs]),
    )
    figure = go.Figure(
        [go.Bar(name=n, x=names, y=hundred(y), marker_color=c, text=[f"{100 * v:.0f}" for v in y]) for n, c, y in pairs]
    )
    return style(figure, "Accuracy by arm (%)").update_layout(barmode="group", yaxis_range=[0, 109])


def waterfall_figure(name: str, four: dict[str, float], gap: dict[str, float]) -> go.Figure:
    """From B to C: what normalization takes, what generalization takes, and what they take or give together."""
    steps = [four["B"], -gap["normalization"], -gap.get("generalization", 0.0)]
    together = four.get("C", four["A"]) - sum(steps)
    labels = [
        "train clips,<br>batch stats (B)",
        "normalization<br>(B − A)",
        "generalization<br>(B − D)",
        "both at once",
    ]
    figure = go.Figure(
        go.Waterfall(
            x=[*labels, "evaluation,<br>running stats (C)"],
            y=hundred([*steps, together, 0.0]),
            measure=["absolute", "relative", "relative", "relative", "total"],
            text=[f"{100 * v:+.1f}" if i else f"{100 * v:.1f}" for i, v in enumerate([*steps, together])]
            + [f"{100 * four.get('C', four['A']):.1f}"],
            decreasing_marker_color="#c0392b",
            increasing_marker_color="#1e8449",
            totals_marker_color="#2471a3",
        )
    )
    return style(figure, f"Where {name} loses accuracy (points)")


def curves_figure(runs: list[Run]) -> go.Figure:
    """Training accuracy (dashed) and accuracy with running statistics on held-out or training clips, by epoch."""
    figure = go.Figure()
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        measured = [line for line in run.lines if "accuracies" in line]
        figure.add_scatter(
            x=[line["epoch"] for line in run.lines],
            y=hundred([line["train"]["top1"] for line in run.lines]),
            line={"dash": "dot", "color": colour},
            name=f"{run.name}, training",
        )
        figure.add_scatter(
            x=[line["epoch"] for line in measured],
            y=hundred([line["accuracies"].get("C", line["accuracies"]["A"]) for line in measured]),
            line={"color": colour},
            name=f"{run.name}, {'held-out subjects' if run.summary['val'] else 'A'}",
        )
    return style(figure, "Accuracy by epoch (%)").update_layout(xaxis_title="epoch", height=420)


def recalibration_figure(run: Run) -> go.Figure:
    """Accuracy of one trained model under different statistics."""
    assert run.doctor is not None
    four, after = run.doctor["accuracies"], run.doctor["recalibration"]
    bars = {"running": four, "joint": after["joint"], "masked": after["masked"], "per call": after["per_call"]}
    figure = go.Figure()
    for key, name, colour in (("A", "train clips", "#aab7b8"), ("C", "evaluation clips", "#2471a3")):
        y = [values.get(key, float("nan")) for values in bars.values()]
        figure.add_bar(name=name, x=list(bars), y=hundred(y), marker_color=colour, text=[f"{100 * v:.0f}" for v in y])
    return style(figure, f"{run.name}, recalibrated, nothing retrained (%)").update_layout(yaxis_range=[0, 109])


def runs_table(runs: list[Run]) -> str:
    """Every figure of every run."""
    head = (
        "<tr><th>run<th>train<th>val<th>test<th>top-5<th>mean class<th>A<th>B<th>C<th>D<th>norm. gap<th>gen. gap</tr>"
    )
    body = ""
    for run in runs:
        s, test = run.summary, run.summary["test"] or run.summary["val"]
        cells = [
            s["train"]["top1"],
            s["val"].get("top1"),
            s["test"].get("top1"),
            test.get("top5"),
            test.get("mean_class"),
        ]
        cells += [s["accuracies"].get(name) for name in "ABCD"]
        cells += [s["gap"]["normalization"], s["gap"].get("generalization")]
        row = "".join(f"<td>{'' if value is None else f'{100 * value:.1f}'}" for value in cells)
        body += f"<tr><td>{html.escape(run.name)}{row}</tr>"
    return f"<div class=scroll><table>{head}{body}</table></div>"


def confusion_figure(run: Run, class_names: list[str]) -> go.Figure:
    """Share of each class's clips (row) that got each class (column); on the diagonal each class's own accuracy.

    Classes that neither a clip has nor an answer named are left out: part of a data set has few of its classes.
    """
    counts_KK = np.array(run.summary["confusion"])
    there_C = np.flatnonzero(counts_KK.sum(axis=0) + counts_KK.sum(axis=1))
    counts_CC, names = counts_KK[np.ix_(there_C, there_C)], [class_names[k] for k in there_C]
    share_CC = counts_CC / counts_CC.sum(axis=1, keepdims=True).clip(min=1)
    figure = go.Figure(
        go.Heatmap(
            x=names, y=names, z=100 * share_CC, zmin=0, zmax=100, colorscale="Blues",
            hovertemplate="%{y} taken for %{x}: %{z:.0f} %<extra></extra>",
        )
    )  # fmt: skip
    # Long names of many classes are read by pointing at a square; beside the axes they would leave no room for it.
    shown = len(names) <= 30
    return style(figure, f"What {run.name} takes for what (%)").update_layout(
        height=560, margin={"l": 160, "b": 160} if shown else {},
        xaxis={"showticklabels": shown, "title": "first choice"},
        yaxis={"showticklabels": shown, "autorange": "reversed", "title": "class"},
    )  # fmt: skip


def confused_pairs(run: Run, class_names: list[str]) -> list[tuple[str, str, int, int]]:
    """(class, what it was taken for, how often, of how many clips), the most frequent first."""
    counts_KK = np.array(run.summary["confusion"])
    wrong_KK = counts_KK * (1 - np.eye(len(counts_KK), dtype=np.int64))
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:WORST]
    pairs = [(int(place) // len(counts_KK), int(place) % len(counts_KK)) for place in order]
    return [
        (class_names[true], class_names[said], int(wrong_KK[true, said]), int(counts_KK[true].sum()))
        for true, said in pairs
        if wrong_KK[true, said]
    ]


def class_table(run: Run, class_names: list[str]) -> str:
    """Accuracy of each class, the lowest first, and what its clips are taken for most."""
    counts_KK = np.array(run.summary["confusion"])
    clips_K, right_K = counts_KK.sum(axis=1), np.diag(counts_KK)
    body = ""
    for k in sorted(np.flatnonzero(clips_K), key=lambda k: (right_K[k] / clips_K[k], k)):
        body += f"<tr><td>{html.escape(class_names[k])}<td>{100 * right_K[k] / clips_K[k]:.1f}<td>{clips_K[k]}</tr>"
    pairs = "".join(
        f"<tr><td>{html.escape(true)}<td class=word>{html.escape(said)}<td>{times} of {clips}</tr>"
        for true, said, times, clips in confused_pairs(run, class_names)
    )
    return (
        f"<div class=two><div class=scroll><table><tr><th>class<th>accuracy, %<th>clips</tr>{body}</table></div>"
        f"<div class=scroll><table><tr><th>class<th>taken for<th>how often</tr>{pairs}</table></div></div>"
    )


def classes_section(runs: list[Run], file: SkeletonFile) -> str:
    """The classes of the best run; nothing where no run has a confusion matrix (runs of earlier versions)."""
    known = [run for run in runs if run.summary.get("confusion")]
    if not known:
        return ""
    best, names = max(known, key=lambda run: run.eval_top1), list(file.class_names)
    title = f"The classes: {best.name} on {best.summary['eval']} clips"
    there = {names[label] for label in np.unique(file.clips["label"])}
    pairs = [(true, said) for true, said, _, _ in confused_pairs(best, names) if said in there]
    played = "".join(
        f"<div class=two>{moving(file, typical(file, names.index(true)), true)}"
        f"{moving(file, typical(file, names.index(said)), f'{said}, what {true} is taken for')}</div>"
        for true, said in pairs[:PLAYED]
    )
    return (
        f"<h2>{html.escape(title)}</h2>{div(confusion_figure(best, names))}{class_table(best, names)}"
        f"{f'<h2>Taken for each other most</h2>{played}' if played else ''}"
    )


def study_table(study: Path) -> str:
    """The trials of a search, best first, or of a study, arm by arm."""
    path = study / "results.json"
    if not path.exists():
        raise ValueError(
            f"{study} has no results.json; run python -m tuning.search or tuning.study --out {study} first"
        )
    document = files.read_json(path, "trials")
    trials, arms = document["trials"], document.get("arms")
    if not trials:
        return f"<h2>The {'search' if arms is None else 'study'}: no trials yet</h2>"
    hidden = ("error", "generalization_gap", "attempts")
    columns = [key for key in trials[0] if key not in hidden and any(trial.get(key) is not None for trial in trials)]
    short = {"normalization_gap": "norm. gap", "train.batch_size": "batch"}
    head = "".join(f"<th>{html.escape(short.get(column, column.split('.')[-1]))}" for column in columns)
    body = ""
    for trial in trials:
        body += "<tr>" + "".join(_cell(column, trial.get(column)) for column in columns) + "</tr>"
    title = (
        f"The search: {len(trials)} settings, judged on held-out subjects of the training part"
        if arms is None
        else f"The study: {len(arms)} arms in {len(trials)} rows, one an arm and seed; effects are in its report.html"
    )
    return f"<h2>{title}</h2><div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float) and "." not in column:
        return f"<td>{100 * value:.1f}"
    if isinstance(value, float):
        return f"<td>{value:.2g}"
    return f"<td{' class=word' if isinstance(value, str) else ''}>{'' if value is None else html.escape(str(value))}"


def best_tracked(file: SkeletonFile) -> int:
    """The first clip of those with most bodies, tracked in the largest share of their frames."""
    frames_N, first_N = file.clips["frames"], file.clips["first_body"]
    seen_R = np.concatenate([[0], np.cumsum(file.present_R)])
    seen_B = seen_R[file.body_start + frames_N[file.body_clip]] - seen_R[file.body_start]
    return int(np.argmax(np.add.reduceat(seen_B / frames_N[file.body_clip], first_N)))


def typical(file: SkeletonFile, label: int) -> int:
    """The clip of a class that is the middle one in length."""
    of_class = np.flatnonzero(np.asarray(file.clips["label"]) == label)
    order = np.argsort(file.clips["frames"][of_class], kind="stable")
    return int(of_class[order[len(order) // 2]])


def moving(file: SkeletonFile, index: int, caption: str) -> str:
    """A clip that the page plays (page.js), with its caption."""
    frames, first = int(file.clips["frames"][index]), int(file.clips["first_body"][index])
    drawn = []
    for body in range(first, first + int(file.clips["bodies"][index])):
        rows = slice(int(file.body_start[body]), int(file.body_start[body]) + frames)
        joints = np.round(np.asarray(file.joints_RV3[rows], dtype=np.float64), 3).tolist()
        drawn.append({"joints": joints, "present": np.asarray(file.present_R[rows]).tolist()})
    clip = {"frames": frames, "fps": file.fps, "bones": np.asarray(file.bones).tolist(), "bodies": drawn}
    return (
        f"<figure class=clip><canvas></canvas><figcaption>{html.escape(caption)}</figcaption>"
        f"<script type='application/json'>{_json(clip)}</script></figure>"
    )


def page(runs: list[Run], study: Path | None, file: SkeletonFile) -> str:
    """The whole page as text."""
    script = Path(__file__).with_suffix(".js").read_text()
    sick, title = patient(runs), html.escape(headline(runs))
    verdicts = "".join(
        f"<p><b>{html.escape(run.name)}</b>: {html.escape(run.doctor['verdict'])}</p>" for run in runs if run.doctor
    )
    fall = waterfall_figure(sick.name, sick.summary["accuracies"], sick.summary["gap"])
    picture = div(recalibration_figure(sick)) if sick.doctor and sick.doctor["recalibration"] else ""
    shown = best_tracked(file)
    name, label, frames = (file.clips[key][shown] for key in ("name", "label", "frames"))
    caption = f"{name}, {file.class_names[int(label)]}, as the network gets it: centred, {frames} frames"
    parts = [
        f"<h1>{title}</h1><p class=sub>{html.escape(setting(sick))}</p>{answer(runs)}",
        f"<div class=two>{div(arms_figure(runs))}{div(fall)}</div>",
        f"<h2>The doctor</h2><div class=two><div>{verdicts or 'No run has a doctor.json yet.'}</div>{picture}</div>",
        f"<h2>Training</h2>{div(curves_figure(runs))}{runs_table(runs)}<p class=note>{LEGEND}</p>",
        classes_section(runs, file),
        study_table(study) if study else "",
        f"<h2>A clip</h2>{moving(file, shown, caption)}<script>{script}</script>",
    ]
    return document(title, parts)


def document(title: str, parts: list[str]) -> str:
    """A page that needs no network: style and plotly inside. `title` and `parts` are HTML."""
    css = Path(__file__).with_suffix(".css").read_text()
    head = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f"<title>{title}</title><meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<style>{css}</style><script>{get_plotlyjs()}</script></head><body>",
    ]
    return "\n".join([*head, *parts, "</body></html>"])


def setting(run: Run) -> str:
    """Data, sizes and schedule in one line."""
    config, clips = run.summary["config"], run.summary["clips"]
    return (
        f"{Path(config['data']).name}, {run.summary['protocol']}: {clips['train']} training, {clips['val']} held-out "
        f"and {clips['test']} test clips; network {config['model']['name']}, {config['train']['epochs']} epochs, batch "
        f"{config['train']['batch_size']}, {run.summary['ranks']} rank(s) on {run.summary['device']}, "
        f"seed {config['train']['seed']}"
    )


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def div(figure: go.Figure) -> str:
    """A figure as HTML; the page brings plotly's script."""
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False})
    return text


def style(figure: go.Figure, title: str) -> go.Figure:
    """The look of every figure."""
    figure.update_traces(textangle=0, selector={"type": "bar"})  # turned into a narrow bar, an 8 reads as infinity
    return figure.update_layout(
        title={"text": title, "font_size": 15},
        template="plotly_white",
        height=340,
        margin={"l": 40, "r": 10, "t": 44, "b": 40},
        legend={"orientation": "h", "y": -0.2},
    )


def hundred(values: list[float]) -> list[float]:
    """Fractions in %."""
    return [100 * value for value in values]


def _pct(value: float) -> str:
    return f"{100 * value:.0f} %"


def main() -> int:
    """Entry of `python -m pipeline.page`; returns the exit code."""

    def command(
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help="Finished run folders.")],
        out: Annotated[Path, tyro.conf.arg(help="The page to write.")],
        study: Annotated[
            Path | None, tyro.conf.arg(help="Folder of tuning.search or tuning.study, shown as a table.")
        ] = None,
    ) -> tuple[tuple[Path, ...], Path, Path | None]:
        """Arguments: finished run folders; the page to write; a study folder whose table to show."""
        return runs, out, study

    folders, out, study = tyro.cli(command, prog="python -m pipeline.page", description=__doc__)
    try:
        files.require_suffix("--out", out, ".html")
        runs = told_apart([read_run(folder) for folder in folders], folders)
        if not runs:
            raise ValueError("name at least one run folder")
        file = run_folder.Run(folders[0], fast_start=True).data
        for folder in folders[1:]:
            if run_folder.Run(folder).data_sha256 != file.content_sha256:
                raise ValueError(f"{folder} was trained on another file than {file.path} is; a page shows runs on one")
        files.publish_text(out, page(runs, study, file))
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return exits.report(error)
    print(out.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
