"""Say why a run's batch norms evaluate badly, and repair it.

    python -m pipeline.doctor runs/bn-loop
    python -m pipeline.doctor runs/bn-loop --split test --html report.html
    python -m pipeline.doctor runs/bn-loop --fix
    python -m pipeline.doctor runs/bn-loop --probe-lr 3 --fine-tune 20

Leaves RUN/doctor.json. --fix writes the repaired run to RUN-fixed (or --out): the same weights, nothing retrained, its
accuracy before and after in its summary.json. --probe-lr and --fine-tune train copies, for what no other statistics can
show. RUN itself stays as it is. Exit codes: 0 ok, 2 wrong settings, 6 damaged file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.doctor import probes
from pipeline.doctor.patient import diagnose_run
from pipeline.doctor.repair import destination, fix_run
from pipeline.normdoctor import Cause, Diagnosis, GeneralizationLoss, Suspicion
from pipeline.pages import diagnosis as pages
from pipeline.tracking import report
from preprocessing import exits, files
from preprocessing.pages import Provenance


@dataclass(frozen=True)
class Command:
    """Arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    split: Literal["auto", "val", "test"] = "auto"
    """Clips to evaluate on; auto: val where it was held out, else test."""
    fix: bool = False
    """Write the repaired run."""
    out: Path | None = None
    """Folder of the repaired run; RUN-fixed if not given."""
    probe_lr: int = 0
    """Epochs at a tenth of the last learning rate, to see whether it was not decayed; 0: none."""
    fine_tune: int = 0
    """Epochs of each trained remedy (statistics frozen, layer swapped, input scaled anew, and nothing changed), about
    20: after 5, weights have not settled to a new norm; 0: none."""
    html: Path | None = None
    """Page to write the diagnosis to."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Record the verdict on W&B too, as a run of its own beside the training's. Off: doctor.json has it all."""


def show(diagnosis: Diagnosis, console: Console) -> None:
    """The verdict first, then the figures."""
    console.print(f"\n[bold]{diagnosis.verdict}[/bold]\n")
    table = Table("statistics", "A train", "C evaluation")
    four = diagnosis.accuracies
    lines: dict[str, dict[str, Any]] = {"running": four, "batch (B, D)": {"A": four["B"], "C": four.get("D")}}
    for name, values in (lines | diagnosis.recalibration).items():
        if name == "eval":
            continue  # running statistics: the first line
        cells = [f"{100 * values[k]:.1f} %" if values.get(k) is not None else "" for k in "AC"]
        table.add_row(name if name in lines else f"recalibrated: {name}", *cells)
    console.print(table)
    entries: list[Cause | Suspicion | GeneralizationLoss] = [*diagnosis.causes, *diagnosis.suspicions, *diagnosis.rest]
    for entry in entries:
        console.print(f"[bold]{entry.check}[/bold]: {entry.remedy}")


def main() -> int:
    """Entry of `python -m pipeline.doctor`; returns the exit code."""
    command = tyro.cli(Command, prog="python -m pipeline.doctor", description=__doc__)
    console = Console()
    try:
        files.require_suffix("--html", command.html, ".html")
        if command.out is not None and not command.fix:
            raise ValueError("--out names the repaired run: add --fix")
        if min(command.probe_lr, command.fine_tune) < 0:
            raise ValueError("--probe-lr and --fine-tune are numbers of epochs, 0 or more")
        run = command.run.resolve()  # "." has no name
        out = destination(run, command.out) if command.fix else None
        torch.manual_seed(0)
        diagnosis, judged = diagnose_run(run, command.split)
        show(diagnosis, console)
        answer: dict[str, Any] = {"judged": judged, **diagnosis.as_dict()}
        # Written before and after each further part, so that what one of them refuses costs only itself.
        files.publish_json(run / "doctor.json", answer)
        if command.probe_lr:
            answer["probe_lr"] = probes.probe_rate(run, judged, command.probe_lr)
            console.print(answer["probe_lr"]["text"])
            files.publish_json(run / "doctor.json", answer)
        if command.fine_tune:
            answer["fine_tune"] = probes.fine_tunes(run, judged, command.fine_tune)
            for entry in answer["fine_tune"].values():
                console.print(entry["text"])
            files.publish_json(run / "doctor.json", answer)
        if command.fix:
            answer["fix"] = fix_run(run, out)
            console.print(described(answer["fix"]), highlight=False)
            files.publish_json(run / "doctor.json", answer)
        print(f"written: {command.run / 'doctor.json'}")
        report.record_diagnosis(run, answer, command.wandb)
        if command.html is not None:
            files.publish_text(
                command.html, pages.page(run.name, answer, Provenance.of("pipeline.doctor", sys.argv[1:]))
            )
            print(command.html.resolve())
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return exits.report(error)
    return 0


def described(fix: dict[str, Any] | None) -> str:
    """What the repair brought, in one line."""
    if fix is None:
        return "nothing to repair: no other statistics do better on the training clips beyond their noise"
    before, after = (fix[key]["accuracies"] for key in ("before", "after"))
    names = [name for name in "AC" if name in before]
    moves = ", ".join(f"{name} {100 * before[name]:.1f} -> {100 * after[name]:.1f} %" for name in names)
    split = f" (C: {fix['eval']})" if "C" in names else ""
    return f"repaired ({fix['remedy']}): {moves}{split}; nothing retrained: {escape(fix['out'])}"


if __name__ == "__main__":
    sys.exit(main())
